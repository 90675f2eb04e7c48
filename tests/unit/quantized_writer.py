"""Layers of quantized checkpoints, written from the definitions of their formats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Parts = dict[str, tuple[str, NDArray[Any]]]
AWQ_CONFIG: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ_CONFIG: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
FP8_CONFIG: dict[str, Any] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
FP8_CONFIG |= {"activation_scheme": "dynamic"}
AWQ_LANES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each four bits of a word hold, the lowest bits first."""


@dataclass(frozen=True)
class Layer:
    """A matrix's tensors, by the ends of their names, and the numbers [N, K] they stand for."""

    parts: Parts
    exact: NDArray[np.float64]


def rounded(
    values: NDArray[np.float32], bits: int, group: int, symmetric: bool
) -> tuple[NDArray[np.int64], NDArray[np.float16], NDArray[np.int64]]:
    """q [N, K], scales and zeros [N, K / group]."""
    most = (1 << bits) - 1
    grouped = values.reshape(len(values), -1, group).astype(np.float64)
    low, high = np.minimum(grouped.min(2), 0), np.maximum(grouped.max(2), 0)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    scales = ((high - low) / most).astype(np.float16)
    zeros = np.full(scales.shape, 1 << (bits - 1)) if symmetric else np.rint(-low / scales).astype(np.int64)
    q = np.rint(grouped / scales[:, :, None].astype(np.float64)) + zeros[:, :, None]
    return np.clip(q, 0, most).astype(np.int64).reshape(values.shape), scales, zeros


def meant(
    q: NDArray[np.int64], scales: NDArray[np.float16], zeros: NDArray[np.int64], group_of: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(q - zero) * scale, with the group of each column."""
    return (q - zeros[:, group_of]) * scales.astype(np.float64)[:, group_of]


def pack(numbers: NDArray[np.int64], bits: int, lanes: Sequence[int]) -> NDArray[np.int32]:
    """Numbers [R, C] to words [R, C / len(lanes)], lane i of each holding number ``lanes[i]`` of its few."""
    words = np.zeros((len(numbers), numbers.shape[1] // len(lanes)), np.uint64)
    for lane, place in enumerate(lanes):
        words |= numbers[:, place :: len(lanes)].astype(np.uint64) << np.uint64(bits * lane)
    return words.astype(np.uint32).view(np.int32)


def awq(values: NDArray[np.float32], group: int) -> Layer:
    q, scales, zeros = rounded(values, 4, group, symmetric=False)
    parts: Parts = {
        "qweight": ("int32", pack(q.T, 4, AWQ_LANES)),
        "qzeros": ("int32", pack(zeros.T, 4, AWQ_LANES)),
        "scales": ("float16", np.ascontiguousarray(scales.T)),
    }
    return Layer(parts, meant(q, scales, zeros, np.arange(values.shape[1]) // group))


def gptq(
    values: NDArray[np.float32],
    group: int,
    *,
    bits: int = 4,
    symmetric: bool = True,
    shift: int = 1,
    order: NDArray[np.int64] | None = None,
) -> Layer:
    """``order`` is the sequence in which columns were quantized ("desc_act"): groups follow it."""
    columns = values.shape[1]
    order = np.arange(columns) if order is None else order
    q, scales, zeros = rounded(values[:, order], bits, group, symmetric)
    q, group_of = q[:, np.argsort(order)], np.argsort(order) // group
    lanes = range(32 // bits)
    parts: Parts = {
        "qweight": ("int32", np.ascontiguousarray(pack(q, bits, lanes).T)),
        "qzeros": ("int32", pack(zeros.T - shift & (1 << bits) - 1, bits, lanes)),
        "scales": ("float16", np.ascontiguousarray(scales.T)),
        "g_idx": ("int32", group_of.astype(np.int32)),
    }
    return Layer(parts, meant(q, scales, zeros, group_of))


def e4m3(code: int) -> float:
    """One byte's number, by the definition of the format."""
    exponent, mantissa = code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if code >> 7 else size


def fp8(values: NDArray[np.float32], block: tuple[int, int] = (128, 128), dtype: str = "float32") -> Layer:
    """``dtype`` is that of the scales."""
    rows, columns = values.shape
    numbers = np.array([e4m3(code) for code in range(127)])  # those above zero, in rising order
    scales = np.empty((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    codes = np.empty((rows, columns), np.uint8)
    exact = np.empty((rows, columns))
    for i, j in np.ndindex(scales.shape):
        place = np.s_[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
        part = values[place].astype(np.float64)
        scale = np.array([np.abs(part).max() / 448], np.float32)
        if dtype == "bfloat16":
            scale = (scale.view(np.uint32) & 0xFFFF0000).view(np.float32)
        scales[i, j] = scale[0]
        sizes = np.abs(part / float(scale[0]))
        nearest = np.searchsorted((numbers[1:] + numbers[:-1]) / 2, sizes)
        codes[place] = nearest + np.where(part < 0, 128, 0)
        exact[place] = np.where(part < 0, -1, 1) * numbers[nearest] * float(scale[0])
    stored = (scales.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else scales
    return Layer({"weight": ("float8_e4m3fn", codes), "weight_scale_inv": (dtype, stored)}, exact)
