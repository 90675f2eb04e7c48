"""Attention of a tile of query rows over the positions of one request, a block after the other.

A block's scores are all computed before its softmax, whose maximum is the block's own; blocks are then merged in order
by their maxima (FlashAttention, Dao et al. 2022, arXiv:2205.14135, section 3.1). Blocks begin at multiples of BLOCK
from position 0, and what one gives does not depend on who computes it: one thread may take all blocks of a tile, or
several threads some each, without a bit's difference.
"""

from std.math import ceildiv, fma, iota, round, sqrt
from std.sys import inlined_assembly
from std.utils.numerics import neg_inf

from ..memory.batch import RaggedQueries
from ..memory.kv_cache import PANEL, SCALE_BYTES, PagedKVCache, pair_size, put_in_panel
from ..utils.exp import LOG2_E, exp2_vector
from ..utils.types import ReadPtr, WritePtr, untracked
from .products import LANES, ONE_PASS, ROWS, VECTORS, Vector16, add_products, sum_type

comptime BLOCK = 256
"""Positions of a block."""
comptime PANELS = BLOCK // PANEL
comptime TILE_ROWS = 48
"""Most query rows of a tile: so many share each load of a key or value from memory."""
comptime PARTIAL = LANES
"""Room of a saved row before its totals: its maximum and weight, and what keeps vectors aligned."""
comptime MASKED = neg_inf[DType.float32]()
comptime INT16_MAX = Float32(32767)


def operand_type[cache_type: DType, query_type: DType]() -> DType:
    """The type of what is multiplied with keys and values; bfloat16 queries ask for bfloat16 pairs."""
    return DType.int16 if cache_type == DType.int8 else query_type


@always_inline
def to_bfloat16(x: Vector16) -> SIMD[DType.bfloat16, LANES]:
    """Rounds to the nearest bfloat16 numbers, on CPUs with AVX512-BF16."""
    return inlined_assembly[
        "vcvtneps2bf16 $1, $0", SIMD[DType.bfloat16, LANES], constraints="=v,v", has_side_effect=False
    ](x)


@always_inline
def merge_factors(maximum: Float32, other: Float32) -> Tuple[Float32, Float32, Float32]:
    """The maximum of two softmax sums, and what to multiply each of them with."""
    var both = max(maximum, other)
    var decay = Float32(0) if maximum == MASKED else exp2_vector[1](maximum - both)[0]
    return both, decay, exp2_vector[1](other - both)[0]


struct Tile[cache_type: DType, query_type: DType, head_dim: Int]:
    """The state of one tile; made once per thread and used for many tiles.

    Parameters:
        cache_type: Type of the cache: float32, bfloat16 or int8.
        query_type: Type of the queries: float32, or bfloat16 with a cache of it.
        head_dim: A multiple of 64.
    """

    comptime operand = operand_type[Self.cache_type, Self.query_type]()
    comptime pair = pair_size[Self.cache_type]()
    comptime Sums = SIMD[sum_type[Self.cache_type](), LANES]
    comptime width = Self.head_dim // LANES
    """Vectors of a head."""

    var batch: RaggedQueries[Self.query_type]
    var kv: PagedKVCache[Self.cache_type]
    var request: Int
    var kv_head: Int
    var first_row: Int
    """Of the request's query rows."""
    var rows: Int
    var queries: Array[SIMD[Self.operand, LANES], TILE_ROWS * Self.width]
    """[TILE_ROWS, head_dim]."""
    var query_scale: Array[Float32, TILE_ROWS]
    """What scores are multiplied with: log2(e) / sqrt(head_dim), times the scale of an int16 query."""
    var limit: Array[Int, TILE_ROWS]
    """Number of keys each row may see; it never falls from row to row."""
    var scores: Array[Vector16, TILE_ROWS * PANELS]
    """[TILE_ROWS, BLOCK]: base 2 logarithms of weights."""
    var weights: Array[SIMD[Self.operand, LANES], TILE_ROWS * PANELS]
    """[TILE_ROWS, BLOCK]: 2^(score - the block's maximum)."""
    var weight_scale: Array[Float32, TILE_ROWS]
    """Of int16 weights."""
    var maximum: Array[Float32, TILE_ROWS]
    """The largest score so far."""
    var weight: Array[Float32, TILE_ROWS]
    """The sum of 2^(score - maximum) so far."""
    var total: Array[Vector16, TILE_ROWS * Self.width]
    """[TILE_ROWS, head_dim]: the sum of the values so far, weighted likewise."""
    var decay: Array[Float32, TILE_ROWS]
    """What the sums so far are multiplied with as the block is merged."""
    var gain: Array[Float32, TILE_ROWS]
    """What the block's sums are multiplied with."""
    var keys: Array[ReadPtr[Self.cache_type], PANELS]
    """The panels of the block's keys."""
    var values: Array[ReadPtr[Self.cache_type], PANELS]
    """The panels of its values."""
    var key_scales: Array[ReadPtr[DType.float32], PANELS]
    """In an int8 cache, the scales of the keys of each panel."""
    var value_scales: Array[ReadPtr[DType.float32], PANELS]
    """Likewise of the values."""
    var copies: List[Scalar[Self.cache_type]]
    """[2, BLOCK, head_dim]: the block in panels, where the cache holds plain rows."""
    var copied_scales: List[Float32]
    """[2, BLOCK]: its scales."""

    def __init__(out self, batch: RaggedQueries[Self.query_type], kv: PagedKVCache[Self.cache_type]):
        self.batch = batch
        self.kv = kv
        self.request = 0
        self.kv_head = 0
        self.first_row = 0
        self.rows = 0
        self.queries = {uninitialized = True}
        self.query_scale = {uninitialized = True}
        self.limit = {uninitialized = True}
        self.scores = {uninitialized = True}
        self.weights = {uninitialized = True}
        self.weight_scale = {uninitialized = True}
        self.maximum = {uninitialized = True}
        self.weight = {uninitialized = True}
        self.total = {uninitialized = True}
        self.decay = {uninitialized = True}
        self.gain = {uninitialized = True}
        self.keys = {uninitialized = True}
        self.values = {uninitialized = True}
        self.key_scales = {uninitialized = True}
        self.value_scales = {uninitialized = True}
        var copied = 0 if kv.in_panels() else 2 * BLOCK
        self.copies = List[Scalar[Self.cache_type]](unsafe_uninit_length=copied * Self.head_dim)
        self.copied_scales = List[Float32](unsafe_uninit_length=copied)

    def begin(mut self, request: Int, kv_head: Int, first_row: Int):
        """Takes the queries of a tile, and forgets the one before."""
        self.request = request
        self.kv_head = kv_head
        self.first_row = first_row
        self.rows = min(TILE_ROWS, self.batch.rows(request) - first_row)
        for r in range(self.rows):
            self.take_query(r)
            self.limit[r] = self.batch.keys(request, first_row + r)
            self.maximum[r] = MASKED
            self.weight[r] = 0
            comptime for d in range(Self.width):
                self.total[r * Self.width + d] = 0

    @always_inline
    def take_query(mut self, r: Int):
        var place = self.batch.offset(self.request, self.kv_head, self.first_row + r, Self.head_dim)
        var q = self.batch.q.unsafe_offset(place)
        self.query_scale[r] = LOG2_E / sqrt(Float32(Self.head_dim))
        comptime if Self.operand == DType.int16:
            var most = Vector16(0)
            comptime for d in range(Self.width):
                most = max(most, abs(q.unsafe_load[width=LANES](d * LANES).cast[DType.float32]()))
            var scale = most.reduce_max() / INT16_MAX
            var inverse = 1 / scale if scale > 0 else Float32(0)
            self.query_scale[r] *= scale
            comptime for d in range(Self.width):
                var x = q.unsafe_load[width=LANES](d * LANES).cast[DType.float32]()
                self.queries[r * Self.width + d] = round(x * inverse).cast[Self.operand]()
        else:
            comptime for d in range(Self.width):
                self.queries[r * Self.width + d] = q.unsafe_load[width=LANES](d * LANES).cast[Self.operand]()

    def add_block(mut self, block: Int):
        """Computes a block, and merges it with what was added before; blocks come in order."""
        var start = block * BLOCK
        var count = min(BLOCK, self.limit[self.rows - 1] - start)
        self.find_panels(start, count)
        var first = 0
        while self.limit[first] <= start:
            first += 1
        var panels = ceildiv(count, PANEL)
        var panel = 0
        while panel < panels:
            if panel + VECTORS <= panels:
                self.score_rows[VECTORS](first, panel, start + panel * PANEL)
                panel += VECTORS
            else:
                self.score_rows[1](first, panel, start + panel * PANEL)
                panel += 1
        for r in range(first, self.rows):
            self.softmax_row(r, min(BLOCK, self.limit[r] - start))
        var r = first
        while r < self.rows:
            comptime for rows in [ROWS, 4, 2, 1]:
                comptime if rows <= ROWS:
                    if self.rows - r >= rows:
                        self.add_values[rows](r, min(BLOCK, self.limit[r + rows - 1] - start))
                        r += rows
                        break

    def find_panels(mut self, start: Int, count: Int):
        """Finds the panels of `count` positions from `start` on, or makes them of plain rows."""
        var table = self.batch.page_table.unsafe_offset(self.request * self.batch.pages_per_request)
        if not self.kv.in_panels():
            self.copy_panels(table, start, count)
            return
        for panel in range(ceildiv(count, PANEL)):
            var position = start + panel * PANEL
            var page = Int(table[unsafe_offset=position // self.kv.page_size])
            var slot = position % self.kv.page_size
            self.keys[panel] = self.kv.keys(page, self.kv_head).unsafe_offset(slot * Self.head_dim)
            self.values[panel] = self.keys[panel].unsafe_offset(self.kv.value_offset)
            comptime if Self.cache_type == DType.int8:
                self.key_scales[panel] = self.kv.scales(page, self.kv_head).unsafe_offset(slot)
                self.value_scales[panel] = self.key_scales[panel].unsafe_offset(self.kv.value_offset // SCALE_BYTES)

    def copy_panels(mut self, table: ReadPtr[DType.int32], start: Int, count: Int):
        """Copies plain rows into panels."""
        var keys = untracked(self.copies.unsafe_ptr())
        var values = keys.unsafe_offset(BLOCK * Self.head_dim)
        var scales = untracked(self.copied_scales.unsafe_ptr())
        for panel in range(ceildiv(count, PANEL)):
            self.keys[panel] = keys.unsafe_offset(panel * PANEL * Self.head_dim)
            self.values[panel] = values.unsafe_offset(panel * PANEL * Self.head_dim)
            self.key_scales[panel] = scales.unsafe_offset(panel * PANEL)
            self.value_scales[panel] = scales.unsafe_offset(BLOCK + panel * PANEL)
        for i in range(count):
            var page = Int(table[unsafe_offset=(start + i) // self.kv.page_size])
            var slot = (start + i) % self.kv.page_size
            var key = self.kv.keys(page, self.kv_head).unsafe_offset(slot * Self.head_dim)
            var value = key.unsafe_offset(self.kv.value_offset)
            var panel = i // PANEL * PANEL * Self.head_dim
            comptime for d in range(0, Self.head_dim, PANEL):
                put_in_panel(
                    keys.unsafe_offset(panel),
                    values.unsafe_offset(panel),
                    i % PANEL,
                    Self.head_dim,
                    d,
                    key.unsafe_load[width=PANEL](d),
                    value.unsafe_load[width=PANEL](d),
                    i == count - 1,
                )
            comptime if Self.cache_type == DType.int8:
                var scale = self.kv.scales(page, self.kv_head).unsafe_offset(slot)
                scales[unsafe_offset=i] = scale[]
                scales[unsafe_offset=BLOCK + i] = scale[unsafe_offset=self.kv.value_offset // SCALE_BYTES]

    @always_inline
    def score_rows[vectors: Int](mut self, first: Int, panel: Int, position: Int):
        """Scores of all rows from `first` on over some panels, as many at a time as registers allow."""
        var r = first
        while r < self.rows:
            comptime for rows in [ROWS, 4, 2, 1]:
                comptime if rows <= ROWS:
                    if self.rows - r >= rows:
                        if self.limit[r + rows - 1] > position:
                            self.score[rows, vectors](r, panel)
                        r += rows
                        break

    @always_inline
    def score[rows: Int, vectors: Int](mut self, first: Int, panel: Int):
        """Computes q[r] . k for `rows` rows and `vectors` panels."""
        var acc = Array[Self.Sums, rows * vectors](fill=0)
        var keys = Array[ReadPtr[Self.cache_type], vectors](fill=self.keys[panel])
        comptime for v in range(vectors):
            keys[v] = self.keys[panel + v]
        var q = untracked(self.queries.unsafe_ptr().unsafe_bitcast[Scalar[Self.operand]]())
        add_products[rows, vectors](
            acc,
            q.unsafe_offset(first * Self.head_dim),
            Self.head_dim,
            keys,
            LANES * Self.pair,
            Self.head_dim // Self.pair,
        )
        comptime for r in range(rows):
            comptime for v in range(vectors):
                var s = acc[r * vectors + v].cast[DType.float32]() * self.query_scale[first + r]
                comptime if Self.cache_type == DType.int8:
                    s *= self.key_scales[panel + v].unsafe_load[width=LANES](0)
                self.scores[(first + r) * PANELS + panel + v] = s

    @always_inline
    def softmax_row(mut self, r: Int, visible: Int):
        """Turns a row's scores into weights, and finds how to merge the block.

        Args:
            r: The row.
            visible: Keys of this block that it may see, at least 1.
        """
        var panels = ceildiv(visible, PANEL)
        var last = r * PANELS + panels - 1
        var lanes = iota[DType.int32, LANES]()
        var seen = lanes.lt(Int32(visible - (panels - 1) * PANEL))
        self.scores[last] = seen.select(self.scores[last], Vector16(MASKED))
        var largest = Vector16(MASKED)
        for i in range(r * PANELS, last + 1):
            largest = max(largest, self.scores[i])
        var maximum = largest.reduce_max()
        var sums = Vector16(0)
        for i in range(r * PANELS, last + 1):
            # 2^x is not exactly 0 for minus infinity, which invariance asks for.
            var p = self.scores[i].gt(MASKED).select(exp2_vector[LANES](self.scores[i] - maximum), Vector16(0))
            sums += p
            comptime if Self.operand == DType.int16:
                self.scores[i] = p
            elif Self.operand == DType.bfloat16:
                self.weights[i] = rebind[type_of(self.weights[i])](to_bfloat16(p))
            else:
                self.weights[i] = rebind[type_of(self.weights[i])](p)
        comptime if Self.operand == DType.int16:
            self.quantize_weights(r, panels, seen)
        # Rows beside this one may see more of the block.
        for i in range(last + 1, (r + 1) * PANELS):
            self.weights[i] = 0
        var both, decay, gain = merge_factors(self.maximum[r], maximum)
        self.maximum[r] = both
        self.decay[r] = decay
        self.gain[r] = gain
        self.weight[r] = fma(sums.reduce_add(), gain, self.weight[r] * decay)

    @always_inline
    def quantize_weights(mut self, r: Int, panels: Int, seen: SIMD[DType.bool, LANES]):
        """Multiplies weights with the scales of the values, and makes them int16."""
        var most = Vector16(0)
        for i in range(panels):
            var scaled = self.scores[r * PANELS + i] * self.value_scales[i].unsafe_load[width=LANES](0)
            if i == panels - 1:
                # The scales behind the last position may be anything.
                scaled = seen.select(scaled, Vector16(0))
            self.scores[r * PANELS + i] = scaled
            most = max(most, scaled)
        var scale = most.reduce_max() / INT16_MAX
        var inverse = 1 / scale if scale > 0 else Float32(0)
        self.weight_scale[r] = scale
        for i in range(r * PANELS, r * PANELS + panels):
            self.weights[i] = round(self.scores[i] * inverse).cast[Self.operand]()

    @always_inline
    def add_values[rows: Int](mut self, first: Int, visible: Int):
        """Merges the weighted sum of the block's values into the totals of `rows` rows, that see `visible` of them."""
        comptime vectors = min(Self.width, VECTORS if rows > 2 else ONE_PASS)
        var x = untracked(self.weights.unsafe_ptr().unsafe_bitcast[Scalar[Self.operand]]()).unsafe_offset(first * BLOCK)
        comptime for d in range(0, Self.width, vectors):
            var acc = Array[Self.Sums, rows * vectors](fill=0)
            for panel in range(ceildiv(visible, PANEL)):
                var values = Array[ReadPtr[Self.cache_type], vectors](fill=self.values[panel])
                comptime for v in range(vectors):
                    values[v] = self.values[panel].unsafe_offset((d + v) * LANES * Self.pair)
                var steps = min(PANEL // Self.pair, ceildiv(visible - panel * PANEL, Self.pair))
                add_products[rows, vectors](
                    acc, x.unsafe_offset(panel * PANEL), BLOCK, values, Self.head_dim * Self.pair, steps
                )
            comptime for r in range(rows):
                var decay = self.decay[first + r]
                var gain = self.gain[first + r]
                comptime for v in range(vectors):
                    var sums = acc[r * vectors + v].cast[DType.float32]()
                    comptime if Self.operand == DType.int16:
                        sums *= self.weight_scale[first + r]
                    var at = (first + r) * Self.width + d + v
                    self.total[at] = fma(sums, Vector16(gain), self.total[at] * decay)

    def write(self):
        """Writes the tile's rows of the output."""
        for r in range(self.rows):
            var place = self.batch.offset(self.request, self.kv_head, self.first_row + r, Self.head_dim)
            var inverse = 1 / self.weight[r]
            comptime for d in range(Self.width):
                self.batch.out_.unsafe_store(place + d * LANES, self.total[r * Self.width + d] * inverse)

    def save(self, partial: WritePtr[DType.float32]):
        """Writes what was added to `partial` [rows, PARTIAL + head_dim], for `merge`."""
        for r in range(self.rows):
            var row = partial.unsafe_offset(r * (PARTIAL + Self.head_dim))
            row[unsafe_offset=0] = self.maximum[r]
            row[unsafe_offset=1] = self.weight[r]
            comptime for d in range(Self.width):
                row.unsafe_store(PARTIAL + d * LANES, self.total[r * Self.width + d])

    def merge(mut self, partial: ReadPtr[DType.float32]):
        """Adds a block that another tile of the same queries saved; blocks come in order.

        A row that sees none of the block was saved as it began, with a maximum of minus infinity.
        """
        for r in range(self.rows):
            var row = partial.unsafe_offset(r * (PARTIAL + Self.head_dim))
            if row[unsafe_offset=0] == MASKED:
                continue
            var both, decay, gain = merge_factors(self.maximum[r], row[unsafe_offset=0])
            self.maximum[r] = both
            self.weight[r] = fma(row[unsafe_offset=1], gain, self.weight[r] * decay)
            comptime for d in range(Self.width):
                var sums = row.unsafe_load[width=LANES](PARTIAL + d * LANES)
                var at = r * Self.width + d
                self.total[at] = fma(sums, Vector16(gain), self.total[at] * decay)
