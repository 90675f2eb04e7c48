"""Matrices of AWQ and GPTQ checkpoints: integers packed into 32-bit words, with scales and zeros for groups of columns.

A linear layer with N outputs and K inputs has ``scales`` [K / group, N] and

- AWQ (arXiv:2306.00978; the "gemm" packing of AutoAWQ): ``qweight`` [K, N / 8] and ``qzeros`` [K / group, N / 8], whose
  words hold the outputs 0, 2, 4, 6, 1, 3, 5, 7 of each eight, the lowest four bits first;
- GPTQ (arXiv:2210.17323; AutoGPTQ's files): ``qweight`` [K / P, N], whose words hold P = 32 / bits inputs in order;
  ``qzeros`` [K / group, N / P], whose words hold outputs in order, each one less than meant in the format "gptq";
  ``g_idx`` [K], the group of each input.

``w[n, k] = scales[g, n] * (q[n, k] - zero[g, n])``, where g is the group of k.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import convert
from python_layer.model.quantized import QuantFormat
from python_layer.model.safetensors_file import PlainTensor
from python_layer.model.tensor_source import GroupedTensor, Groups

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Parts = Mapping[str, PlainTensor]
"""A layer's tensors by the ends of their names; their shapes and types are those above."""


class AwqTensor(GroupedTensor):
    """An AWQ matrix [N, K].

    Args:
        parts: ``qweight``, ``qzeros`` and ``scales``.
        group: Columns that share a scale.
    """

    def __init__(self, parts: Parts, group: int) -> None:
        weight = parts["qweight"]
        super().__init__(weight.path, (parts["scales"].shape[1], weight.shape[0]), _nbytes(parts))
        self._parts = parts
        self._group = group

    @property
    def format(self) -> QuantFormat | None:
        """Four bits with offsets."""
        return QuantFormat(4, self._group, True)

    @property
    def stored_as(self) -> str:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        return f"AWQ of 4 bits in groups of {self._group}"

    def decode(self, start: int, stop: int) -> Groups:
        """See :class:`~python_layer.model.tensor_source.GroupedTensor`."""
        words = slice(start // 8, -(-stop // 8))
        inside = slice(start - 8 * words.start, stop - 8 * words.start)
        values = _unpack_columns(self._parts["qweight"].whole()[:, words], 4, AWQ_ORDER)[inside]
        zeros = _unpack_columns(self._parts["qzeros"].whole()[:, words], 4, AWQ_ORDER)[inside]
        scales = _scales(self._parts["scales"], start, stop)
        return Groups(values, scales, scales * zeros)

    def release(self, start: int, stop: int) -> None:
        """Lets go of all at the end: every page holds a little of all rows."""
        _release(self._parts, stop)


class GptqTensor(GroupedTensor):
    """A GPTQ matrix [N, K].

    Args:
        parts: ``qweight``, ``qzeros``, ``scales``, and ``g_idx`` if the checkpoint has it.
        bits: 4 or 8.
        group: Columns that share a scale.
        zero_shift: What has to be added to stored zeros: 1, or 0 in the format "gptq_v2".
    """

    def __init__(self, parts: Parts, bits: int, group: int, zero_shift: int) -> None:
        weight = parts["qweight"]
        super().__init__(weight.path, (weight.shape[1], weight.shape[0] * (32 // bits)), _nbytes(parts))
        self._parts = parts
        self._bits = bits
        self._group = group
        self._zero_shift = zero_shift

    @cached_property
    def format(self) -> QuantFormat | None:
        """None where columns of a group are scattered ("desc_act"); without offsets where every zero is the middle."""
        if not np.array_equal(self._group_of, np.arange(self.shape[1]) // self._group):
            return None
        symmetric = bool((self._zeros(0, self.shape[0]) == 1 << (self._bits - 1)).all())
        return QuantFormat(self._bits, self._group, not symmetric)

    @property
    def stored_as(self) -> str:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        scattered = " of scattered columns (desc_act)" if self.format is None else ""
        return f"GPTQ of {self._bits} bits in groups of {self._group}{scattered}"

    def decode(self, start: int, stop: int) -> Groups:
        """See :class:`~python_layer.model.tensor_source.GroupedTensor`."""
        scales = _scales(self._parts["scales"], start, stop)
        symmetric = self.format is not None and not self.format.offsets
        return Groups(self._values(start, stop), scales, None if symmetric else scales * self._zeros(start, stop))

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        if self.format is not None:
            return super().rows(start, stop)
        scales = _scales(self._parts["scales"], start, stop)
        values = self._values(start, stop).astype(np.float32)
        values -= self._zeros(start, stop)[:, self._group_of]
        values *= scales[:, self._group_of]
        return values

    def release(self, start: int, stop: int) -> None:
        """Lets go of all at the end: every page holds a little of all rows."""
        _release(self._parts, stop)

    @cached_property
    def _group_of(self) -> NDArray[np.int32]:
        """The group of each column [K]."""
        if "g_idx" not in self._parts:
            return np.arange(self.shape[1], dtype=np.int32) // np.int32(self._group)
        return self._parts["g_idx"].whole()

    def _values(self, start: int, stop: int) -> NDArray[np.uint8]:
        words = self._parts["qweight"].whole()[:, start:stop].view(np.uint32)
        together = 32 // self._bits
        values = np.empty((stop - start, len(words) * together), np.uint8)
        for lane in range(together):
            values[:, lane::together] = _lane(words, lane, self._bits).T
        return values

    def _zeros(self, start: int, stop: int) -> NDArray[np.uint8]:
        together = 32 // self._bits
        words = slice(start // together, -(-stop // together))
        inside = slice(start - together * words.start, stop - together * words.start)
        zeros = _unpack_columns(self._parts["qzeros"].whole()[:, words], self._bits, range(together))[inside]
        # A zero of 0 is stored as the largest number, and comes back by wrapping around.
        return (zeros + np.uint8(self._zero_shift)) & np.uint8((1 << self._bits) - 1)


def _unpack_columns(words: NDArray[np.int32], bits: int, order: Sequence[int]) -> NDArray[np.uint8]:
    """Words [R, C] to the numbers [C * len(order), R] in them; lane i of a word is number ``order[i]`` of its few."""
    values = np.empty((words.shape[1] * len(order), len(words)), np.uint8)
    for lane, place in enumerate(order):
        values[place :: len(order)] = _lane(words.view(np.uint32), lane, bits).T
    return values


def _lane(words: NDArray[np.uint32], lane: int, bits: int) -> NDArray[np.uint8]:
    return ((words >> np.uint32(lane * bits)) & np.uint32((1 << bits) - 1)).astype(np.uint8)


def _scales(tensor: PlainTensor, start: int, stop: int) -> NDArray[np.float32]:
    """Scales [stop - start, K / group]."""
    part = np.ascontiguousarray(tensor.whole()[:, start:stop].T)
    scales = np.empty(part.shape, np.float32)
    convert(part.reshape(-1), tensor.dtype, scales.reshape(-1), "float32")
    return scales


def _nbytes(parts: Parts) -> int:
    return sum(part.nbytes for part in parts.values())


def _release(parts: Parts, stop: int) -> None:
    if stop == parts["scales"].shape[1]:
        for part in parts.values():
            part.release(0, part.shape[0])
