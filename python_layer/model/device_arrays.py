"""A step's small arrays on their way to a GPU: together, in one copy that nobody has to wait for."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from max.driver import Buffer, Usage
from max.dtype import DType
from numpy.typing import NDArray

ALIGNMENT = 256
"""Bytes; what the driver gives to a buffer of its own."""


def staged(arrays: Sequence[NDArray[Any]], device: Any) -> Buffer:
    """Arrays, one after the other, in page-locked memory of a device.

    From other memory the driver may copy only after all that it was given before. The memory may be let go at once: it
    is used again when the device has come to that.
    """
    offsets = _offsets(arrays)
    block = Buffer(DType.uint8, [offsets[-1]], device, Usage.STAGING | Usage.UNTRACKED)
    memory = block.to_numpy()
    for array, offset in zip(arrays, offsets, strict=False):
        memory[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return block


def views(block: Buffer, arrays: Sequence[NDArray[Any]]) -> list[Buffer]:
    """The arrays where :func:`staged` put them in a block, or where that was copied to."""
    return [
        block[offset : offset + array.nbytes].view(DType.from_numpy(array.dtype), array.shape)
        for array, offset in zip(arrays, _offsets(arrays), strict=False)
    ]


def on_device(arrays: Sequence[NDArray[Any]], device: Any) -> list[Buffer]:
    """Arrays as buffers of a device: on a CPU where they are, on a GPU copies that it is about to make."""
    if device.is_host:
        return [Buffer.from_numpy(array) for array in arrays]
    return views(staged(arrays, device).to(device), arrays)


def _offsets(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Where each of the arrays begins, and the end of all."""
    return [0, *itertools.accumulate(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)]
