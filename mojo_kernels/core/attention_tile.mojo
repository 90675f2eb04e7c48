"""Attention of a tile of query rows over the positions of one request, a block after the other: what is kept.

A block's scores are all computed before its softmax, whose maximum is the block's own; blocks are then merged in order
by their maxima (FlashAttention, Dao et al. 2022, arXiv:2205.14135, section 3.1). Blocks begin at multiples of BLOCK
from position 0, and what one gives does not depend on who computes it: one thread may take all blocks of a tile, or
several threads some each, without a bit's difference. `attention_vectors.mojo` and `attention_amx.mojo` compute them.
"""

from std.math import fma, sqrt

from ..memory.batch import RaggedQueries
from ..memory.block import BLOCK, PANELS, Block
from ..memory.kv_cache import LARGEST_KEY, PagedKVCache, SIXTEENTH, has_scales, pair_size
from ..utils.exp import LOG2_E
from ..utils.simd import largest_magnitude, nearest, store_row
from ..utils.types import ReadPtr, WritePtr, untracked
from .products import LANES, Vector16, sum_type
from .scaled_rows import row_scale
from .softmax import INT16_MAX, MASKED, MergeFactors, largest_score, weigh_row

comptime TILE_ROWS = 192
"""Most query rows of a tile: so many share each load of a key or value from memory."""
comptime ROOM = TILE_ROWS + LANES
"""Of what is read and written in vectors of rows."""
comptime QUERY_EXPONENT = -2
"""A float16 query's largest number lies between 2 to the power of this and twice that."""
comptime PARTIAL = LANES
"""Room of a saved row before its totals: its maximum and weight, and what keeps vectors aligned."""


def operand_type[cache_type: DType, query_type: DType]() -> DType:
    """The type of what is multiplied with keys and values; bfloat16 queries ask for bfloat16 pairs."""
    comptime if cache_type == DType.float16:
        return cache_type
    else:
        return DType.int16 if has_scales[cache_type]() else query_type


trait HeadOutput(TrivialRegisterPassable):
    """Where the output of attention goes."""

    def put(self, place: Int, x: ReadPtr[DType.float32], size: Int):
        """Takes what attention gives for one query.

        Args:
            place: Where it belongs in [T, q_size].
            x: [size].
            size: Numbers of a head.
        """
        ...


@fieldwise_init
struct HeadRows(HeadOutput):
    """Output as it is."""

    var rows: WritePtr[DType.float32]
    """[T, q_size]."""

    @always_inline
    def put(self, place: Int, x: ReadPtr[DType.float32], size: Int):
        store_row(self.rows.unsafe_offset(place), x, size)


struct Tile[cache_type: DType, query_type: DType, head_dim: Int]:
    """The state of one tile; made once per thread and used for many tiles.

    Parameters:
        cache_type: Type of the cache: float32, bfloat16, float16 or int8.
        query_type: Type of the queries: float32, or bfloat16 with a cache of it.
        head_dim: A multiple of 64.
    """

    comptime operand = operand_type[Self.cache_type, Self.query_type]()
    comptime pair = pair_size[Self.cache_type]()
    comptime exact = Self.cache_type == DType.int16
    """Whether sums of values are exact integers for some panels only."""
    comptime kept = DType.float32 if Self.exact else sum_type[Self.cache_type]()
    """The type of sums of values while more are added."""
    comptime width = Self.head_dim // LANES
    """Vectors of a head."""

    var batch: RaggedQueries[Self.query_type]
    var block: Block[Self.cache_type, Self.head_dim]
    var request: Int
    var first_head: Int
    var heads: Int
    """KV heads; row r of the tile is query row `r % rows` of its KV head `r // rows`."""
    var first_row: Int
    """Of the request's query rows for a head."""
    var rows: Int
    """For each head."""
    var queries: Array[SIMD[Self.operand, LANES], TILE_ROWS * Self.width]
    """[TILE_ROWS, head_dim]."""
    var query_scale: Array[Float32, TILE_ROWS]
    """What scores are multiplied with: log2(e) / sqrt(head_dim), times the scale of an int16 or float16 query."""
    var limit: Array[Int, TILE_ROWS]
    """Number of keys each query row may see; it never falls from row to row."""
    var scores: Array[Vector16, TILE_ROWS * PANELS]
    """[TILE_ROWS, BLOCK]: base 2 logarithms of weights."""
    var weights: Array[SIMD[Self.operand, LANES], TILE_ROWS * PANELS]
    """[TILE_ROWS, BLOCK]: 2^(score - the block's maximum)."""
    var sums: Array[SIMD[Self.kept, LANES], TILE_ROWS * Self.width]
    """[TILE_ROWS, head_dim]: the block's weighted values, as far as they are added."""
    var maximum: Array[Float32, ROOM]
    """The largest score so far."""
    var weight: Array[Float32, ROOM]
    """The sum of 2^(score - maximum) so far."""
    var total: Array[Vector16, TILE_ROWS * Self.width]
    """[TILE_ROWS, head_dim]: the sum of the values so far, weighted likewise."""
    var decay: Array[Float32, ROOM]
    """What the sums so far are multiplied with as the block is merged."""
    var gain: Array[Float32, ROOM]
    """What the block's sums are multiplied with."""
    var weight_scale: Array[Float32, TILE_ROWS]
    """As `RowWeights.scale`."""

    def __init__(out self, batch: RaggedQueries[Self.query_type], kv: PagedKVCache[Self.cache_type]):
        self.batch = batch
        self.block = Block[Self.cache_type, Self.head_dim](kv)
        self.request = 0
        self.first_head = 0
        self.heads = 0
        self.first_row = 0
        self.rows = 0
        self.queries = {uninitialized = True}
        self.query_scale = {uninitialized = True}
        self.limit = {uninitialized = True}
        self.scores = {uninitialized = True}
        self.weights = {uninitialized = True}
        self.sums = {uninitialized = True}
        self.maximum = {uninitialized = True}
        self.weight = {uninitialized = True}
        self.total = {uninitialized = True}
        self.decay = {uninitialized = True}
        self.gain = {uninitialized = True}
        self.weight_scale = {uninitialized = True}

    @always_inline
    def use(mut self, kv: PagedKVCache[Self.cache_type]):
        """Goes on with the cache of another layer."""
        self.block.kv = kv

    def begin(mut self, request: Int, first_head: Int, heads: Int, first_row: Int):
        """Takes the queries of a tile, and forgets the one before.

        Args:
            request: The request.
            first_head: The first KV head.
            heads: KV heads; with few rows for each, a tile reads what lies together in pages.
            first_row: The first of the request's query rows for a head.
        """
        self.request = request
        self.first_head = first_head
        self.heads = heads
        self.first_row = first_row
        self.rows = min(TILE_ROWS // heads, self.batch.rows(request) - first_row)
        for r in range(self.rows):
            self.limit[r] = self.batch.keys(request, first_row + r)
        for r in range(self.heads * self.rows):
            self.take_query(r)
            self.maximum[r] = MASKED
            self.weight[r] = 0
            comptime for d in range(Self.width):
                self.total[r * Self.width + d] = 0

    @always_inline
    def place(self, r: Int) -> Int:
        """Where a row's query and output lie."""
        var head = self.first_head + r // self.rows
        return self.batch.offset(self.request, head, self.first_row + r % self.rows, Self.head_dim)

    @always_inline
    def take_query(mut self, r: Int):
        var q = self.batch.q.unsafe_offset(self.place(r))
        self.query_scale[r] = LOG2_E / sqrt(Float32(Self.head_dim))
        comptime if Self.operand == DType.int16:
            comptime most = INT16_MAX if Self.cache_type == DType.int8 else Float32(LARGEST_KEY)
            var scale = largest_magnitude(rebind[ReadPtr[DType.float32]](q), Self.head_dim) / most
            var inverse = 1 / scale if scale > 0 else Float32(0)
            self.query_scale[r] *= scale
            comptime for d in range(Self.width):
                var x = q.unsafe_load[width=LANES](d * LANES).cast[DType.float32]()
                self.queries[r * Self.width + d] = nearest[LANES](x, inverse).cast[Self.operand]()
        elif Self.operand == DType.float16:
            var scale, inverse = row_scale[QUERY_EXPONENT](rebind[ReadPtr[DType.float32]](q), Self.head_dim)
            self.query_scale[r] *= scale / SIXTEENTH
            comptime for d in range(Self.width):
                var x = q.unsafe_load[width=LANES](d * LANES).cast[DType.float32]()
                self.queries[r * Self.width + d] = (x * inverse).cast[Self.operand]()
        else:
            comptime for d in range(Self.width):
                self.queries[r * Self.width + d] = q.unsafe_load[width=LANES](d * LANES).cast[Self.operand]()

    def find(mut self, index: Int) -> Int:
        """Finds a block's keys and values, and returns the first of a head's rows that sees any of it."""
        var start = index * BLOCK
        var first = 0
        while self.limit[first] <= start:
            first += 1
        self.block.find(self.batch, self.request, self.first_head, start, self.limit[self.rows - 1])
        return first

    def weigh[scaled: Bool](mut self, first: Int, start: Int):
        """Softmax over the block, and how to merge it, of each head's rows from `first` on.

        Parameters:
            scaled: Whether scores were multiplied with `query_scale`.

        Args:
            first: The first row that sees some of the block.
            start: The block's first position.
        """
        for head in range(self.heads):
            for row in range(first, self.rows, LANES):
                self.weigh_rows[scaled](head, row, min(LANES, self.rows - row), start)

    @always_inline
    def weigh_rows[scaled: Bool](mut self, head: Int, row: Int, count: Int, start: Int):
        """Likewise, of up to LANES rows; others that follow stay as they are."""
        var r = head * self.rows + row
        var scores = untracked(self.scores.unsafe_ptr().unsafe_bitcast[Float32]()).unsafe_offset(r * BLOCK)
        var weights = untracked(self.weights.unsafe_ptr().unsafe_bitcast[Scalar[Self.operand]]())
        weights = weights.unsafe_offset(r * BLOCK)
        var maxima = Array[Float32, LANES](fill=MASKED)
        for i in range(count):
            var scale = Float32(1) if scaled else self.query_scale[r + i]
            var visible = min(BLOCK, self.limit[row + i] - start)
            maxima[i] = largest_score(scores.unsafe_offset(i * BLOCK), visible) * scale
        var both = MergeFactors[LANES](lanes_of(self.maximum, r), lanes_of(maxima, 0))
        var sums = Array[Float32, LANES](fill=0)
        for i in range(count):
            var scale = Float32(1) if scaled else self.query_scale[r + i]
            var row_weights = weigh_row[Self.operand](
                scores.unsafe_offset(i * BLOCK),
                weights.unsafe_offset(i * BLOCK),
                min(BLOCK, self.limit[row + i] - start),
                scale,
                maxima[i],
                self.block,
                head,
            )
            sums[i] = row_weights.sum
            self.weight_scale[r + i] = row_weights.scale
        var weight = fma(lanes_of(sums, 0), both.gain, lanes_of(self.weight, r) * both.decay)
        put_lanes(self.maximum, r, both.maximum)
        put_lanes(self.decay, r, both.decay)
        put_lanes(self.gain, r, both.gain)
        put_lanes(self.weight, r, weight)

    def write[Output: HeadOutput](self, output: Output):
        """Gives the tile's rows away."""
        var head = Array[Vector16, Self.width](uninitialized=True)
        for r in range(self.heads * self.rows):
            var inverse = 1 / self.weight[r]
            comptime for d in range(Self.width):
                head[d] = self.total[r * Self.width + d] * inverse
            output.put(self.place(r), untracked(head.unsafe_ptr().unsafe_bitcast[Float32]()), Self.head_dim)

    def save(self, partial: WritePtr[DType.float32]):
        """Writes what was added to `partial` [heads rows, PARTIAL + head_dim], for `merge`."""
        for r in range(self.heads * self.rows):
            var row = partial.unsafe_offset(r * (PARTIAL + Self.head_dim))
            row[unsafe_offset=0] = self.maximum[r]
            row[unsafe_offset=1] = self.weight[r]
            comptime for d in range(Self.width):
                row.unsafe_store(PARTIAL + d * LANES, self.total[r * Self.width + d])

    def merge(mut self, partial: ReadPtr[DType.float32]):
        """Adds a block that another tile of the same queries saved; blocks come in order.

        A row that sees none of the block was saved as it began, with a maximum of minus infinity.
        """
        for r in range(self.heads * self.rows):
            var row = partial.unsafe_offset(r * (PARTIAL + Self.head_dim))
            if row[unsafe_offset=0] == MASKED:
                continue
            var both = MergeFactors[1](self.maximum[r], row[unsafe_offset=0])
            self.maximum[r] = both.maximum[0]
            self.weight[r] = fma(row[unsafe_offset=1], both.gain[0], self.weight[r] * both.decay[0])
            comptime for d in range(Self.width):
                var sums = row.unsafe_load[width=LANES](PARTIAL + d * LANES)
                var at = r * Self.width + d
                self.total[at] = fma(sums, Vector16(both.gain[0]), self.total[at] * both.decay[0])


@always_inline
def lanes_of[size: Int](numbers: Array[Float32, size], first: Int) -> Vector16:
    """As many numbers as a vector has, from one on."""
    return numbers.unsafe_ptr().unsafe_load[width=LANES](first)


@always_inline
def put_lanes[size: Int](mut numbers: Array[Float32, size], first: Int, lanes: Vector16):
    """Writes them."""
    numbers.unsafe_ptr().unsafe_store(first, lanes)
