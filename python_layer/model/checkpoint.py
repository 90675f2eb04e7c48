"""The tensors of a checkpoint folder, in one safetensors file or in several with an index."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_layer.model.safetensors_file import SafetensorsFile
from python_layer.utils.errors import WeightError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """What could be opened of a folder, and what is wrong with it.

    Attributes:
        tensors: The file of each tensor.
        problems: What is wrong, a line each: the files and the index.
        promised: Tensors that the index places in some file; None where the only file can't be read, so that
            nothing is known of what it should hold.
    """

    tensors: Mapping[str, SafetensorsFile]
    problems: tuple[str, ...]
    promised: Collection[str] | None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens every weight file of a folder; where both exist, the single file goes before the index."""
    if (folder / SINGLE_FILE).exists():
        try:
            file = SafetensorsFile(folder / SINGLE_FILE)
        except WeightError as error:
            return Checkpoint({}, (str(error),), None)
        return Checkpoint({name: file for name in file.entries}, (), ())
    if (folder / INDEX_FILE).exists():
        return _open_shards(folder)
    return Checkpoint({}, (f"there is neither {SINGLE_FILE} nor {INDEX_FILE}",), None)


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
    tensors = {name: file for file in files.values() for name in file.entries}
    return Checkpoint(tensors, tuple(problems), placed.keys())


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
