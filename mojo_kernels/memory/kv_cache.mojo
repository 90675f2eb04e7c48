"""The paged KV cache (PagedAttention, Kwon et al. 2023, arXiv:2309.06180, section 4).

One buffer [pages, layers, 2, kv_heads, page_size, row]: a page holds `page_size` positions of one request in every
layer, keys (0) and values (1), so that copying or swapping a page is one copy. A row is head_dim numbers; in an int8
or int16 cache four bytes more, and the scales of all rows of a head, float32, lie behind their numbers. A float16 cache
holds sixteenths, so that sums of products stay within its range.

The positions of a page lie in panels of 16 [16 head_dim], interleaved as attention reads them: lanes are positions
for keys, [head_dim / P, 16, P], and dimensions for values, [16 / P, head_dim, P]. P is 2 where CPUs multiply pairs
(bfloat16, float16, int8, int16) and 1 for float32. Where 16 does not divide the page size, a page holds plain rows
instead, and attention interleaves what it reads.
"""


from std.memory import bitcast
from std.sys import size_of

from ..utils.simd import largest_magnitude, nearest, rounded
from ..utils.types import MutableInputTensor, ReadPtr, WritePtr, untracked

comptime PANEL = 16
"""Positions of a panel."""
comptime SIXTEENTH = Float32(0.0625)
"""What keys and values are multiplied with in a float16 cache."""
comptime SCALE_BYTES = 4
"""Bytes of a row's scale."""
comptime LARGEST_KEY = 4095
"""The largest number of a key in an int16 cache: times as much of a query, 128 times, it is below 2^31."""
comptime LARGEST_VALUE = 2047
"""Likewise of a value: times a weight's 16383, 64 times."""


@always_inline
def pair_size[dtype: DType]() -> Int:
    """Numbers that lie together because CPUs multiply them at once: P above."""
    return 1 if dtype == DType.float32 else 2


def number_bits[dtype: DType]() -> DType:
    """A type for the bits of a number that lies in pairs."""
    return DType.uint8 if dtype == DType.int8 else DType.uint16


def pair_bits[dtype: DType]() -> DType:
    """One for those of a pair."""
    return DType.uint16 if dtype == DType.int8 else DType.uint32


def has_scales[dtype: DType]() -> Bool:
    """Whether each row has a scale."""
    return dtype.is_integral()


def numbers_of_scale[dtype: DType]() -> Int:
    """Numbers that take as much room as a row's scale."""
    return SCALE_BYTES // size_of[Scalar[dtype]]()


@fieldwise_init
struct PagedKVCache[dtype: DType](TrivialRegisterPassable):
    """Addresses inside one layer of the cache."""

    var data: WritePtr[Self.dtype]
    var page_stride: Int
    var value_offset: Int
    var head_stride: Int
    var page_size: Int
    var head_dim: Int

    def __init__(out self, cache: MutableInputTensor[dtype=Self.dtype, rank=6, ...], layer: Int):
        """One layer of a cache.

        Args:
            cache: [pages, layers, 2, kv_heads, page_size, row].
            layer: Index of the layer.
        """
        self.page_size = cache.dim_size(4)
        self.head_dim = cache.dim_size(5)
        self.head_stride = self.page_size * self.head_dim
        comptime if has_scales[Self.dtype]():
            self.head_dim -= numbers_of_scale[Self.dtype]()
        self.value_offset = cache.dim_size(3) * self.head_stride
        self.page_stride = cache.dim_size(1) * 2 * self.value_offset
        self.data = untracked(cache.unsafe_ptr())
        self.data = self.data.unsafe_offset(layer * self.layer_stride())

    @always_inline
    def layer_stride(self) -> Int:
        """Elements from a layer's keys to the next one's."""
        return 2 * self.value_offset

    @always_inline
    def later_layer(self, layers: Int) -> Self:
        """The same of a layer that comes so many after this one."""
        var later = self
        later.data = self.data.unsafe_offset(layers * self.layer_stride())
        return later

    @always_inline
    def in_panels(self) -> Bool:
        """Whether positions lie in panels; else in plain rows."""
        return self.page_size % PANEL == 0

    @always_inline
    def keys(self, page: Int, head: Int) -> WritePtr[Self.dtype]:
        """Where a head's keys of a page begin; its values begin `value_offset` later."""
        return self.data.unsafe_offset(page * self.page_stride + head * self.head_stride)

    @always_inline
    def scales(self, page: Int, head: Int) -> WritePtr[DType.float32]:
        """The scales [page_size] of a head's keys; those of its values lie `value_offset` numbers later."""
        return self.keys(page, head).unsafe_offset(self.page_size * self.head_dim).unsafe_bitcast[Float32]()

    def store_key(self, page: Int, head: Int, slot: Int, key: ReadPtr[DType.float32]):
        """Writes a position's key.

        Args:
            page: The page.
            head: The KV head.
            slot: The position's place in the page.
            key: [head_dim].
        """
        var keys = self.keys(page, head)
        var factor = self.take_scale[LARGEST_KEY](self.scales(page, head).unsafe_offset(slot), key)
        var panel = keys.unsafe_offset((slot - slot % PANEL) * self.head_dim)
        for i in range(0, self.head_dim, PANEL):
            var k = convert[Self.dtype](key, i, factor)
            if self.in_panels():
                put_key(panel, slot % PANEL, i, k)
            else:
                keys.unsafe_store(slot * self.head_dim + i, k)

    def store_value(self, page: Int, head: Int, slot: Int, value: ReadPtr[DType.float32]):
        """Writes a position's value; of a pair of positions the first one goes first, and sets the other one to zero.

        Attention reads that, with weight zero, before it is written.

        Args:
            page: The page.
            head: The KV head.
            slot: The position's place in the page.
            value: [head_dim].
        """
        var values = self.keys(page, head).unsafe_offset(self.value_offset)
        var scales = self.scales(page, head).unsafe_offset(self.value_offset // numbers_of_scale[Self.dtype]())
        var factor = self.take_scale[LARGEST_VALUE](scales.unsafe_offset(slot), value)
        var panel = values.unsafe_offset((slot - slot % PANEL) * self.head_dim)
        for i in range(0, self.head_dim, PANEL):
            var v = convert[Self.dtype](value, i, factor)
            if self.in_panels():
                put_value(panel, slot % PANEL, self.head_dim, i, v)
            else:
                values.unsafe_store(slot * self.head_dim + i, v)

    @always_inline
    def take_scale[largest: Int](self, place: WritePtr[DType.float32], x: ReadPtr[DType.float32]) -> Float32:
        """Writes the scale of a row, whose largest number of int16 is given, and returns its inverse; else 1."""
        comptime if has_scales[Self.dtype]():
            var scale = largest_magnitude(x, self.head_dim) / Float32(127 if Self.dtype == DType.int8 else largest)
            place[unsafe_offset=0] = scale
            return 1 / scale if scale > 0 else Float32(0)
        else:
            return 1


@always_inline
def put_key[dtype: DType](panel: WritePtr[dtype], lane: Int, i: Int, key: SIMD[dtype, PANEL]):
    """Writes a part of a position's key into a panel.

    Args:
        panel: The panel of keys.
        lane: The position's place in the panel.
        i: Where in the row the part lies, a multiple of 16.
        key: The part.
    """
    comptime pair = pair_size[dtype]()
    var place = panel.unsafe_offset(i * PANEL + lane * pair)
    comptime if pair == 1:
        comptime for j in range(PANEL):
            place[unsafe_offset=j * PANEL] = key[j]
    else:
        comptime both = pair_bits[dtype]()
        var pairs = bitcast[both, PANEL // 2](key)
        comptime for j in range(PANEL // 2):
            place.unsafe_bitcast[Scalar[both]]()[unsafe_offset=j * PANEL] = pairs[j]


@always_inline
def put_value[
    dtype: DType
](panel: WritePtr[dtype], lane: Int, head_dim: Int, i: Int, value: SIMD[dtype, PANEL]):
    """Writes a part of a position's value into a panel, and zeros for the position after it that shares its pairs.

    Args:
        panel: The panel of values.
        lane: The position's place in the panel.
        head_dim: Numbers of a row.
        i: Where in the row the part lies, a multiple of 16.
        value: The part.
    """
    comptime if pair_size[dtype]() == 1:
        panel.unsafe_store(lane * head_dim + i, value)
    else:
        comptime both = pair_bits[dtype]()
        comptime bits = 4 * size_of[Scalar[both]]()
        comptime Pairs = SIMD[both, PANEL]
        var place = panel.unsafe_offset(lane // 2 * 2 * head_dim + 2 * i).unsafe_bitcast[Scalar[both]]()
        var pairs = bitcast[number_bits[dtype](), PANEL](value).cast[both]()
        if lane % 2 == 1:
            pairs = (pairs << Pairs(bits)) | (place.unsafe_load[width=PANEL](0) & Pairs((1 << bits) - 1))
        place.unsafe_store(0, pairs)


@always_inline
def convert[dtype: DType](source: ReadPtr[DType.float32], offset: Int, factor: Float32) -> SIMD[dtype, PANEL]:
    """16 numbers in the type of the cache; `factor` is for those that have scales."""
    var x = source.unsafe_load[width=PANEL](offset)
    comptime if has_scales[dtype]():
        return nearest[PANEL](x, factor).cast[dtype]()
    elif dtype == DType.float16:
        return (x * SIXTEENTH).cast[dtype]()
    else:
        return rounded[dtype, PANEL](x)
