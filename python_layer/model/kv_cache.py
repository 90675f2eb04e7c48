"""The paged KV cache's memory: one buffer of pages, each with every layer's keys and values of some positions."""

import math
from dataclasses import dataclass

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from numpy.typing import NDArray

from python_layer.model.config import Qwen3Config
from python_layer.utils.host_memory import anonymous_buffer

SCALE_BYTES = 4
"""Bytes of a row's scale, a float32, in a cache of integers."""


def scale_numbers(dtype: DType) -> int:
    """Numbers of a cache's type that take as much room as a row's scale; 0 where rows have none."""
    return SCALE_BYTES // int(dtype.size_in_bytes) if dtype.is_integral() else 0


@dataclass(frozen=True)
class KVCacheLayout:
    """Shape of a page: [layers, 2 (keys, values), kv_heads, page_size, row].

    A row is head_dim numbers; in an int8 or int16 cache four bytes more, for its scale. How they lie is described in
    ``mojo_kernels/memory/kv_cache.mojo``.

    Attributes:
        page_shape: As above.
        dtype: float32, bfloat16, float16, int8 or int16.
    """

    page_shape: tuple[int, int, int, int, int]
    dtype: DType

    @classmethod
    def of(cls, config: Qwen3Config, page_size: int, dtype: DType) -> "KVCacheLayout":
        """The layout for a model."""
        row = config.head_dim + scale_numbers(dtype)
        return cls((config.num_hidden_layers, 2, config.num_key_value_heads, page_size, row), dtype)

    @property
    def page_size(self) -> int:
        """Positions per page."""
        return self.page_shape[3]

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return math.prod(self.page_shape) * int(self.dtype.size_in_bytes)

    def pages_for(self, tokens: int) -> int:
        """Pages that hold this many tokens of one request."""
        return -(-tokens // self.page_size)

    def allocate(self, pages: int) -> Buffer:
        """A cache of so many pages; memory is taken from the system as pages are first written."""
        return self.allocate_with_memory(pages)[1]

    def allocate_with_memory(self, pages: int) -> tuple[NDArray[np.uint8], Buffer]:
        """The memory of so many pages as bytes [pages, page_bytes], and the cache that lies in it."""
        memory = anonymous_buffer(pages * self.page_bytes)
        cache = Buffer.from_numpy(memory).view(self.dtype, (pages, *self.page_shape))
        return memory.reshape(pages, self.page_bytes), cache
