"""The ring of tiles in shared memory that a producer warp fills with keys and values from pages, on Hopper."""

from max.gpu import lane_id
from max.gpu.sync import syncwarp

from .async_barrier import (
    SharedBarrier,
    arrive,
    arrive_expecting,
    copy_bulk,
    init_barrier,
    publish_barriers,
    show_to_async,
    wait,
)
from .block import GpuRead
from .mma import SharedTile
from .pages import ATOM, PageLayout, in_atoms
from .wgmma import WGMMA_KEYS


struct Ring[size: Int, tile: Int](TrivialRegisterPassable):
    """Tiles in shared memory that a producer fills and consumers empty, in turn."""

    var tiles: SharedTile[MutUntrackedOrigin]
    var barriers: SharedBarrier[MutUntrackedOrigin]
    """For each slot, whether its tile has come; and then for each, whether its last one was read by all."""
    var slot: Int32
    """Whose turn it is."""
    var phase: Int32
    """How often the ring went round."""

    @always_inline
    def __init__(out self, tiles: SharedTile[MutUntrackedOrigin], barriers: SharedBarrier[MutUntrackedOrigin]):
        self.tiles = tiles
        self.barriers = barriers
        self.slot = 0
        self.phase = 0

    @always_inline
    def init(self, writers: Int, readers: Int):
        """Makes the barriers, given how many arrivals tell that a tile has come, and was read; one thread does."""
        comptime for slot in range(Self.size):
            init_barrier(self.barriers.unsafe_offset(slot), writers)
            init_barrier(self.barriers.unsafe_offset(Self.size + slot), readers)
        publish_barriers()

    @always_inline
    def current(self) -> SharedTile[MutUntrackedOrigin]:
        """The tile whose turn it is."""
        return self.tiles.unsafe_offset(self.slot * Int32(Self.tile))

    @always_inline
    def came(self) -> SharedBarrier[MutUntrackedOrigin]:
        """The barrier of its arrival."""
        return self.barriers.unsafe_offset(self.slot)

    @always_inline
    def was_read(self) -> SharedBarrier[MutUntrackedOrigin]:
        """The barrier of its readers."""
        return self.barriers.unsafe_offset(self.slot + Int32(Self.size))

    @always_inline
    def wait_until_empty(self):
        """Waits until all have read what was in the slot before."""
        wait(self.was_read(), self.phase - 1)

    @always_inline
    def wait_until_full(self):
        """Waits for the tile."""
        wait(self.came(), self.phase)

    @always_inline
    def leave(mut self):
        """Ends a warp's reading of the tile, and goes on to the next."""
        arrive(self.was_read(), lane_id() == 0)
        self.advance()

    @always_inline
    def advance(mut self):
        """Goes on to the next tile."""
        self.slot += 1
        if self.slot == Int32(Self.size):
            self.slot = 0
            self.phase += 1


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
