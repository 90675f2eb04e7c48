"""Many rows against a panel of quantised weights on Intel AMX; the bits are those of `quantized.mojo`'s tiles, for
sums of integers are exact in any order.
"""

from std.math import fma

from .packed import PANEL, fetch_bytes
from .quantized_rows import QUADS, QuantizedMatrix, QuantizedRows
from ..utils.tiles import TILE_LANES, TILE_ROWS, add_int8, configure_tiles, load_tile, release_tiles, store_tile, zero_tile
from ..utils.types import ReadPtr, WritePtr, untracked

comptime COLUMNS = 64
"""Most columns of a tile."""
comptime LARGEST_GROUP = 128
comptime VECTORS = PANEL // TILE_LANES
comptime Floats = SIMD[DType.float32, TILE_LANES]


def quantized_panel_by_amx[
    bits: Int, offsets: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: QuantizedRows,
    m_size: Int,
    w: QuantizedMatrix[bits, offsets],
    panel: Int,
    next: ReadPtr[DType.uint8],
) -> Int:
    """As many rows of x as fill tiles, against a panel of 64 rows.

    Parameters:
        bits: Of a weight.
        offsets: Whether weights have offsets.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        m_size: How many.
        w: The matrix.
        panel: Number of the panel.
        next: The panel that is needed next.

    Returns:
        How many rows are done.
    """
    comptime base = 0 if offsets else -(1 << (bits - 1))
    var whole = m_size // TILE_ROWS * TILE_ROWS
    if whole == 0:
        return 0
    var unpacked = Array[UInt8, LARGEST_GROUP * PANEL if bits == 4 else 1](uninitialized=True)
    var sums = Array[Int32, TILE_ROWS * PANEL](uninitialized=True)
    var dots = untracked(sums.unsafe_ptr())
    configure_tiles(TILE_ROWS, TILE_ROWS, depth=min(w.group, COLUMNS) // 4)
    for g in range(w.groups):
        var block = w.block(panel, g)
        fetch_bytes(w.block(panel, g + 1) if g + 1 < w.groups else next, w.block_bytes(w.group))
        var values = block
        comptime if bits == 4:
            values = untracked(unpacked.unsafe_ptr())
            unpack(untracked(unpacked.unsafe_ptr()), block, w.group)
        var scale = Array[Floats, VECTORS](fill=Floats(0))
        var offset = Array[Floats, VECTORS](fill=Floats(0))
        comptime for v in range(VECTORS):
            scale[v] = w.scales(block).unsafe_load[width=TILE_LANES](TILE_LANES * v).cast[DType.float32]()
            comptime if offsets:
                offset[v] = w.scales(block).unsafe_load[width=TILE_LANES](PANEL + TILE_LANES * v).cast[DType.float32]()
        for m in range(0, whole, TILE_ROWS):
            comptime for v in range(VECTORS):
                zero_tile[v]()
            for k in range(0, w.group, COLUMNS):
                load_tile[4](x.values.unsafe_offset(m * x.columns + g * w.group + k), x.columns)
                comptime for v in range(VECTORS):
                    load_tile[6 + v % 2](values.unsafe_offset(k * PANEL + 4 * TILE_LANES * v), QUADS)
                    add_int8[v, 4, 6 + v % 2]()
            comptime for v in range(VECTORS):
                store_tile[v](dots.unsafe_offset(v * TILE_LANES), 4 * PANEL)
            for r in range(TILE_ROWS):
                var unit = x.scales[unsafe_offset=2 * ((m + r) * x.groups + g)]
                var sum_ = x.scales[unsafe_offset=2 * ((m + r) * x.groups + g) + 1]
                var row = y.unsafe_offset((m + r) * y_stride)
                comptime for v in range(VECTORS):
                    var dot = dots.unsafe_load[width=TILE_LANES](r * PANEL + v * TILE_LANES).cast[DType.float32]()
                    var total = row.unsafe_load[width=TILE_LANES](v * TILE_LANES) if g > 0 else Floats(0)
                    total = fma(scale[v], fma(dot, Floats(unit), Floats(Float32(base) * sum_)), total)
                    comptime if offsets:
                        total = fma(-offset[v], Floats(sum_), total)
                    row.unsafe_store(v * TILE_LANES, total)
    release_tiles()
    _ = sums^
    _ = unpacked^
    return whole


@always_inline
def unpack(target: WritePtr[DType.uint8], block: ReadPtr[DType.uint8], group: Int):
    """Writes the values of a block of 4 bits as those of one of 8 bits."""
    comptime width = 64
    for step in range(group // 8):
        comptime for i in range(0, QUADS, width):
            var both = block.unsafe_load[width=width](step * QUADS + i)
            target.unsafe_store(2 * step * QUADS + i, both & 15)
            target.unsafe_store((2 * step + 1) * QUADS + i, both >> 4)
