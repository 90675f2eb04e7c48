"""Weights of a checkpoint, each copied once from the mapped file into the process's memory."""

import hashlib
import itertools
import math
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from python_layer.model.checkpoint import Checkpoint, open_checkpoint
from python_layer.model.dtype_conversion import STORAGE, convert
from python_layer.model.fp8 import SCALED_ROWS, Fp8Format, Fp8Tensor
from python_layer.model.hub import resolve_model
from python_layer.model.packing import pack_quantized_rows, pack_rows, pack_scaled_rows
from python_layer.model.quantized import QuantFormat
from python_layer.model.tensor_source import TensorSource, float_rows, quantized_rows
from python_layer.model.weight_cache import WeightCache, fingerprint
from python_layer.model.weight_spec import Float8Part, WeightSpec
from python_layer.utils.cores import choose_threads
from python_layer.utils.errors import ConfigError, WeightError
from python_layer.utils.file_pages import FilePages
from python_layer.utils.host_memory import anonymous_buffer

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""
PIECE = 1 << 22
"""Elements copied by one task: bounds the file's pages in memory and spreads large tensors over threads."""
COMPUTED_PIECE = 1 << 19
"""Likewise, of tensors whose rows have to be computed, in arrays several times as large."""
MOST_PROBLEMS = 20
SUPPORTED = "F32, BF16 and F16"

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), from the thread that loads."""


class LoadedWeights(Mapping[str, NDArray[np.generic]]):
    """Weights by name, in one block of memory; bfloat16 as uint16.

    Args:
        arrays: The weights, views of one block.
        dtypes: Their types by name.
        nbytes: Bytes of the block in use.
        pages: What the block consists of, where it came from a file as it is.

    The block is freed when the last view of any of its weights is gone.
    """

    def __init__(
        self,
        arrays: dict[str, NDArray[np.generic]],
        dtypes: dict[str, str],
        nbytes: int,
        pages: FilePages | None = None,
    ) -> None:
        self._arrays = arrays
        self._dtypes = dtypes
        self._pages = pages
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
        """float32, bfloat16, float16, or uint8 of quantized ones."""
        return self._dtypes[name]

    @property
    def unsettled_bytes(self) -> int:
        """Bytes that are still pages of a file."""
        return self._pages.left if self._pages else 0

    def settle(self) -> None:
        """Moves what is still pages of a file to memory of the process's own, while others may read it."""
        if self._pages:
            self._pages.settle()

    def settle_after(self, seconds: float) -> None:
        """Does so on a thread, so many seconds from now, unless nobody has the weights any more."""
        settle = weakref.WeakMethod(self.settle)

        def unless_gone() -> None:
            method = settle()
            if method:
                method()

        if self.unsettled_bytes:
            timer = threading.Timer(seconds, unless_gone)
            timer.daemon = True
            timer.start()


class WeightLoader:
    """A checkpoint's weights: a folder with one safetensors file, or several with an index, or a GGUF file.

    Quantized ones (block-scaled FP8, AWQ, GPTQ, GGUF) are dequantized as they are loaded, unless their specs say how
    they are to be quantized.

    Args:
        path_or_hub_id: Folder, GGUF file or hub id.
        progress: Told how many bytes are loaded.
        cache: Keeps the packed weights for the next time; None is nothing.

    Raises:
        ConfigError: There is no such checkpoint.
    """

    def __init__(
        self, path_or_hub_id: str | Path, *, progress: Progress | None = None, cache: WeightCache | None = None
    ) -> None:
        self.path = resolve_model(path_or_hub_id)
        self._progress = progress
        self._cache = cache

    def formats(self) -> dict[str, QuantFormat | Fp8Format | None]:
        """How the checkpoint's tensors are quantized, of those that can be read; None where they are not."""
        tensors = self._checkpoint.tensors
        return {name: t.float8 if isinstance(t, Fp8Tensor) else t.format for name, t in tensors.items()}

    def stored(self) -> dict[str, str]:
        """How the files hold the checkpoint's tensors, in words, of those that can be read."""
        return {name: tensor.stored_as for name, tensor in self._checkpoint.tensors.items()}

    def check(self, specs: Sequence[WeightSpec], *, unused: Collection[str] = ()) -> None:
        """Looks for what :meth:`load` would refuse in the files' headers, without reading a weight.

        Raises:
            WeightError: As :meth:`load`.
        """
        self._checked(specs, unused)

    def load(self, specs: Sequence[WeightSpec], dtype: str, *, unused: Collection[str] = ()) -> LoadedWeights:
        """Loads every weight of ``specs``, all checked before the first is copied.

        Args:
            specs: What the model needs.
            dtype: Type in memory of the specs that state none: float32, bfloat16 or float16.
            unused: Tensors the checkpoint may have though no spec names them.

        Raises:
            ConfigError: ``dtype`` is not one of these.
            WeightError: Lists every missing, unexpected or mis-shaped tensor and every damaged file; or names a
                tensor with a value beyond float16.
        """
        if dtype not in STORAGE:
            raise ConfigError(f"the weights' dtype is {dtype!r}; supported: {', '.join(STORAGE)}")
        checkpoint = self._checked(specs, unused)
        dtypes = {spec.name: spec.dtype_in_memory(dtype) for spec in specs}
        stored = STORAGE | {name: np.dtype(name) for name in ("uint8", "int16")}
        shapes = [spec.shape_in_memory(dtype) for spec in specs]
        sizes = [
            math.prod(shape) * stored[dtypes[spec.name]].itemsize for spec, shape in zip(specs, shapes, strict=True)
        ]
        offsets = [0, *itertools.accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
        block = anonymous_buffer(offsets[-1])
        arrays = {
            spec.name: block[offset : offset + size].view(stored[dtypes[spec.name]]).reshape(shape)
            for spec, shape, offset, size in zip(specs, shapes, offsets[:-1], sizes, strict=True)
        }
        slot = hashlib.sha256(repr((str(self.path.resolve()), dtype, specs)).encode()).hexdigest()[:32]
        made_from = fingerprint(self.path) if self._cache else ""
        kept = self._cache.read(slot, made_from, block, self._counter(block.nbytes)) if self._cache else None
        if kept is None:
            pieces = [p for spec in specs for p in _pieces(spec, checkpoint, arrays[spec.name], dtypes[spec.name])]
            place = {name: number for number, name in enumerate(checkpoint.tensors)}
            self._fill(sorted(pieces, key=lambda piece: place[piece.name]))  # files are read from their beginning on
            if self._cache:
                self._cache.write(slot, made_from, block)
        return LoadedWeights(arrays, dtypes, offsets[-1], kept)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.path)

    def _checked(self, specs: Sequence[WeightSpec], unused: Collection[str]) -> Checkpoint:
        checkpoint = self._checkpoint
        problems = [*checkpoint.problems, *_misfits(specs, checkpoint, unused)]
        if problems:
            more = len(problems) - MOST_PROBLEMS
            listed = "; ".join(problems[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
            raise WeightError(f"the weights in {self.path} can't be used: {listed}")
        return checkpoint

    def _fill(self, pieces: Sequence["_Piece"]) -> None:
        count = self._counter(sum(piece.source_bytes for piece in pieces))
        # NumPy copies and converts without the interpreter's lock, and page faults go in parallel.
        with ThreadPoolExecutor(min(8, max(2, choose_threads(0)))) as pool:
            for piece, _ in zip(pieces, pool.map(_Piece.copy, pieces), strict=True):
                count(piece.source_bytes)

    def _counter(self, total: int) -> Callable[[int], None]:
        """Adds up bytes, and tells the progress of them."""
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            if self._progress:
                self._progress(done, total)

        return count


@dataclass(frozen=True)
class _Piece:
    """Rows of a checkpoint's tensor, and the weight they become rows of."""

    name: str
    source: TensorSource
    rows: range
    target: NDArray[np.generic]
    first: int
    dtype: str
    spec: WeightSpec

    @property
    def source_bytes(self) -> int:
        if self.spec.float8 is Float8Part.SCALES:
            return 0  # counted with the numbers
        return self.source.nbytes * len(self.rows) // self.source.shape[0]

    def copy(self) -> None:
        start, stop = self.rows.start, self.rows.stop
        try:
            if self.spec.float8:
                self._copy_float8(self.spec.float8)
            elif self.spec.form:
                quantized = quantized_rows(self.source, start, stop, self.spec.form)
                pack_quantized_rows(quantized, self.first, self.target.view(np.uint8))
            elif self.spec.scaled:
                pack_scaled_rows(float_rows(self.source, start, stop), self.first, self.target.view(self.spec.scaled))
            else:
                self._copy_plain(self.source.rows(start, stop))
        except OverflowError:
            why = "beyond float16; load it as bfloat16 or float32"
            if self.spec.scaled:  # int16, which has neither infinity nor NaN
                why = "that are not finite; take compute_dtype float32"
            raise WeightError(f"{self.source.path}: {self.name} has values {why}") from None
        # Else the whole file would stay in memory beside its copy until the end.
        self.source.release(start, stop)

    def _copy_float8(self, part: Float8Part) -> None:
        if not isinstance(self.source, Fp8Tensor):
            raise TypeError(f"{self.name} is not an FP8 matrix")
        if part is Float8Part.NUMBERS:
            self.target[self.first : self.first + len(self.rows)] = self.source.bits(self.rows.start, self.rows.stop)
        else:
            scales, first = self.source.gpu_scales(), self.first // SCALED_ROWS
            self.target[first : first + len(scales)] = scales

    def _copy_plain(self, part: NDArray[np.generic]) -> None:
        given = self.source.dtype
        if not self.spec.packed:
            begin = self.first * part.shape[1]
            place = self.target.reshape(-1)[begin : begin + part.size]
            convert(part.reshape(-1), given, place, self.dtype)
            return
        if given != self.dtype:
            converted = np.empty(part.shape, STORAGE[self.dtype])
            convert(part.reshape(-1), given, converted.reshape(-1), self.dtype)
            part = converted
        pack_rows(part, self.first, self.target)


def _pieces(spec: WeightSpec, checkpoint: Checkpoint, array: NDArray[np.generic], dtype: str) -> Iterator[_Piece]:
    columns = math.prod(spec.shape[1:])
    begin = 0
    for name, shape in spec.sources:
        layer, first = divmod(begin, spec.shape[0])
        target = array if spec.layers is None else array[layer]
        source = checkpoint.tensors[name]
        computed = spec.form is not None or not source.is_plain
        most = max(1, (COMPUTED_PIECE if computed else PIECE) // max(1, columns))
        if spec.float8 is Float8Part.SCALES:
            most = shape[0]
        for start in range(0, shape[0], most):
            rows = range(start, min(start + most, shape[0]))
            yield _Piece(name, source, rows, target, first + start, dtype, spec)
        begin += shape[0]


def _misfits(specs: Sequence[WeightSpec], checkpoint: Checkpoint, unused: Collection[str]) -> Iterator[str]:
    """The ways in which a checkpoint's tensors are not those that were asked for."""
    wanted = dict(source for spec in specs for source in spec.sources)
    for name, shape in wanted.items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            # Where a file can't be read, or the index and its file disagree, that is already said.
            if checkpoint.promised is not None and name not in checkpoint.promised:
                yield f"{name} is missing"
            continue
        if tensor.shape != shape:
            yield f"{name} has shape {list(tensor.shape)}, but the configuration asks for {list(shape)}"
        if tensor.dtype not in STORAGE:
            yield f"{name} has type {tensor.dtype}; supported: {SUPPORTED}"
    for name in checkpoint.tensors:
        if name not in wanted and name not in unused and not name.endswith("rotary_emb.inv_freq"):
            yield f"{name} is unexpected"
