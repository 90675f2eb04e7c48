"""Grouped-query attention over a paged KV cache, for prefill chunks and decodes in one ragged batch.

FlashAttention (Dao et al. 2022, arXiv:2205.14135) on PagedAttention's block tables (Kwon et al. 2023,
arXiv:2309.06180). A tile is up to TILE_ROWS query rows that share one KV head; it walks over the keys in
blocks of KV_BLOCK positions with an online softmax. Blocks begin at multiples of KV_BLOCK from position
0 and every sum has a fixed order, so a row's result depends on its own context only: not on the batch,
the chunk it came in, or where its pages lie.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import ceildiv, exp, fma, sqrt
from std.utils.numerics import neg_inf

from ..gpu.attention_launch import BatchShape, launch_attention
from ..gpu.block import GpuRead, GpuWrite
from ..gpu.pages import CacheShape
from ..memory.kv_cache import PagedKVCache
from ..utils.parallel import parallel_ranges
from ..utils.simd import WIDTH, Vector, widen
from ..utils.types import ReadPtr, WritePtr, MutableInputTensor, floats, untracked

comptime KV_BLOCK = 32
"""Positions per step of the online softmax."""
comptime TILE_ROWS = 16
"""Query rows that share each load of a key or value."""
comptime MASKED = neg_inf[DType.float32]()


@fieldwise_init
struct RaggedQueries(TrivialRegisterPassable):
    """The queries of a ragged batch and where each finds its keys.

    A request's query rows for one KV head are numbered token by token: row r is query head `r % group` of
    the token `r // group`.
    """

    var q: ReadPtr[DType.float32]
    var out_: WritePtr[DType.float32]
    var positions: ReadPtr[DType.int32]
    var row_offsets: ReadPtr[DType.int32]
    var page_table: ReadPtr[DType.int32]
    var requests: Int
    var pages_per_request: Int
    var q_size: Int
    var group: Int

    def tokens(self, request: Int) -> Int:
        """Tokens of a request in this batch."""
        return Int(self.row_offsets[unsafe_offset=request + 1] - self.row_offsets[unsafe_offset=request])

    def tiles(self, request: Int) -> Int:
        """Tiles of a request per KV head."""
        return ceildiv(self.tokens(request) * self.group, TILE_ROWS)


struct Tile[cache_type: DType, head_dim: Int]:
    """The online-softmax state of one tile; made once per thread and used for many tiles."""

    var kv: PagedKVCache[Self.cache_type]
    var scale: Float32
    var rows: Int
    var query: Array[ReadPtr[DType.float32], TILE_ROWS]
    var limit: Array[Int, TILE_ROWS]
    """Number of keys each row may see: its position + 1."""
    var key: Array[ReadPtr[Self.cache_type], KV_BLOCK]
    var scores: Array[Float32, TILE_ROWS * KV_BLOCK]
    var total: Array[Float32, TILE_ROWS * Self.head_dim]
    """Sum of the values so far, weighted by exp(score - maximum)."""
    var maximum: Array[Float32, TILE_ROWS]
    var weight: Array[Float32, TILE_ROWS]
    """Sum of exp(score - maximum) so far."""

    def __init__(out self, kv: PagedKVCache[Self.cache_type], first: ReadPtr[DType.float32]):
        self.kv = kv
        self.scale = 1 / sqrt(Float32(Self.head_dim))
        self.rows = 0
        self.query = Array[ReadPtr[DType.float32], TILE_ROWS](fill=first)
        self.limit = Array[Int, TILE_ROWS](fill=0)
        self.key = Array[ReadPtr[Self.cache_type], KV_BLOCK](fill=kv.data)
        self.scores = Array[Float32, TILE_ROWS * KV_BLOCK](fill=0)
        self.total = Array[Float32, TILE_ROWS * Self.head_dim](fill=0)
        self.maximum = Array[Float32, TILE_ROWS](fill=0)
        self.weight = Array[Float32, TILE_ROWS](fill=0)

    def run(mut self, batch: RaggedQueries, request: Int, kv_head: Int, tile: Int):
        """Attention of one tile, from its queries to the rows of the output."""
        var first_row = tile * TILE_ROWS
        var first_token = Int(batch.row_offsets[unsafe_offset=request])
        self.rows = min(TILE_ROWS, batch.tokens(request) * batch.group - first_row)
        var keys = 0
        for r in range(self.rows):
            var token = first_token + (first_row + r) // batch.group
            var head = kv_head * batch.group + (first_row + r) % batch.group
            self.query[r] = batch.q.unsafe_offset(token * batch.q_size + head * Self.head_dim)
            self.limit[r] = Int(batch.positions[unsafe_offset=token]) + 1
            self.maximum[r] = MASKED
            self.weight[r] = 0
            keys = max(keys, self.limit[r])
        for i in range(self.rows * Self.head_dim):
            self.total[i] = 0

        var pages = batch.page_table.unsafe_offset(request * batch.pages_per_request)
        for start in range(0, keys, KV_BLOCK):
            var count = min(KV_BLOCK, keys - start)
            for j in range(count):
                var page = Int(pages[unsafe_offset=(start + j) // self.kv.page_size])
                self.key[j] = self.kv.key(page, kv_head, (start + j) % self.kv.page_size)
            self.over_row_blocks[False](count)
            for r in range(self.rows):
                self.softmax_row(r, self.limit[r] - start, count)
            self.over_row_blocks[True](count)

        for r in range(self.rows):
            var offset = Int(self.query[r]) - Int(batch.q)
            var target = batch.out_.unsafe_offset(offset // 4)
            var inverse = 1 / self.weight[r]
            var total = untracked(self.total.unsafe_ptr()).unsafe_offset(r * Self.head_dim)
            comptime for d in range(0, Self.head_dim, WIDTH):
                target.unsafe_store(d, total.unsafe_load[width=WIDTH](d) * inverse)

    @always_inline
    def over_row_blocks[values: Bool](mut self, count: Int):
        """Scores (or the weighted sum of values) for all rows, as many at a time as registers allow."""
        var r = 0
        while r < self.rows:
            if self.rows - r >= 4:
                comptime if values:
                    self.add_values[4](r, count)
                else:
                    self.score[4](r, count)
                r += 4
            elif self.rows - r >= 2:
                comptime if values:
                    self.add_values[2](r, count)
                else:
                    self.score[2](r, count)
                r += 2
            else:
                comptime if values:
                    self.add_values[1](r, count)
                else:
                    self.score[1](r, count)
                r += 1

    @always_inline
    def score[rows: Int](mut self, first: Int, count: Int):
        """Computes scores[r, j] = q[r] . k[j] * scale for `rows` rows and the `count` keys of the block."""
        var j = 0
        while j + 4 <= count:
            self.score_keys[rows, 4](first, j)
            j += 4
        while j < count:
            self.score_keys[rows, 1](first, j)
            j += 1

    @always_inline
    def score_keys[rows: Int, keys: Int](mut self, first: Int, j: Int):
        var acc = Array[Vector, rows * keys](fill=Vector(0))
        for d in range(0, Self.head_dim, WIDTH):
            var k = Array[Vector, keys](fill=Vector(0))
            comptime for c in range(keys):
                k[c] = widen(self.key[j + c], d)
            comptime for r in range(rows):
                var q = self.query[first + r].unsafe_load[width=WIDTH](d)
                comptime for c in range(keys):
                    acc[r * keys + c] = fma(q, k[c], acc[r * keys + c])
        comptime for r in range(rows):
            comptime for c in range(keys):
                self.scores[(first + r) * KV_BLOCK + j + c] = acc[r * keys + c].reduce_add() * self.scale

    @always_inline
    def softmax_row(mut self, r: Int, visible: Int, count: Int):
        """Turns a row's scores into weights and rescales what was summed before.

        Args:
            r: The row.
            visible: Keys of this block, or later ones, that the row may see; none if not positive.
            count: Keys of this block that were scored.
        """
        var scores = untracked(self.scores.unsafe_ptr()).unsafe_offset(r * KV_BLOCK)
        for j in range(max(0, min(visible, count)), KV_BLOCK):
            scores[unsafe_offset=j] = MASKED
        var largest = Vector(MASKED)
        comptime for j in range(0, KV_BLOCK, WIDTH):
            largest = max(largest, scores.unsafe_load[width=WIDTH](j))
        var maximum = max(self.maximum[r], largest.reduce_max())
        var sums = Vector(0)
        comptime for j in range(0, KV_BLOCK, WIDTH):
            var s = scores.unsafe_load[width=WIDTH](j)
            # exp() of minus infinity need not be exactly 0, which invariance asks for.
            var p = s.gt(Vector(MASKED)).select(exp(s - maximum), Vector(0))
            scores.unsafe_store(j, p)
            sums += p
        if maximum > self.maximum[r]:
            var decay = Float32(0) if self.maximum[r] == MASKED else exp(self.maximum[r] - maximum)
            self.maximum[r] = maximum
            self.weight[r] *= decay
            var total = untracked(self.total.unsafe_ptr()).unsafe_offset(r * Self.head_dim)
            comptime for d in range(0, Self.head_dim, WIDTH):
                total.unsafe_store(d, total.unsafe_load[width=WIDTH](d) * decay)
        self.weight[r] += sums.reduce_add()

    @always_inline
    def add_values[rows: Int](mut self, first: Int, count: Int):
        """Adds to total[r] the sum over j of scores[r, j] * v[j] for `rows` rows."""
        comptime step = 2 * WIDTH
        var total = untracked(self.total.unsafe_ptr()).unsafe_offset(first * Self.head_dim)
        var weights = untracked(self.scores.unsafe_ptr()).unsafe_offset(first * KV_BLOCK)
        for d in range(0, Self.head_dim, step):
            var acc = Array[Vector, 2 * rows](fill=Vector(0))
            comptime for r in range(rows):
                acc[2 * r] = total.unsafe_load[width=WIDTH](r * Self.head_dim + d)
                acc[2 * r + 1] = total.unsafe_load[width=WIDTH](r * Self.head_dim + d + WIDTH)
            for j in range(count):
                var v = self.key[j].unsafe_offset(self.kv.value_offset)
                var low = widen(v, d)
                var high = widen(v, d + WIDTH)
                comptime for r in range(rows):
                    var p = Vector(weights[unsafe_offset=r * KV_BLOCK + j])
                    acc[2 * r] = fma(p, low, acc[2 * r])
                    acc[2 * r + 1] = fma(p, high, acc[2 * r + 1])
            comptime for r in range(rows):
                total.unsafe_store(r * Self.head_dim + d, acc[2 * r])
                total.unsafe_store(r * Self.head_dim + d + WIDTH, acc[2 * r + 1])


def paged_attention_cpu[
    cache_type: DType, //, head_dim: Int
](batch: RaggedQueries, kv: PagedKVCache[cache_type], kv_heads: Int):
    """All tiles of the batch, split over the cores by KV head first (heads cost the same)."""
    var tiles = 0
    var longest = 0
    for b in range(batch.requests):
        tiles += batch.tiles(b)
        longest = max(longest, batch.pages_per_request * kv.page_size)

    def run(begin: Int, end: Int) {imm}:
        var tile = Tile[cache_type, head_dim](kv, batch.q)
        for item in range(begin, end):
            var request = 0
            var index = item % tiles
            while index >= batch.tiles(request):
                index -= batch.tiles(request)
                request += 1
            tile.run(batch, request, item // tiles, index)

    parallel_ranges(tiles * kv_heads, longest * head_dim * 2, run)


@extensibility.register("mili.paged_attention")
struct PagedAttention:
    """`y[T, Hq D] = softmax(q k^T / sqrt(D)) v`, causal, each token over its own request's positions up to its own.

    Keys and values come from `cache`, where this step's own tokens must already be stored.
    Head dimensions of 64 and 128.
    """

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        cache: MutableInputTensor[rank=6, ...],
        q: InputTensor[rank=2, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        row_offsets: InputTensor[dtype=DType.int32, rank=1, ...],
        page_table: InputTensor[dtype=DType.int32, rank=2, ...],
        layer: Int32,
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            comptime assert (
                cache.dtype == DType.bfloat16 and q.dtype == DType.bfloat16 and y.dtype == DType.bfloat16
            ), "attention on a GPU is bfloat16"
            var shape = CacheShape(cache.dim_size(1), cache.dim_size(3), cache.dim_size(4), cache.dim_size(5))
            launch_attention(
                rebind[GpuWrite[DType.bfloat16]](y.unsafe_ptr()),
                rebind[GpuRead[DType.bfloat16]](q.unsafe_ptr()),
                rebind[GpuRead[DType.bfloat16]](cache.unsafe_ptr().unsafe_offset(Int(layer) * shape.layer_stride())),
                positions.unsafe_ptr(),
                row_offsets.unsafe_ptr(),
                page_table.unsafe_ptr(),
                BatchShape(q.dim_size(0), row_offsets.dim_size(0) - 1, page_table.dim_size(1), q.dim_size(1) // shape.head_dim),
                shape,
                ctx,
            )
        else:
            var kv = PagedKVCache(cache, Int(layer))
            var kv_heads = cache.dim_size(3)
            var batch = RaggedQueries(
                q=floats(q.unsafe_ptr()),
                out_=floats(y.unsafe_ptr()),
                positions=untracked(positions.unsafe_ptr()),
                row_offsets=untracked(row_offsets.unsafe_ptr()),
                page_table=untracked(page_table.unsafe_ptr()),
                requests=row_offsets.dim_size(0) - 1,
                pages_per_request=page_table.dim_size(1),
                q_size=q.dim_size(1),
                group=q.dim_size(1) // (kv_heads * kv.head_dim),
            )
            if kv.head_dim == 64:
                paged_attention_cpu[64](batch, kv, kv_heads)
            elif kv.head_dim == 128:
                paged_attention_cpu[128](batch, kv, kv_heads)
            else:
                raise Error("mili.paged_attention: head_dim ", kv.head_dim, " is not 64 or 128")
