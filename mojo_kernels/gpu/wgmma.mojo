"""A warpgroup's matrix products on Hopper: wgmma with float32 sums, of bfloat16, and of e4m3 for linear layers (PTX ISA,
wgmma; sm_90a).

Operands lie in shared memory in atoms of 8 rows of 64 columns under the 128-byte swizzle, as pages have them
(`pages.mojo`). A thread has of the sums [64, N] what it has of four `mma.sync` tiles one above the other: warp w the
rows 16 w to 16 w + 15, in those the fragments that `mma.mojo` describes.

A product is one piece of assembly from the fence to the wait, so that the compiler can't put anything between them that
touches its registers, which would make the assembler run the products one by one. Only those of many rows' linear layers
are MAX's, which have any number of sums. There a loop ends between the wait and what reads the sums, which the compiler does
not reach over. Should it once, the assembler tells (`serialized` in `tests/ptx/check.py`), and so do sums without meaning.
"""

from max.gpu.compute.mma import (
    WGMMADescriptor,
    wgmma_async,
    wgmma_commit_group_sync,
    wgmma_fence_aligned,
    wgmma_wait_group_sync,
)
from std.sys import _RegisterPackType, inlined_assembly
from std.utils import StaticTuple

from .mma import Left, SharedTile, Sums

comptime HOPPER = "sm_90a"
"""The architecture that has wgmma; its successors have not."""
comptime GROUP = 128
"""Threads of a warpgroup."""
comptime GROUP_ROWS = 64
"""Rows of its products."""
comptime WGMMA_KEYS = 128
"""Keys of `scores_of` and of `add_weighted`."""
comptime FEW_OUTPUTS = 32
"""Outputs of `few_rows_products`."""
comptime F = Float32


@always_inline
def descriptor(tile: SharedTile, leading: Int, stride: Int) -> UInt64:
    """A matrix descriptor (PTX ISA, 9.7.15.5.1) of a tile under the 128-byte swizzle.

    Args:
        tile: Its first byte, aligned to 1024.
        leading: Bytes from 64 columns to the next 64, where the columns are the product's rows or columns.
        stride: Bytes from 8 rows to the next 8.

    Returns:
        The descriptor.
    """
    var address = UInt64(Int(tile)) & 0x3FFFF
    return address >> 4 | UInt64(leading >> 4) << 16 | UInt64(stride >> 4) << 32 | UInt64(1) << 62


def numbered(first: Int, count: Int) -> String:
    """`{$first, $(first + 1), ...}`: operands of the assembly."""
    var text = String("{")
    for i in range(first, first + count):
        text += ("" if i == first else ", ") + "$" + String(i)
    return text + "}"


def tied(count: Int) -> String:
    """Constraints of inputs that are in the registers of the first outputs."""
    var text = String()
    for i in range(count):
        text += "," + String(i)
    return text


def scores_assembly[head_dim: Int]() -> String:
    """Operands: 64 sums, the descriptors of queries and of keys."""
    var text = String(
        "{\n.reg .pred %p_sum;\n.reg .b64 %rd_a;\n.reg .b64 %rd_b;\nwgmma.fence.sync.aligned;\n"
        "setp.ne.b32 %p_sum, 0, 0;\n"
    )
    for k in range(head_dim // 16):
        # Sixteen columns are 32 bytes of an atom's row; atoms of other columns follow the first.
        var offset = String((k // 4 * 1024 + k % 4 * 32) >> 4)
        text += "add.s64 %rd_a, $64, " + offset + ";\nadd.s64 %rd_b, $65, " + offset + ";\n"
        text += (
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
            + numbered(0, 64)
            + ", %rd_a, %rd_b, %p_sum, 1, 1, 0, 0;\n"
        )
        if k == 0:
            text += "setp.ne.b32 %p_sum, 1, 0;\n"
    return text + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}"


def weighted_assembly[head_dim: Int]() -> String:
    """Operands: head_dim / 2 sums, 32 registers of weights, the values' descriptor."""
    comptime sums = head_dim // 2
    var text = String(
        "{\n.reg .pred %p_sum;\n.reg .b64 %rd_b;\nwgmma.fence.sync.aligned;\nsetp.ne.b32 %p_sum, 1, 0;\n"
    )
    for k in range(WGMMA_KEYS // 16):
        # Sixteen keys are two atoms high.
        text += "add.s64 %rd_b, $" + String(sums + 32) + ", " + String((k * 2 * head_dim * 16) >> 4) + ";\n"
        text += String("wgmma.mma_async.sync.aligned.m64n", head_dim, "k16.f32.bf16.bf16 ")
        text += numbered(0, sums) + ", " + numbered(sums + 4 * k, 4) + ", %rd_b, %p_sum, 1, 1, 1;\n"
    return text + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}"


@always_inline
def scores_of[head_dim: Int](queries: SharedTile, keys: SharedTile) -> Array[Sums, WGMMA_KEYS // 8]:
    """The products of 64 queries with 128 keys, by all threads of a warpgroup together.

    Parameters:
        head_dim: 64 or 128.

    Args:
        queries: [64, head_dim] in atoms.
        keys: [128, head_dim] in atoms.

    Returns:
        A thread's part of [64, 128].
    """
    comptime rows = head_dim * 16
    comptime assembly = scores_assembly[head_dim]()
    comptime constraints = "=f," * 64 + "l,l,~{memory}"
    # fmt: off
    var r = inlined_assembly[
        assembly,
        _RegisterPackType[
            F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
            F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
        ],
        constraints=constraints,
        has_side_effect=True,
    ](descriptor(queries, 16, rows), descriptor(keys, 16, rows))
    # fmt: on
    var scores = Array[Sums, WGMMA_KEYS // 8](fill=Sums(0))
    comptime for n in range(WGMMA_KEYS // 8):
        scores[n] = Sums(r[4 * n], r[4 * n + 1], r[4 * n + 2], r[4 * n + 3])
    return scores^


@always_inline
def add_weighted[
    head_dim: Int
](mut sums: Array[Sums, head_dim // 8], weights: SIMD[DType.uint32, 32], values: SharedTile):
    """Adds the products of 64 rows' weights of 128 keys with the values, by all threads of a warpgroup together.

    Parameters:
        head_dim: 64 or 128.

    Args:
        sums: A thread's part of [64, head_dim].
        weights: A thread's part of [64, 128], four registers for every 16 keys, as `mma.mojo` has a left operand.
        values: [128, head_dim] in atoms.
    """
    comptime assembly = weighted_assembly[head_dim]()
    comptime constraints = "=f," * (head_dim // 2) + "r," * 32 + "l" + tied(head_dim // 2) + ",~{memory}"
    var b = descriptor(values, 1024, head_dim * 16)
    var c = SIMD[DType.float32, head_dim // 2](0)
    comptime for n in range(head_dim // 8):
        comptime for i in range(4):
            c[4 * n + i] = sums[n][i]
    var w = weights
    # fmt: off
    comptime if head_dim == 64:
        var r = inlined_assembly[
            assembly,
            _RegisterPackType[
                F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
            ],
            constraints=constraints,
            has_side_effect=True,
        ](
            w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12], w[13], w[14], w[15],
            w[16], w[17], w[18], w[19], w[20], w[21], w[22], w[23], w[24], w[25], w[26], w[27], w[28], w[29], w[30],
            w[31], b,
            c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15],
            c[16], c[17], c[18], c[19], c[20], c[21], c[22], c[23], c[24], c[25], c[26], c[27], c[28], c[29], c[30],
            c[31],
        )
        comptime for n in range(8):
            sums[n] = Sums(r[4 * n], r[4 * n + 1], r[4 * n + 2], r[4 * n + 3])
    else:
        var r = inlined_assembly[
            assembly,
            _RegisterPackType[
                F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
                F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F,
            ],
            constraints=constraints,
            has_side_effect=True,
        ](
            w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12], w[13], w[14], w[15],
            w[16], w[17], w[18], w[19], w[20], w[21], w[22], w[23], w[24], w[25], w[26], w[27], w[28], w[29], w[30],
            w[31], b,
            c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15],
            c[16], c[17], c[18], c[19], c[20], c[21], c[22], c[23], c[24], c[25], c[26], c[27], c[28], c[29], c[30],
            c[31], c[32], c[33], c[34], c[35], c[36], c[37], c[38], c[39], c[40], c[41], c[42], c[43], c[44], c[45],
            c[46], c[47], c[48], c[49], c[50], c[51], c[52], c[53], c[54], c[55], c[56], c[57], c[58], c[59], c[60],
            c[61], c[62], c[63],
        )
        comptime for n in range(16):
            sums[n] = Sums(r[4 * n], r[4 * n + 1], r[4 * n + 2], r[4 * n + 3])
    # fmt: on


@always_inline
def add_rows_products[
    float8: Bool, outputs: Int
](sums: StaticTuple[Float32, outputs // 2], x: SharedTile, w: SharedTile) -> StaticTuple[Float32, outputs // 2]:
    """Adds the products of 64 rows and some outputs over 128 bytes, by all threads of a warpgroup together.

    What follows must be separated from it by a loop's end, if it touches the sums.

    Parameters:
        float8: Whether x and w have e4m3, 128 columns; else they have bfloat16, 64.
        outputs: How many, a multiple of 8 up to 256.

    Args:
        sums: A thread's part.
        x: [64, 128 bytes] in atoms.
        w: [outputs, 128 bytes] in atoms.

    Returns:
        The new sums.
    """
    comptime kind = DType.float8_e4m3fn if float8 else DType.bfloat16
    comptime depth = 32 if float8 else 16
    var left, right = descriptor(x, 16, 1024), descriptor(w, 16, 1024)
    var result = sums
    wgmma_fence_aligned()
    comptime for k in range(4):
        # A product has 32 bytes of an atom's row.
        comptime along = UInt64(k * 32 >> 4)
        result = wgmma_async[GROUP_ROWS, outputs, depth, DType.float32, outputs // 2, a_type=kind, b_type=kind](
            WGMMADescriptor[kind](Int64(left + along)), WGMMADescriptor[kind](Int64(right + along)), result
        )
    wgmma_commit_group_sync()
    wgmma_wait_group_sync()
    return result


def few_rows_assembly() -> String:
    """Operands: 16 sums, 16 registers of rows, the descriptor of outputs."""
    var text = String(
        "{\n.reg .pred %p_sum;\n.reg .b64 %rd_b;\nwgmma.fence.sync.aligned;\nsetp.ne.b32 %p_sum, 0, 0;\n"
    )
    for k in range(4):
        text += String("add.s64 %rd_b, $32, ", k * 32 >> 4, ";\n")
        text += "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 "
        text += numbered(0, 16) + ", " + numbered(16 + 4 * k, 4) + ", %rd_b, %p_sum, 1, 1;\n"
        if k == 0:
            text += "setp.ne.b32 %p_sum, 1, 0;\n"
    return text + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}"


@always_inline
def few_rows_products(x: SIMD[DType.uint32, 16], w: SharedTile) -> SIMD[DType.float32, 16]:
    """The products of 64 rows and FEW_OUTPUTS outputs over 128 columns of e4m3, by all threads of a warpgroup together.

    Args:
        x: A thread's words of the rows: of each product four, as `mma.mojo` has a left operand.
        w: [FEW_OUTPUTS, 128 bytes] in atoms.

    Returns:
        A thread's part of [64, FEW_OUTPUTS].
    """
    comptime assembly = few_rows_assembly()
    # fmt: off
    var r = inlined_assembly[
        assembly,
        _RegisterPackType[F, F, F, F, F, F, F, F, F, F, F, F, F, F, F, F],
        constraints="=f," * 16 + "r," * 16 + "l,~{memory}",
        has_side_effect=True,
    ](
        x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14], x[15],
        descriptor(w, 16, 1024),
    )
    # fmt: on
    var sums = SIMD[DType.float32, 16](0)
    comptime for i in range(16):
        sums[i] = r[i]
    return sums
