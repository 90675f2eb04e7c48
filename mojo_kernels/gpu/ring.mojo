"""A ring of tiles in shared memory that a producer fills for consumers, on Hopper."""

from max.gpu import lane_id

from .async_barrier import SharedBarrier, arrive, init_barrier, publish_barriers, wait
from .mma import SharedTile


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
