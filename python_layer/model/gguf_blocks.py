"""The blocks of GGUF's quantized types (ggml-org/ggml, src/ggml-quants.c), decoded to groups of 32 columns.

Each block is some bytes, described beside its decoder; d and dmin are float16.
"""

import numpy as np
from numpy.typing import NDArray

from python_layer.model.quantized import QuantFormat, dequantized, quantize_rows
from python_layer.model.tensor_source import GroupedTensor, Groups
from python_layer.utils.gguf_file import GgufEntry, GgufFile

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
GROUP = 32


class GgufTensor(GroupedTensor):
    """A quantized tensor of a GGUF file.

    Args:
        file: The file.
        entry: Where in it; of a type in ``FORMATS``.
    """

    def __init__(self, file: GgufFile, entry: GgufEntry) -> None:
        super().__init__(file.path, entry.shape, entry.end - entry.begin)
        self._map = file.mapped
        self._entry = entry

    @property
    def format(self) -> QuantFormat | None:
        """By the block type."""
        return FORMATS[self._entry.type.name]

    @property
    def stored_as(self) -> str:
        """The block type."""
        return self._entry.type.name

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        if self._entry.type.name != "Q6_K":
            return super().rows(start, stop)
        return q6_k(self._blocks(start, stop)).reshape(stop - start, -1)

    def decode(self, start: int, stop: int) -> Groups:
        """Q6_K, which has groups of 16, is rounded to 8 bits in groups of 32; the others are exact."""
        if self._entry.type.name == "Q6_K":
            rounded = quantize_rows(q6_k(self._blocks(start, stop)).reshape(stop - start, -1), 8, GROUP)
            return Groups(rounded.values, rounded.scales.astype(np.float32), None)
        decode = {"Q8_0": q8_0, "Q4_0": q4_0, "Q4_K": q4_k}[self._entry.type.name]
        values, scales, offsets = decode(self._blocks(start, stop))
        rows = stop - start
        shifts = None if offsets is None else offsets.reshape(rows, -1)
        return Groups(values.reshape(rows, -1), scales.reshape(rows, -1), shifts)

    def release(self, start: int, stop: int) -> None:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        self._map.release(*self._span(start, stop))

    def _blocks(self, start: int, stop: int) -> Bytes:
        """The blocks [B, bytes of a block] of these rows."""
        whole: Bytes = self._map.array(*self._span(start, stop), np.dtype(np.uint8))
        return whole.reshape(-1, self._entry.type.nbytes)

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        row = self.nbytes // self.shape[0]
        return self._entry.begin + start * row, self._entry.begin + stop * row


FORMATS = {
    "Q8_0": QuantFormat(8, GROUP, False),
    "Q4_0": QuantFormat(4, GROUP, False),
    "Q4_K": QuantFormat(4, GROUP, True),
    "Q6_K": QuantFormat(8, GROUP, False),
}
"""The block types that are decoded, and what they become."""


def q8_0(blocks: Bytes) -> Groups:
    """d, then 32 signed bytes q: w = d q."""
    return Groups(blocks[:, 2:] ^ np.uint8(0x80), _halves(blocks[:, :2]), None)


def q4_0(blocks: Bytes) -> Groups:
    """d, then 16 bytes with q of columns 0 to 15 in the low bits and of 16 to 31 in the high ones: w = d (q - 8)."""
    return Groups(_nibbles(blocks[:, 2:], 16), _halves(blocks[:, :2]), None)


def q4_k(blocks: Bytes) -> Groups:
    """Eight groups of 32: d, dmin, 12 bytes of scales and minima of six bits, 128 bytes of q.

    In group j, w = d scale[j] q - dmin minimum[j]. Of each 32 bytes of q the low bits are one group, the high ones the
    next. The twelve bytes have the scales of groups 0 to 3 and then their minima in the low six bits; the low four of
    the last four bytes are the low bits of scales 4 to 7, the high four those of the minima, and the two highest bits
    of the first eight bytes are theirs.
    """
    d, dmin = _halves(blocks[:, :2]), _halves(blocks[:, 2:4])
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return Groups(_nibbles(blocks[:, 16:], 32), d * scales, dmin * minima)


def q6_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16: 128 bytes with q's low four bits, 64 with its high two, 16 signed bytes of scales, d.

    w = d scale[j] (q - 32). A half of 128 columns has 64 bytes of low bits: columns 0 to 63 in the low four of each,
    64 to 127 in the high four; and 32 bytes of high bits: two for each of columns 0 to 31, 32 to 63 and so on, the
    lowest first.
    """
    low, high = blocks[:, :128].reshape(-1, 2, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    lows = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    values = (lows | ((high >> shifts & 3) << 4)).reshape(len(blocks), 256)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32) * _halves(blocks[:, 208:])
    return dequantized(values, scales, scales * np.float32(32), 8)


def _nibbles(packed: Bytes, run: int) -> Bytes:
    """Of each ``run`` bytes first the low four bits of all, then the high four."""
    runs = packed.reshape(len(packed), -1, 1, run)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(packed), -1)


def _halves(two_bytes: Bytes) -> Floats:
    return np.ascontiguousarray(two_bytes).view("<f2").astype(np.float32)
