"""Where a GPU kernel finds the keys and values of a position: pages whose size is a power of two.

The cache is [pages, layers, 2, kv_heads, page_size, head_dim]; kernels get the address of their layer in page 0.

A head's positions lie in atoms of 8 positions and 64 columns, [page_size / 8, head_dim / 64, 8, 64], and in an atom the
eighths of a row are in another order for each row, the 128-byte swizzle of Hopper's matrix descriptors (PTX ISA,
5.5.5): so whole pages can be copied to shared memory as they are, and tensor cores read them there without conflicts of
banks. Pages of fewer than 8 positions have atoms of as many.
"""

comptime ATOM = 8
"""Positions of an atom."""
comptime ATOM_COLUMNS = 64


@always_inline
def in_atoms[head_dim: Int](row: Int, chunk: Int, rows: Int = ATOM) -> Int:
    """Where columns 8 * chunk to 8 * chunk + 7 of a row lie in atoms of `rows`, a power of two, in elements."""
    var place = row & (rows - 1)
    return (row - place) * head_dim + ((chunk >> 3) * rows + place) * ATOM_COLUMNS + (((chunk ^ place) & 7) << 3)


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
    def slot(self, position: Int) -> Int:
        """Which of its page's positions a position is."""
        return position & ((1 << self.page_bits) - 1)

    @always_inline
    def keys(self, page: Int, head: Int) -> Int:
        """Offset, from the layer's address, of the keys of a head in a page."""
        return page * self.page_stride + (head << self.page_bits) * self.head_dim

    @always_inline
    def key[head_dim: Int](self, page: Int, head: Int, position: Int, chunk: Int) -> Int:
        """Offset, from the layer's address, of columns 8 * chunk to 8 * chunk + 7 of a position's key in its page."""
        return self.keys(page, head) + in_atoms[head_dim](self.slot(position), chunk, min(ATOM, 1 << self.page_bits))

    @always_inline
    def value_offset(self) -> Int:
        """From a key to the value of the same position."""
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
