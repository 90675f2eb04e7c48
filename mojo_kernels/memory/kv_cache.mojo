"""The paged KV cache (PagedAttention, Kwon et al. 2023, arXiv:2309.06180, section 4).

One buffer [pages, layers, 2, kv_heads, page_size, head_dim]: a page holds `page_size` positions of one
request in every layer, keys (0) and values (1), so that copying or swapping a page is one copy.
"""

from extensibility import InputTensor

from ..utils.types import MutableInputTensor, WritePtr, untracked


@fieldwise_init
struct PagedKVCache[dtype: DType](TrivialRegisterPassable):
    """Addresses inside one layer of the cache."""

    var data: WritePtr[Self.dtype]
    var page_stride: Int
    var value_offset: Int
    var head_stride: Int
    var page_size: Int
    var head_dim: Int

    def __init__(
        out self, cache: MutableInputTensor[dtype=Self.dtype, rank=6, ...], layer: Int
    ):
        """One layer of a cache.

        Args:
            cache: [pages, layers, 2, kv_heads, page_size, head_dim].
            layer: Index of the layer.
        """
        self.page_size = cache.dim_size(4)
        self.head_dim = cache.dim_size(5)
        self.head_stride = self.page_size * self.head_dim
        self.value_offset = cache.dim_size(3) * self.head_stride
        self.page_stride = cache.dim_size(1) * 2 * self.value_offset
        self.data = untracked(cache.unsafe_ptr()).unsafe_offset(layer * 2 * self.value_offset)

    @always_inline
    def key(self, page: Int, head: Int, slot: Int) -> WritePtr[Self.dtype]:
        """The key vector [head_dim] at `slot` of a page."""
        return self.data.unsafe_offset(
            page * self.page_stride + head * self.head_stride + slot * self.head_dim
        )

    @always_inline
    def value(self, page: Int, head: Int, slot: Int) -> WritePtr[Self.dtype]:
        """The value vector [head_dim] at `slot` of a page."""
        return self.key(page, head, slot).unsafe_offset(self.value_offset)
