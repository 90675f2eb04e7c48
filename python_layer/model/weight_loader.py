"""Weights from safetensors checkpoints, each copied once from the mapped file into the process's own memory."""

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import STORAGE, convert
from python_layer.model.hub import resolve_model
from python_layer.model.safetensors_file import SIZES, SafetensorsFile
from python_layer.utils.errors import WeightError
from python_layer.utils.host_memory import anonymous_buffer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ALIGNMENT = 64
CHUNK = 1 << 18
"""Elements converted at a time: small enough to stay in the L2 cache."""
THREADS = 4
MOST_PROBLEMS = 20

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), from several threads."""


@dataclass(frozen=True)
class WeightSpec:
    """A weight of the graph and where its rows come from.

    Attributes:
        name: The weight's name in the graph.
        shape: Its shape.
        sources: The checkpoint's tensors, (name, shape), that make it up along the first axis.
        dtype: Its type in memory; None is the model's.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[tuple[str, tuple[int, ...]], ...]
    dtype: str | None = None


class LoadedWeights(Mapping[str, NDArray[np.generic]]):
    """Weights by name, in one block of memory; bfloat16 as uint16.

    Args:
        arrays: The weights, views of one block.
        dtypes: Their types by name.
        nbytes: Bytes of the block in use.
    """

    def __init__(self, arrays: dict[str, NDArray[np.generic]], dtypes: dict[str, str], nbytes: int) -> None:
        self._arrays = arrays
        self._dtypes = dtypes
        self.nbytes = nbytes

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        """The weight of this name."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """The number of weights."""
        return len(self._arrays)

    def dtype_of(self, name: str) -> str:
        """float32, bfloat16 or float16."""
        return self._dtypes[name]


class WeightLoader:
    """A checkpoint folder's weights: one safetensors file, or several with an index.

    Args:
        path_or_hub_id: Folder or hub id.
        progress: Told how many bytes are loaded.

    Raises:
        ConfigError: There is no such folder or hub model.
    """

    def __init__(self, path_or_hub_id: str | Path, *, progress: Progress | None = None) -> None:
        self.path = resolve_model(path_or_hub_id)
        self._progress = progress

    def load(self, specs: Sequence[WeightSpec], dtype: str, *, unused: Collection[str] = ()) -> LoadedWeights:
        """Loads every weight of ``specs``.

        Args:
            specs: What the model needs.
            dtype: Type in memory of the specs that state none: float32, bfloat16 or float16.
            unused: Tensors the checkpoint may have though no spec names them.

        Raises:
            WeightError: Lists every missing, unexpected or mis-shaped tensor and every damaged file.
        """
        files = self._open()
        tensors = {name: file for file in files for name in file.entries}
        _check(specs, tensors, unused, self.path)

        dtypes = {spec.name: spec.dtype or dtype for spec in specs}
        sizes = [math.prod(spec.shape) * SIZES[dtypes[spec.name]] for spec in specs]
        offsets = [0, *itertools.accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
        block = anonymous_buffer(offsets[-1])
        arrays = {}
        for spec, offset, size in zip(specs, offsets, sizes, strict=False):
            storage = STORAGE[dtypes[spec.name]]
            arrays[spec.name] = block[offset : offset + size].view(storage).reshape(spec.shape)
        self._fill(specs, tensors, arrays, dtypes)
        return LoadedWeights(arrays, dtypes, offsets[-1])

    def _fill(
        self,
        specs: Sequence[WeightSpec],
        tensors: Mapping[str, SafetensorsFile],
        arrays: Mapping[str, NDArray[np.generic]],
        dtypes: Mapping[str, str],
    ) -> None:
        jobs = []
        for spec in specs:
            row = 0
            for source, shape in spec.sources:
                jobs.append((source, arrays[spec.name][row : row + shape[0]], dtypes[spec.name]))
                row += shape[0]
        total = sum(_source_bytes(tensors[source], source) for source, _, _ in jobs)
        done = 0
        with ThreadPoolExecutor(THREADS) as pool:
            for size in pool.map(lambda job: _copy(tensors[job[0]], *job), jobs):
                done += size
                if self._progress:
                    self._progress(done, total)

    def _open(self) -> list[SafetensorsFile]:
        index = self.path / INDEX_FILE
        if not index.exists():
            single = self.path / SINGLE_FILE
            if not single.exists():
                raise WeightError(f"{self.path} has neither {SINGLE_FILE} nor {INDEX_FILE}; a checkpoint has one of them")
            return [SafetensorsFile(single)]
        placed = _read_index(index)
        files, problems = {}, []
        for name in sorted(set(placed.values())):
            try:
                files[name] = SafetensorsFile(self.path / name)
            except WeightError as error:
                problems.append(str(error))
        for tensor, name in placed.items():
            if name in files and tensor not in files[name].entries:
                problems.append(f"{INDEX_FILE} places {tensor} in {name}, which does not hold it")
        _raise_if_any(problems, self.path)
        return list(files.values())


def _copy(file: SafetensorsFile, source: str, target: NDArray[np.generic], dtype: str) -> int:
    """Copies one tensor into its place, chunk by chunk; returns the bytes read."""
    entry = file.entries[source]
    values = file.bytes_of(source).view(STORAGE[entry.dtype].newbyteorder("<"))
    flat = target.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        convert(values[part], entry.dtype, flat[part], dtype)
        if dtype == "float16" and entry.dtype != dtype and np.isinf(flat[part]).any():
            raise WeightError(f"{file.path}: {source} has values beyond float16; load it as bfloat16 or float32")
    file.release(source)
    return entry.end - entry.begin


def _source_bytes(file: SafetensorsFile, source: str) -> int:
    return file.entries[source].end - file.entries[source].begin


def _read_index(index: Path) -> dict[str, str]:
    """Tensor name -> file name, each a plain name inside the folder."""
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise WeightError(f"{index} can't be read: it must be JSON with a weight_map ({error})") from None
    if not isinstance(placed, dict) or not placed:
        raise WeightError(f"{index} has a weight_map that is not an object with entries")
    for tensor, name in placed.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightError(f"{index} places {tensor} in {name!r}; it must name a .safetensors file beside it")
    return placed


def _check(
    specs: Sequence[WeightSpec], tensors: Mapping[str, SafetensorsFile], unused: Collection[str], folder: Path
) -> None:
    problems = []
    wanted = dict(source for spec in specs for source in spec.sources)
    for name, shape in wanted.items():
        if name not in tensors:
            problems.append(f"{name} is missing")
            continue
        entry = tensors[name].entries[name]
        if entry.shape != shape:
            problems.append(f"{name} has shape {list(entry.shape)}, config.json asks for {list(shape)}")
        if entry.dtype not in SIZES:
            problems.append(f"{name} has type {entry.dtype}; supported are F32, BF16 and F16")
    for name in tensors:
        if name not in wanted and name not in unused and not name.endswith("rotary_emb.inv_freq"):
            problems.append(f"{name} is unexpected")
    _raise_if_any(problems, folder)


def _raise_if_any(problems: Sequence[str], folder: Path) -> None:
    if problems:
        more = len(problems) - MOST_PROBLEMS
        listed = "; ".join(problems[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise WeightError(f"the weights in {folder} do not fit the model: {listed}")
