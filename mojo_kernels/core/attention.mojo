"""Grouped-query attention over a paged KV cache, for prefill chunks and decodes in one ragged batch.

Pages are found through block tables, as in PagedAttention (Kwon et al. 2023, arXiv:2309.06180). The work is a list of
items: a tile of query rows with all the blocks that it sees; or, where a few rows see much of a batch (a long decode),
one of the blocks, whose results are merged in order afterwards, so that all cores share it (Flash-Decoding, Dao et al.
2023). Both give the same bits, see `attention_tile.mojo`.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.runtime import parallelism_level

from ..gpu.attention_launch import BatchShape, launch_attention
from ..gpu.block import GpuRead, GpuWrite
from ..gpu.pages import CacheShape
from ..memory.batch import RaggedQueries
from ..memory.block import BLOCK
from ..memory.kv_cache import PagedKVCache
from ..utils.parallel import WorkQueue, parallel_queue
from ..utils.types import MutableInputTensor, ReadPtr, WritePtr, floats, untracked
from .attention_amx import add_block_by_amx
from .attention_halves import add_block_by_halves
from .attention_tile import HeadOutput, HeadRows, PARTIAL, TILE_ROWS, Tile
from .attention_vectors import add_block_by_vectors
from .products import FETCHING_ROWS

comptime ITEMS_PER_CORE = 4
"""A tile that is more than such a part of a core's share of the work is split."""
comptime FEW_ROWS = 16
"""Tiles with more rows for a KV head are never split: their partial results would cost more than they save."""


@fieldwise_init
struct Item(Copyable, Movable, TrivialRegisterPassable):
    """Some blocks of a tile."""

    var request: Int
    var first_head: Int
    var heads: Int
    var first_row: Int
    var begin: Int
    var end: Int
    var partial: Int
    """Where its results are kept until they are merged; -1 where the item is the whole tile."""


struct WorkList:
    """The items of a batch, and the tiles that have to be merged."""

    var items: List[Item]
    var split: List[Item]
    """Tiles whose blocks are items; `partial` is that of the first block."""
    var partials: Int
    """Numbers to keep for them."""
    var work: Int
    """Products of query rows and positions."""

    def __init__(out self, batch: RaggedQueries[_], kv_heads: Int, row_size: Int, most_heads: Int):
        """Lists the work of a batch.

        Args:
            batch: The batch.
            kv_heads: KV heads.
            row_size: Numbers that a tile saves of a row.
            most_heads: KV heads that a tile may have.
        """
        self.items = List[Item]()
        self.split = List[Item]()
        self.partials = 0
        self.work = 0
        var blocks = 0
        for request in range(batch.requests):
            var rows = batch.rows(request)
            var keys = batch.keys(request, rows - 1)
            blocks += ceildiv(keys, BLOCK) * ceildiv(rows, TILE_ROWS) * kv_heads
            self.work += keys * rows * kv_heads
        var share = max(1, blocks // (parallelism_level() * ITEMS_PER_CORE))
        for request in range(batch.requests):
            var rows = batch.rows(request)
            var heads = max(1, min(most_heads, share, TILE_ROWS // rows))
            for head in range(0, kv_heads, heads):
                # Later tiles of a prompt see more; they go first, so that no core gets a long one at the end.
                for tile in reversed(range(ceildiv(rows, TILE_ROWS))):
                    var first_row = tile * TILE_ROWS
                    var last_row = min(rows, first_row + TILE_ROWS) - 1
                    var end = ceildiv(batch.keys(request, last_row), BLOCK)
                    var item = Item(request, head, min(heads, kv_heads - head), first_row, 0, end, -1)
                    if end > 1 and end * heads > share and rows <= FEW_ROWS:
                        self.add_split(item, rows * item.heads * row_size)
                    else:
                        self.items.append(item)

    def add_split(mut self, tile: Item, size: Int):
        """Lists the blocks of a tile, each of which saves `size` numbers."""
        var item = tile
        item.partial = self.partials
        self.split.append(item)
        for block in range(tile.end):
            item.begin = block
            item.end = block + 1
            item.partial = self.partials
            self.items.append(item)
            self.partials += size


struct AttentionWork[cache_type: DType, query_type: DType, head_dim: Int, amx: Bool]:
    """The attention of a batch: its items, any of which may be computed at any time, and then what is to be merged."""

    comptime Worker = Tile[Self.cache_type, Self.query_type, Self.head_dim]
    comptime row_size = PARTIAL + Self.head_dim

    var batch: RaggedQueries[Self.query_type]
    var kv: PagedKVCache[Self.cache_type]
    var list: WorkList
    var partials: List[Float32]

    def __init__(
        out self, batch: RaggedQueries[Self.query_type], kv: PagedKVCache[Self.cache_type], kv_heads: Int
    ):
        self.batch = batch
        self.kv = kv
        self.list = WorkList(batch, kv_heads, Self.row_size, kv_heads if kv.in_panels() else 1)
        self.partials = List[Float32](unsafe_uninit_length=self.list.partials)

    @always_inline
    def partial(self, index: Int) -> WritePtr[DType.float32]:
        """Where partial results are, from one on."""
        return untracked(self.partials.unsafe_ptr().unsafe_mut_cast[True]()).unsafe_offset(index)

    def worker(self) -> Self.Worker:
        """What a thread needs to compute and to merge."""
        return Self.Worker(self.batch, self.kv)

    def compute[
        Output: HeadOutput
    ](self, output: Output, mut tile: Self.Worker, index: Int, following: Int, weights: ReadPtr[DType.uint8]):
        """Computes an item.

        Args:
            output: Takes what is not to be merged.
            tile: The thread's.
            index: Number of the item.
            following: Number of the item to come, whose keys are asked for meanwhile; or -1.
            weights: What is needed then.
        """
        var item = self.list.items[index]
        tile.begin(item.request, item.first_head, item.heads, item.first_row)
        for block in range(item.begin, item.end):
            comptime if FETCHING_ROWS > 0:
                self.expect(tile, item, block + 1, following, weights)
            comptime if Self.amx and Self.query_type == DType.bfloat16:
                add_block_by_amx[Self.head_dim](rebind[Tile[DType.bfloat16, DType.bfloat16, Self.head_dim]](tile), block)
            elif Self.cache_type == DType.float16:
                add_block_by_halves(rebind[Tile[DType.float16, DType.float32, Self.head_dim]](tile), block)
            else:
                add_block_by_vectors(tile, block)
        if item.partial < 0:
            tile.write(output)
        else:
            tile.save(self.partial(item.partial))

    def expect(
        self, mut tile: Self.Worker, item: Item, block: Int, following: Int, weights: ReadPtr[DType.uint8]
    ):
        """Tells a tile what is needed after the block before `block`; the other arguments are those of `compute`."""
        if block < item.end:
            tile.block.expect_keys(self.batch, item.request, item.first_head, block * BLOCK)
        elif following < 0:
            tile.block.expect_weights(weights)
        else:
            var next = self.list.items[following]
            tile.block.expect_keys(self.batch, next.request, next.first_head, next.begin * BLOCK)

    def merge[Output: HeadOutput](self, output: Output, mut tile: Self.Worker, index: Int):
        """Merges the blocks of a tile that was split."""
        var item = self.list.split[index]
        tile.begin(item.request, item.first_head, item.heads, item.first_row)
        var size = item.heads * tile.rows * Self.row_size
        for block in range(item.end):
            tile.merge(self.partial(item.partial + block * size))
        tile.write(output)


def paged_attention_cpu[
    cache_type: DType, query_type: DType, //, head_dim: Int, amx: Bool
](output: HeadRows, batch: RaggedQueries[query_type], kv: PagedKVCache[cache_type], kv_heads: Int):
    """All items of the batch, on all cores."""
    var work = AttentionWork[cache_type, query_type, head_dim, amx](batch, kv, kv_heads)

    def compute(queue: WorkQueue) {imm}:
        var tile = work.worker()
        var index = queue.take()
        while index < queue.items:
            var following = queue.take()
            # Behind the last item nothing is known to come: it stands in for what does.
            work.compute(output, tile, index, min(following, queue.items - 1), batch.q.unsafe_bitcast[UInt8]())
            index = following

    parallel_queue(len(work.list.items), work.list.work * head_dim, compute)

    def merge(queue: WorkQueue) {imm}:
        var tile = work.worker()
        var index = queue.take()
        while index < queue.items:
            work.merge(output, tile, index)
            index = queue.take()

    parallel_queue(len(work.list.split), work.list.partials, merge)


@extensibility.register("mili.paged_attention")
struct PagedAttention:
    """`y[T, Hq D] = softmax(q k^T / sqrt(D)) v`, causal, each token over its own request's positions up to its own.

    Keys and values come from `cache`, where this step's own tokens must already be stored. bfloat16 queries, with a
    cache of bfloat16 and on CPUs with AVX512-BF16, ask for products of bfloat16 pairs; weights are rounded then too.
    A cache of float16 needs AVX512-FP16.
    Head dimensions of 64 and 128. The parameter `head_dim` says which, or is 0 for either; naming it spares the
    compiler half of the work. With `amx`, bfloat16 is multiplied by AMX.
    """

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int, amx: Bool = False
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
                BatchShape(
                    q.dim_size(0), row_offsets.dim_size(0) - 1, page_table.dim_size(1), q.dim_size(1) // shape.head_dim
                ),
                shape,
                ctx,
            )
        else:
            comptime assert q.dtype == DType.float32 or (
                q.dtype == DType.bfloat16 and cache.dtype == DType.bfloat16
            ), "mili.paged_attention: queries are float32, or bfloat16 with a bfloat16 cache"
            var kv = PagedKVCache(cache, Int(layer))
            var kv_heads = cache.dim_size(3)
            var batch = RaggedQueries[q.dtype](
                q=untracked(q.unsafe_ptr()),
                positions=untracked(positions.unsafe_ptr()),
                row_offsets=untracked(row_offsets.unsafe_ptr()),
                page_table=untracked(page_table.unsafe_ptr()),
                requests=row_offsets.dim_size(0) - 1,
                pages_per_request=page_table.dim_size(1),
                q_size=q.dim_size(1),
                group=q.dim_size(1) // (kv_heads * kv.head_dim),
            )
            comptime for size in [64, 128]:
                comptime if head_dim == size or head_dim == 0:
                    if kv.head_dim == size:
                        paged_attention_cpu[size, amx](HeadRows(floats(y.unsafe_ptr())), batch, kv, kv_heads)
                        return
            raise Error(
                "mili.paged_attention: head_dim ", kv.head_dim, " is not 64 or 128, or not the graph's ", head_dim
            )
