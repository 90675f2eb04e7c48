"""A block of one request's positions: where the panels of its keys and values lie."""

from std.math import ceildiv

from ..utils.types import ReadPtr, untracked
from .batch import RaggedQueries
from .kv_cache import PANEL, PagedKVCache, has_scales, numbers_of_scale, put_key, put_value

comptime BLOCK = 256
"""Positions of a block."""
comptime PANELS = BLOCK // PANEL


struct Block[cache_type: DType, head_dim: Int]:
    """The panels of a block; made once per thread and used for many blocks.

    Those of a KV head after the first lie `head_stride` behind the one before.
    """

    comptime scale_numbers = numbers_of_scale[Self.cache_type]()
    """Numbers of the cache's type that take as much room as a scale."""

    var kv: PagedKVCache[Self.cache_type]
    var count: Int
    """Positions that the block has."""
    var panels: Int
    """Panels that they fill."""
    var head_stride: Int
    var keys: Array[ReadPtr[Self.cache_type], PANELS]
    """Of each panel."""
    var values: Array[ReadPtr[Self.cache_type], PANELS]
    var upcoming: Array[ReadPtr[Self.cache_type], PANELS]
    """What is needed after the block, in pieces as large as panels."""
    var scales: Array[ReadPtr[DType.float32], PANELS]
    """The scales [16] of each panel's keys, if they have any."""
    var value_scale_offset: Int
    """From them to those of the panel's values."""
    var copies: List[Scalar[Self.cache_type]]
    """[2, BLOCK, head_dim]: the panels of one head, where the cache holds plain rows."""
    var copied_scales: List[Float32]
    """[2, BLOCK]: their scales."""

    def __init__(out self, kv: PagedKVCache[Self.cache_type]):
        self.kv = kv
        self.count = 0
        self.panels = 0
        self.head_stride = kv.head_stride
        self.keys = {uninitialized = True}
        self.values = {uninitialized = True}
        self.upcoming = {fill = kv.data}
        self.scales = {uninitialized = True}
        self.value_scale_offset = kv.value_offset // Self.scale_numbers if kv.in_panels() else BLOCK
        var copied = 0 if kv.in_panels() else 2 * BLOCK
        self.copies = List[Scalar[Self.cache_type]](unsafe_uninit_length=copied * Self.head_dim)
        self.copied_scales = List[Float32](unsafe_uninit_length=copied)

    def find(mut self, batch: RaggedQueries[_], request: Int, head: Int, start: Int, end: Int):
        """Finds the panels of up to BLOCK positions of a request.

        Args:
            batch: Has the request's block table.
            request: The request.
            head: The first KV head; the only one where the cache holds plain rows.
            start: The first position.
            end: The first position that is not read, in this block or a later one.
        """
        self.count = min(BLOCK, end - start)
        self.panels = ceildiv(self.count, PANEL)
        if not self.kv.in_panels():
            self.copy_panels(batch, request, head, start)
            return
        for panel in range(self.panels):
            var page, slot = batch.place(request, start + panel * PANEL, self.kv.page_size)
            self.keys[panel] = self.kv.keys(page, head).unsafe_offset(slot * Self.head_dim)
            self.values[panel] = self.keys[panel].unsafe_offset(self.kv.value_offset)
            comptime if has_scales[Self.cache_type]():
                self.scales[panel] = self.kv.scales(page, head).unsafe_offset(slot)

    def expect_keys(mut self, batch: RaggedQueries[_], request: Int, head: Int, start: Int):
        """Says that keys of a request are needed after the block.

        Args:
            batch: Has the request's block table.
            request: The request.
            head: The first KV head.
            start: The first position, which the request has.
        """
        if not self.kv.in_panels():
            return
        var last = batch.keys(request, batch.rows(request) - 1) - 1
        for panel in range(PANELS):
            var position = min(start + panel * PANEL, last - last % PANEL)
            var page, slot = batch.place(request, position, self.kv.page_size)
            self.upcoming[panel] = self.kv.keys(page, head).unsafe_offset(slot * Self.head_dim)

    def expect_weights(mut self, weights: ReadPtr[DType.uint8]):
        """Likewise, weights of a linear layer."""
        for panel in range(PANELS):
            self.upcoming[panel] = weights.unsafe_bitcast[Scalar[Self.cache_type]]().unsafe_offset(
                panel * PANEL * Self.head_dim
            )

    def copy_panels(mut self, batch: RaggedQueries[_], request: Int, head: Int, start: Int):
        """Copies plain rows into panels."""
        var keys = untracked(self.copies.unsafe_ptr())
        var values = keys.unsafe_offset(BLOCK * Self.head_dim)
        var scales = untracked(self.copied_scales.unsafe_ptr())
        for panel in range(self.panels):
            self.keys[panel] = keys.unsafe_offset(panel * PANEL * Self.head_dim)
            self.values[panel] = values.unsafe_offset(panel * PANEL * Self.head_dim)
            self.scales[panel] = scales.unsafe_offset(panel * PANEL)
        for i in range(self.count):
            var page, slot = batch.place(request, start + i, self.kv.page_size)
            var key = self.kv.keys(page, head).unsafe_offset(slot * Self.head_dim)
            var value = key.unsafe_offset(self.kv.value_offset)
            var panel = i // PANEL * PANEL * Self.head_dim
            for d in range(0, Self.head_dim, PANEL):
                put_key(keys.unsafe_offset(panel), i % PANEL, d, key.unsafe_load[width=PANEL](d))
                var v = value.unsafe_load[width=PANEL](d)
                put_value(values.unsafe_offset(panel), i % PANEL, Self.head_dim, d, v)
            comptime if has_scales[Self.cache_type]():
                var scale = self.kv.scales(page, head).unsafe_offset(slot)
                scales[unsafe_offset=i] = scale[]
                scales[unsafe_offset=BLOCK + i] = scale[unsafe_offset=self.kv.value_offset // Self.scale_numbers]

    @always_inline
    def key_scales(self, panel: Int, head: Int) -> SIMD[DType.float32, PANEL]:
        """The scales of a panel's keys."""
        var own = self.scales[panel].unsafe_offset(head * (self.head_stride // Self.scale_numbers))
        return own.unsafe_load[width=PANEL](0)

    @always_inline
    def value_scales(self, panel: Int, head: Int) -> SIMD[DType.float32, PANEL]:
        """The scales of its values."""
        var own = self.scales[panel].unsafe_offset(head * (self.head_stride // Self.scale_numbers))
        return own.unsafe_load[width=PANEL](self.value_scale_offset)
