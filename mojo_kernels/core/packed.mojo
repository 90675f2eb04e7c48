"""How matrices lie in memory: panels of 64 rows, interleaved so that a kernel reads one stream.

A matrix w[N, K] becomes [N / 64, K / P, 64 * P]: the elements of 64 rows at P columns lie side by side, those of a row
next to each other. P is 2 for bfloat16, whose pairs CPUs multiply at once, and 1 for the others. N and K are filled up
with zeros.
"""

from std.math import ceildiv
from std.sys.intrinsics import PrefetchOptions, prefetch

from ..utils.isa import ZEN4
from ..utils.types import ReadPtr, WritePtr

comptime PANEL = 64
"""Rows of a panel."""
comptime LINE = 64
"""Bytes of a cache line."""
comptime AHEAD = 8192
"""Bytes that weights are asked for before they are needed: what memory delivers while it answers."""
comptime NEXT_LINES = 2
"""Lines of the next panel that are asked for in each step: the first two tiles of a panel ask for all of it."""
comptime ASKING_ROWS = 24
"""Most rows whose tiles share the work of asking for it, where they are small."""
comptime READ_SOON = PrefetchOptions().for_read().medium_locality().to_data_cache()
comptime READ_AHEAD = PrefetchOptions().for_read().high_locality().to_data_cache()


@always_inline
def pack_factor[dtype: DType]() -> Int:
    """Columns that lie together."""
    return 2 if dtype == DType.bfloat16 else 1


@always_inline
def fetch_ahead[bytes: Int, dtype: DType](w: ReadPtr[dtype]):
    """Asks for as many bytes of weights, some steps after `w`."""
    comptime for line in range(0, bytes, LINE):
        prefetch[READ_AHEAD](w.unsafe_bitcast[UInt8]().unsafe_offset(AHEAD + line))


@fieldwise_init
struct NextWeights(TrivialRegisterPassable):
    """The weights that are needed after a panel; tiles of several rows, which leave memory idle, ask for them
    meanwhile.
    """

    var start: ReadPtr[DType.uint8]
    var stride: Int
    """Bytes of a share; 0 where all is asked for."""

    def __init__(out self, start: ReadPtr[DType.uint8]):
        self.start = start
        self.stride = NEXT_LINES * LINE

    @always_inline
    def fetch(self, step: Int):
        """Asks for a step's share."""
        comptime for line in range(NEXT_LINES):
            prefetch[READ_SOON](self.start.unsafe_offset(step * self.stride + line * LINE))

    @always_inline
    def fetch_lines[lines: Int](self, step: Int):
        """Asks for as many lines as a step's share has, to the nearest cache that has room for them."""
        comptime for line in range(lines):
            prefetch[READ_SOON if ZEN4 else READ_AHEAD](self.start.unsafe_offset((step * lines + line) * LINE))

    @always_inline
    def fetch_share(self, index: Int):
        """Asks for a share of any size."""
        fetch_bytes(self.start.unsafe_offset(index * self.stride), self.stride)

    @always_inline
    def later(self, shares: Int) -> Self:
        """What is asked for from so many shares on."""
        return {self.start.unsafe_offset(shares * self.stride), self.stride}

    def part[rows: Int, tiles: Int](self, row: Int, tile: Int, all_rows: Int, bytes: Int, shares: Int) -> Self:
        """What a small tile asks for: as much of the panel as its outputs are of those of the first rows.

        Parameters:
            rows: Of the tile.
            tiles: How many of them, side by side, make the outputs of a panel.

        Args:
            row: The tile's first row.
            tile: Its number among those side by side.
            all_rows: How many there are.
            bytes: Of the panel.
            shares: How many requests the tile makes.
        """
        var whole = tiles * min(ASKING_ROWS, all_rows)
        var begin = tiles * row + rows * tile
        if begin >= whole:
            return {self.start, 0}
        return {self.start.unsafe_offset(bytes * begin // whole), ceildiv(bytes * rows, whole * shares * LINE) * LINE}

    def after(self, tile: Int, steps: Int, step_bytes: Int) -> Self:
        """What is left to ask for after some tiles of a panel that has `steps` of `step_bytes` each."""
        var asked = tile * steps * NEXT_LINES * LINE
        if asked >= steps * step_bytes:
            return {self.start, 0}
        return {self.start.unsafe_offset(asked), self.stride}


struct ChunkAhead[step_lines: Int]:
    """What memory is asked for while tiles of rows, one after the other, go through a chunk of a panel: they share it.

    Parameters:
        step_lines: Cache lines of each of the chunk's steps.
    """

    var start: ReadPtr[DType.uint8]
    var left: Int
    """Lines of each step that no tile has asked for."""

    def __init__(out self, start: ReadPtr[DType.uint8]):
        """Asks for what begins there."""
        self.start = start
        self.left = Self.step_lines

    def __init__(out self, panel: ReadPtr[DType.uint8], bytes: Int, later: Int, next: ReadPtr[DType.uint8]):
        """Asks for what lies `later` bytes behind the start of a panel of so many bytes, or else of the next one."""
        self = Self(panel.unsafe_offset(later) if later < bytes else next.unsafe_offset(later - bytes))

    def share(self, tiles: Int) -> Int:
        """Lines of each step that the next of so many tiles asks for."""
        return ceildiv(self.left, tiles)

    def take(mut self, lines: Int, steps: Int) -> ReadPtr[DType.uint8]:
        """Where a tile's lines lie, one step's after the other's."""
        var place = self.start
        self.start = place.unsafe_offset(lines * steps * LINE)
        self.left -= lines
        return place


@always_inline
def fetch_bytes(w: ReadPtr[DType.uint8], bytes: Int):
    """Asks for so many bytes."""
    for line in range(0, bytes, LINE):
        prefetch[READ_SOON](w.unsafe_offset(line))


@always_inline
def store_outputs[
    width: Int
](y: WritePtr[DType.float32], lane: Int, sums: SIMD[DType.float32, width], outputs: Int):
    """Stores the sums at `y + lane` and on, as far as these lanes are among the first `outputs`."""
    if outputs >= lane + width:
        y.unsafe_store(lane, sums)
    else:
        for i in range(outputs - lane):
            y[unsafe_offset=lane + i] = sums[i]
