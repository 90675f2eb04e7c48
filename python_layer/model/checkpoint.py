"""The tensors of a checkpoint: a folder with one safetensors file or several and an index, or a GGUF file."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from python_layer.model.gguf_checkpoint import gguf_tensors
from python_layer.model.quantization_config import read_quantization
from python_layer.model.quantized_checkpoint import Assembly
from python_layer.model.safetensors_file import PlainTensor, SafetensorsFile
from python_layer.model.tensor_source import TensorSource
from python_layer.utils.errors import WeightError
from python_layer.utils.gguf_file import GgufFile

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """What could be opened of a checkpoint, and what is wrong with it.

    Attributes:
        tensors: Each tensor, under the name it has in a checkpoint that is not quantized.
        problems: What is wrong, a line each: the files, the index, parts of quantized tensors.
        promised: Tensors that are not missing, even where they are not in ``tensors``, because it is said already
            what is wrong with them; None where the only file can't be read, so that nothing is known of what it
            should hold.
    """

    tensors: Mapping[str, TensorSource]
    problems: tuple[str, ...]
    promised: Collection[str] | None


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a GGUF file, or every weight file of a folder; the single file goes before the index."""
    if path.is_file():
        try:
            tensors, problems, broken = gguf_tensors(GgufFile(path))
        except WeightError as error:
            return Checkpoint({}, (str(error),), None)
        return Checkpoint(tensors, tuple(problems), broken)
    if (path / SINGLE_FILE).exists():
        try:
            plain = SafetensorsFile(path / SINGLE_FILE).tensors()
        except WeightError as error:
            return Checkpoint({}, (str(error),), None)
        return _assembled(path, plain, Checkpoint({}, (), ()))
    if (path / INDEX_FILE).exists():
        return _open_shards(path)
    return Checkpoint({}, (f"there is neither {SINGLE_FILE} nor {INDEX_FILE}",), None)


def _assembled(folder: Path, plain: Mapping[str, PlainTensor], opened: Checkpoint) -> Checkpoint:
    """``opened`` with the tensors of its files, the parts of quantized ones put together."""
    quantization = read_quantization(folder)
    if quantization is None:
        return replace(opened, tensors=plain)
    assembly = Assembly(plain, quantization, opened.promised or ())
    promised = None
    if opened.promised is not None:
        # What a shard that can't be read should hold is promised under the names of its parts.
        whole = {name.removesuffix("qweight") + "weight" for name in opened.promised if name.endswith(".qweight")}
        promised = {*opened.promised, *whole, *assembly.broken}
    return Checkpoint(assembly.tensors, (*opened.problems, *assembly.problems), promised)


def _open_shards(folder: Path) -> Checkpoint:
    try:
        placed = _read_index(folder / INDEX_FILE)
    except WeightError as error:
        return Checkpoint({}, (str(error),), None)
    files: dict[str, SafetensorsFile] = {}
    problems = []
    for shard in sorted(set(placed.values())):
        try:
            files[shard] = SafetensorsFile(folder / shard)
        except WeightError as error:
            problems.append(str(error))
    for name, shard in placed.items():
        if shard in files and name not in files[shard].entries:
            problems.append(f"{INDEX_FILE} places {name} in {shard}, which does not hold it")
    for shard, file in files.items():
        for name in file.entries:
            if placed.get(name) != shard:
                problems.append(f"{shard} holds {name}, which {INDEX_FILE} does not place there")
    plain = {name: tensor for file in files.values() for name, tensor in file.tensors().items()}
    return _assembled(folder, plain, Checkpoint({}, tuple(problems), placed.keys()))


def _read_index(index: Path) -> dict[str, str]:
    """Tensor name -> file name, each a plain name inside the folder."""
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightError(f"{index.name} can't be read as JSON ({error})") from None
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise WeightError(f"{index.name} lacks a weight_map from tensors to files")
    # A name with a folder in it could read files outside the checkpoint.
    wrong = {repr(name) for name in placed.values() if not _is_plain(name)}
    if wrong:
        raise WeightError(
            f"{index.name} places tensors in {', '.join(sorted(wrong))}; only plain file names are allowed"
        )
    return placed


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name not in ("", "..") and "\0" not in name
