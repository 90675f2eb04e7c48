"""How a producer warp fills a ring's tiles with keys and values from pages, on Hopper."""

from max.gpu import lane_id
from max.gpu.sync import syncwarp

from .async_barrier import SharedBarrier, arrive_expecting, copy_bulk, show_to_async
from .block import GpuRead
from .mma import SharedTile
from .pages import ATOM, PageLayout, in_atoms
from .wgmma import WGMMA_KEYS


@always_inline
def produce_tile[
    head_dim: Int
](
    tile: SharedTile,
    came: SharedBarrier,
    cache: GpuRead[DType.bfloat16],
    pages: GpuRead[DType.int32],
    layout: PageLayout,
    head: Int,
    start: Int32,
    end: Int32,
):
    """Copies the keys, or the values, of WGMMA_KEYS positions from `start` on by one warp; zeros from `end` on.

    Args:
        tile: [WGMMA_KEYS, head_dim] in atoms.
        came: Its phase ends when all is there.
        cache: The address of the layer, or of its values, in page 0.
        pages: The request's.
        layout: The cache's.
        head: KV head.
        start: First position.
        end: Behind the last one that is written.
    """
    var count = min(end - start, Int32(WGMMA_KEYS))
    var whole = count & Int32(-ATOM)
    var piece = min(Int32(1) << Int32(layout.page_bits), Int32(WGMMA_KEYS))
    var row = Int32(lane_id()) * piece
    while row < whole:
        var page = Int(pages[unsafe_offset=layout.page_index(Int(start + row))])
        copy_bulk(
            tile.unsafe_offset(row * Int32(head_dim)),
            cache.unsafe_offset(layout.keys(page, head) + layout.slot(Int(start + row)) * head_dim),
            min(piece, whole - row) * Int32(head_dim * 2),
            came,
        )
        row += 32 * piece
    if whole < Int32(WGMMA_KEYS):
        # Once per block: what no request wrote may be no number, and 0 times that is none either.
        comptime chunks = head_dim // 8
        var chunk = lane_id() % chunks
        row = whole + Int32(lane_id() // chunks)
        while row < Int32(WGMMA_KEYS):
            var values = SIMD[DType.bfloat16, 8](0)
            if row < count:
                var page = Int(pages[unsafe_offset=layout.page_index(Int(start + row))])
                var source = layout.key[head_dim](page, head, Int(start + row), chunk)
                values = cache.unsafe_load[width=8, alignment=16](source)
            tile.unsafe_store[alignment=16](in_atoms[head_dim](Int(row), chunk), values)
            row += Int32(32 // chunks)
        show_to_async()
    syncwarp()
    arrive_expecting(came, whole * Int32(head_dim * 2), lane_id() == 0)
