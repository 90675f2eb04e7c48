"""Intel AMX: eight tiles of up to 16 rows of 64 bytes, and products of them.

The compiler knows nothing of tiles, so each instruction is assembly, and which tile is which is up to whoever writes
them. Here tiles 0 to 3 are sums C, 4 and 5 rows of x (A), and 6 and 7 weights (B): C[m, n] += A[m, k] B[k, n], with 16
numbers n in a row of B and of C, and as many k in a row of A as fit 64 bytes; in a row of B the 2 bfloat16 or 4 int8 of
each n lie together. Sums are bfloat16's in float32 or int8's in int32. See Intel's Software Developer's Manual,
volume 1, chapter "Programming with Intel AMX".
"""

from std.sys import inlined_assembly

from .types import ReadPtr, WritePtr

comptime TILE_ROWS = 16
"""Rows of a tile."""
comptime TILE_LANES = 16
"""Sums in a row of C."""
comptime ROW_BYTES = 64
"""Bytes of a row."""
comptime TILES = 8


@always_inline
def configure_tiles(upper: Int, lower: Int, depth: Int = TILE_ROWS):
    """Sets all tiles to zero and gives them their rows; whoever calls this calls `release_tiles` afterwards.

    Args:
        upper: Rows of tiles 0, 1 and 4.
        lower: Rows of tiles 2, 3 and 5.
        depth: Rows of tiles 6 and 7: the pairs of bfloat16, or quads of int8, that a row of 4 or 5 has.
    """
    var config = Array[UInt8, ROW_BYTES](fill=0)
    config[0] = 1  # the palette
    comptime for t in range(TILES):
        config[16 + 2 * t] = UInt8(4 * depth if t == 4 or t == 5 else ROW_BYTES)
    for t in [0, 1, 4]:
        config[48 + t] = UInt8(upper)
    for t in [2, 3, 5]:
        config[48 + t] = UInt8(lower)
    for t in [6, 7]:
        config[48 + t] = UInt8(depth)
    inlined_assembly["ldtilecfg ($0)", NoneType, constraints="r,~{memory}", has_side_effect=True](config.unsafe_ptr())
    _ = config^


@always_inline
def release_tiles():
    """Gives the tiles back: the operating system has less to save."""
    inlined_assembly["tilerelease", NoneType, constraints="~{memory}", has_side_effect=True]()


@always_inline
def zero_tile[t: Int]():
    """Sets a tile to zero."""
    comptime code = String("tilezero %tmm", t)
    inlined_assembly[code, NoneType, constraints="~{memory}", has_side_effect=True]()


@always_inline
def load_tile[t: Int, dtype: DType](source: ReadPtr[dtype], stride: Int):
    """Loads a tile.

    Args:
        source: Its first row.
        stride: Bytes from one row to the next.
    """
    comptime code = String("tileloadd ($0,$1,1), %tmm", t)
    inlined_assembly[code, NoneType, constraints="r,r,~{memory}", has_side_effect=True](source, stride)


@always_inline
def stream_tile[t: Int, dtype: DType](source: ReadPtr[dtype], stride: Int):
    """Loads a tile of what is used once, and leaves the L1 cache to what is used again; see `load_tile`."""
    comptime code = String("tileloaddt1 ($0,$1,1), %tmm", t)
    inlined_assembly[code, NoneType, constraints="r,r,~{memory}", has_side_effect=True](source, stride)


@always_inline
def store_tile[t: Int, dtype: DType](target: WritePtr[dtype], stride: Int):
    """Stores a tile; see `load_tile`."""
    comptime code = String("tilestored %tmm", t, ", ($0,$1,1)")
    inlined_assembly[code, NoneType, constraints="r,r,~{memory}", has_side_effect=True](target, stride)


@always_inline
def add_bfloat16[c: Int, a: Int, b: Int]():
    """C += A B of bfloat16; each sum adds its even products, its odd ones, and then both to C."""
    comptime code = String("tdpbf16ps %tmm", b, ", %tmm", a, ", %tmm", c)
    inlined_assembly[code, NoneType, constraints="~{memory}", has_side_effect=True]()


@always_inline
def add_int8[c: Int, a: Int, b: Int]():
    """C += A B of signed A and unsigned B, exactly."""
    comptime code = String("tdpbsud %tmm", b, ", %tmm", a, ", %tmm", c)
    inlined_assembly[code, NoneType, constraints="~{memory}", has_side_effect=True]()
