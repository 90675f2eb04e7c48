"""Where a GPU kernel finds the keys and values of a position: pages whose size is a power of two.

The cache is [pages, layers, 2, kv_heads, page_size, head_dim]; kernels get the address of their layer in page 0.
"""


@fieldwise_init
struct PageLayout(TrivialRegisterPassable):
    """The strides of a cache, in elements."""

    var page_stride: Int
    var kv_heads: Int
    var page_bits: Int
    """The page size is 2 ** page_bits positions."""
    var head_dim: Int

    @always_inline
    def page_index(self, position: Int) -> Int:
        """Which of its request's pages holds a position."""
        return position >> self.page_bits

    @always_inline
    def key(self, page: Int, head: Int, position: Int) -> Int:
        """Offset of a position's key vector in its page, from the layer's address."""
        var slot = position & ((1 << self.page_bits) - 1)
        return page * self.page_stride + ((head << self.page_bits) + slot) * self.head_dim

    @always_inline
    def value_offset(self) -> Int:
        """From a key vector to the value vector of the same position."""
        return (self.kv_heads << self.page_bits) * self.head_dim


@fieldwise_init
struct CacheShape(TrivialRegisterPassable):
    """The sizes of a cache, as the host knows them."""

    var layers: Int
    var kv_heads: Int
    var page_size: Int
    var head_dim: Int

    def page_stride(self) -> Int:
        """Elements from a page to the next."""
        return self.layers * self.layer_stride()

    def layer_stride(self) -> Int:
        """Elements from a layer of a page to the next."""
        return 2 * self.kv_heads * self.page_size * self.head_dim

    def page_bits(self) raises -> Int:
        """The binary logarithm of the page size.

        Raises:
            Error: It is no power of two.
        """
        var bits = 0
        while 1 << bits < self.page_size:
            bits += 1
        if 1 << bits != self.page_size:
            raise Error("a GPU needs pages of a power of two of positions, not ", self.page_size)
        return bits
