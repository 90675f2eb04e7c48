"""Rows against a panel of quantised weights on Intel AMX; the bits are those of `quantized.mojo`'s tiles, for sums of
integers are exact in any order.

A tile of sums is complete after one group, so it is stored, scaled and added up there. Products of a group, storing
those of the one before, and adding up the one before that go on beside each other.
"""

from std.math import ceildiv, fma

from .float_rows import Columns
from .packed import LINE, PANEL, fetch_bytes, store_outputs
from .quantized_rows import QUADS, QuantizedMatrix, QuantizedRows, quantize_group
from ..utils.isa import has_tiles
from ..utils.tiles import (
    TILE_LANES,
    TILE_ROWS,
    add_int8,
    configure_tiles,
    load_tile,
    release_tiles,
    store_tile,
    stream_tile,
    zero_tile,
)
from ..utils.types import ReadPtr, WritePtr, untracked

comptime COLUMNS = 64
"""Most columns of a tile."""
comptime CHUNK = 512
"""Columns of a panel that stay in the nearest cache while a tile of rows after the other passes them; no group has
more."""
comptime PASS = 512
"""Most rows that pass a chunk together."""
comptime IN_FLIGHT = 4
"""Tiles of sums."""
comptime STORED_AFTER = 1
"""Groups that are multiplied before one's sums are stored."""
comptime ADDED_AFTER = 2
"""Groups that are multiplied before one's sums are added up."""
comptime TILED_FROM = 16
"""Fewest rows that fill tiles well enough."""
comptime Floats = SIMD[DType.float32, TILE_LANES]


@fieldwise_init
struct TiledQuads(TrivialRegisterPassable):
    """Rows of x[M, K] as int8, in blocks of 16 rows.

    The values lie as [M / 16, K / C, 16, C], with the C columns of a tile, and behind them [M / 16, groups, 2, 16]
    float32: of each group what a unit stands for, and the sum of the row's numbers, times `weight`.
    """

    var values: WritePtr[DType.int8]
    var rows: Int
    var columns: Int
    var groups: Int

    @always_inline
    def group(self) -> Int:
        """Columns of a group."""
        return self.columns // self.groups

    @always_inline
    def step(self) -> Int:
        """Columns of a tile."""
        return min(self.group(), COLUMNS)

    @always_inline
    def tile(self, m: Int, k: Int) -> WritePtr[DType.int8]:
        """The rows from m on, a multiple of 16, at the columns from k on, a multiple of a tile's."""
        return self.values.unsafe_offset(m * self.columns + k * TILE_ROWS)

    @always_inline
    def scales(self, m: Int, g: Int) -> WritePtr[DType.float32]:
        """Units [16] and sums [16] of a group of the rows from m on."""
        var all_rows = ceildiv(self.rows, TILE_ROWS) * TILE_ROWS
        var begin = self.values.unsafe_offset(all_rows * self.columns).unsafe_bitcast[Float32]()
        return begin.unsafe_offset(2 * (m * self.groups + g * TILE_ROWS))

    def put(self, t: Int, part: Columns, x: ReadPtr[DType.float32], weight: Float32):
        """Rounds some groups of a row; see `quantize_group`."""
        var m = t - t % TILE_ROWS
        var step = self.step()
        for first in range(part.begin, part.end, self.group()):
            var values = self.tile(m, first).unsafe_offset(t % TILE_ROWS * step)
            var scale = quantize_group(
                values, x.unsafe_offset(first - part.begin), self.group(), step, TILE_ROWS * step
            )
            var place = self.scales(m, first // self.group()).unsafe_offset(t % TILE_ROWS)
            place[unsafe_offset=0] = scale.unit
            place[unsafe_offset=TILE_ROWS] = scale.sum * weight

    def copy(self, t: Int, x: QuantizedRows, weight: Float32):
        """Takes a row that was rounded before."""
        var m = t - t % TILE_ROWS
        var step = self.step()
        for k in range(0, self.columns, step):
            var to = self.tile(m, k).unsafe_offset(t % TILE_ROWS * step)
            for i in range(0, step, 32):
                to.unsafe_store(i, x.values.unsafe_load[width=32](t * self.columns + k + i))
        for g in range(self.groups):
            var place = self.scales(m, g).unsafe_offset(t % TILE_ROWS)
            place[unsafe_offset=0] = x.scales[unsafe_offset=2 * (t * self.groups + g)]
            place[unsafe_offset=TILE_ROWS] = x.scales[unsafe_offset=2 * (t * self.groups + g) + 1] * weight


def by_tiles[isa: StaticString](rows: Int) -> Bool:
    """Whether so many rows are multiplied by tiles."""
    return has_tiles[isa]() and rows >= TILED_FROM


def sum_weight[bits: Int, offsets: Bool]() -> Float32:
    """What the sum of a group's x is multiplied with: with an offset of each weight, or with what stands for zero."""
    return 1 if offsets else -Float32(1 << (bits - 1))


@fieldwise_init
struct Groups(TrivialRegisterPassable):
    """Some groups of a panel, with one byte for each weight."""

    var values: ReadPtr[DType.uint8]
    var stride: Int
    """Bytes from a group's values to the next one's."""
    var scales: ReadPtr[DType.float32]
    """[groups, 2, PANEL]: scales, and offsets where there are any."""
    var count: Int


@fieldwise_init
struct Asked(TrivialRegisterPassable):
    """What memory is asked for, some cache lines at a time."""

    var start: ReadPtr[DType.uint8]
    var left: Int
    """Lines."""

    @always_inline
    def ask(mut self, lines: Int):
        """Asks for so many lines, if there are any left."""
        if self.left > 0:
            fetch_bytes(self.start, lines * LINE)
            self.start = self.start.unsafe_offset(lines * LINE)
            self.left -= lines


def quantized_panel_by_amx[
    bits: Int, offsets: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledQuads,
    first: Int,
    rows: Int,
    w: QuantizedMatrix[bits, offsets],
    panel: Int,
    next: ReadPtr[DType.uint8],
):
    """Rows of x against a panel of 64 rows.

    Parameters:
        bits: Of a weight.
        offsets: Whether weights have offsets.

    Args:
        y: First output of the first of the rows; row r of them begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: All rows.
        first: The first of those to multiply, a multiple of 16.
        rows: How many.
        w: The matrix.
        panel: Number of the panel.
        next: The panel that is needed next.
    """
    var outputs = min(PANEL, w.rows - panel * PANEL)
    var together = CHUNK // w.group
    var unpacked = Array[UInt8, CHUNK * PANEL if bits == 4 else 1](uninitialized=True)
    var scales = Array[Float32, CHUNK // 32 * 2 * PANEL](uninitialized=True)
    var room = Array[Float32, PASS * PANEL](uninitialized=True)
    var sums = untracked(room.unsafe_ptr())
    var asked = Asked(next, w.groups * w.block_bytes(w.group) // LINE)
    configure_tiles(TILE_ROWS, TILE_ROWS, depth=x.step() // 4)
    for begin in range(0, rows, PASS):
        var count = min(PASS, rows - begin)
        var lines = ceildiv(w.block_bytes(w.group) // LINE, ceildiv(count, TILE_ROWS) * ceildiv(outputs, TILE_LANES))
        for g in range(0, w.groups, together):
            var number = min(together, w.groups - g)
            var groups = take_groups(
                untracked(scales.unsafe_ptr()), untracked(unpacked.unsafe_ptr()), w, panel, g, number
            )
            for m in range(0, count, TILE_ROWS):
                for lane in range(0, outputs, TILE_LANES):
                    var place = sums.unsafe_offset(m * PANEL + lane)
                    var totals = Array[Floats, TILE_ROWS](fill=Floats(0))
                    if g > 0:
                        comptime for r in range(TILE_ROWS):
                            totals[r] = place.unsafe_load[width=TILE_LANES](r * PANEL)
                    add_groups[offsets](totals, x, first + begin + m, g, groups, lane, asked, lines)
                    if g + groups.count < w.groups:
                        comptime for r in range(TILE_ROWS):
                            place.unsafe_store(r * PANEL, totals[r])
                        continue
                    var to = y.unsafe_offset((begin + m) * y_stride)
                    comptime for r in range(TILE_ROWS):
                        if m + r < count:
                            store_outputs[TILE_LANES](to.unsafe_offset(r * y_stride), lane, totals[r], outputs)
    release_tiles()
    _ = room^
    _ = scales^
    _ = unpacked^


@always_inline
def take_groups[
    bits: Int, offsets: Bool
](
    scales: WritePtr[DType.float32],
    unpacked: WritePtr[DType.uint8],
    w: QuantizedMatrix[bits, offsets],
    panel: Int,
    first: Int,
    count: Int,
) -> Groups:
    """Brings groups of a panel, from one on, into the form in which tiles take them."""
    comptime parts = 2 if offsets else 1
    for g in range(count):
        var block = w.block(panel, first + g)
        for i in range(0, parts * PANEL, TILE_LANES):
            var numbers = w.scales(block).unsafe_load[width=TILE_LANES](i).cast[DType.float32]()
            scales.unsafe_store(2 * PANEL * g + i, numbers)
        comptime if bits == 4:
            unpack(unpacked.unsafe_offset(g * w.group * PANEL), block, w.group)
    comptime if bits == 4:
        return {unpacked, w.group * PANEL, scales, count}
    else:
        return {w.block(panel, first), w.block_bytes(w.group), scales, count}


@always_inline
def add_groups[
    offsets: Bool
](
    mut totals: Array[Floats, TILE_ROWS],
    x: TiledQuads,
    m: Int,
    g: Int,
    groups: Groups,
    lane: Int,
    mut asked: Asked,
    lines: Int,
):
    """Adds the products of 16 rows, from m on, with 16 lanes of some groups, from g on."""
    var buffer = Array[Int32, IN_FLIGHT * TILE_ROWS * TILE_LANES](uninitialized=True)
    var dots = untracked(buffer.unsafe_ptr())
    var group = x.group()
    var step = x.step()
    for begin in range(0, groups.count + ADDED_AFTER, IN_FLIGHT):
        comptime for i in range(IN_FLIGHT):
            var now = begin + i
            if now < groups.count:
                asked.ask(lines)
                zero_tile[i]()
                var values = groups.values.unsafe_offset(now * groups.stride + 4 * lane)
                for k in range(0, group, step):
                    stream_tile[4 + i % 2](x.tile(m, (g + now) * group + k), step)
                    load_tile[6 + i % 2](values.unsafe_offset(k * PANEL), QUADS)
                    add_int8[i, 4 + i % 2, 6 + i % 2]()
            if STORED_AFTER <= now < groups.count + STORED_AFTER:
                comptime tile = (i - STORED_AFTER) % IN_FLIGHT
                store_tile[tile](dots.unsafe_offset(tile * TILE_ROWS * TILE_LANES), 4 * TILE_LANES)
            if ADDED_AFTER <= now < groups.count + ADDED_AFTER:
                comptime tile = (i - ADDED_AFTER) % IN_FLIGHT
                var done = now - ADDED_AFTER
                add_group[offsets](
                    totals,
                    dots.unsafe_offset(tile * TILE_ROWS * TILE_LANES),
                    x.scales(m, g + done),
                    groups.scales.unsafe_offset(2 * PANEL * done + lane),
                )
    _ = buffer^


@always_inline
def add_group[
    offsets: Bool
](
    mut totals: Array[Floats, TILE_ROWS],
    dots: ReadPtr[DType.int32],
    units: ReadPtr[DType.float32],
    scales: ReadPtr[DType.float32],
):
    """Adds a group's sums of integers to those of numbers."""
    var scale = scales.unsafe_load[width=TILE_LANES](0)
    comptime for r in range(TILE_ROWS):
        var dot = dots.unsafe_load[width=TILE_LANES](r * TILE_LANES).cast[DType.float32]()
        var unit = Floats(units[unsafe_offset=r])
        var sum_ = Floats(units[unsafe_offset=TILE_ROWS + r])
        comptime if offsets:
            totals[r] = fma(scale, dot * unit, totals[r])
            totals[r] = fma(-scales.unsafe_load[width=TILE_LANES](PANEL), sum_, totals[r])
        else:
            totals[r] = fma(scale, fma(dot, unit, sum_), totals[r])


@always_inline
def unpack(target: WritePtr[DType.uint8], block: ReadPtr[DType.uint8], group: Int):
    """Writes the values of a block of 4 bits as those of one of 8 bits."""
    comptime width = 64
    for step in range(group // 8):
        comptime for i in range(0, QUADS, width):
            var both = block.unsafe_load[width=width](step * QUADS + i)
            target.unsafe_store(2 * step * QUADS + i, both & 15)
            target.unsafe_store((2 * step + 1) * QUADS + i, both >> 4)
