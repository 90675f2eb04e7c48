"""Rotary position embedding (RoFormer, Su et al. 2021, arXiv:2104.09864), in the half-split form of Qwen3."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import cos, sin

from ..gpu.elementwise import launch_rope_table
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, untracked


@always_inline
def rotate_half(x: WritePtr[DType.float32], rope: ReadPtr[DType.float32], head_dim: Int):
    """Rotates one head in place: pairs are (x[i], x[i + head_dim / 2]).

    Args:
        x: [head_dim].
        rope: [head_dim]: the cosines of the row's angles, then the sines.
        head_dim: A multiple of 32.
    """
    comptime width = 16
    var half = head_dim // 2
    for i in range(0, half, width):
        var c = rope.unsafe_load[width=width](i)
        var s = rope.unsafe_load[width=width](half + i)
        var a = x.unsafe_load[width=width](i)
        var b = x.unsafe_load[width=width](half + i)
        x.unsafe_store(i, a * c - b * s)
        x.unsafe_store(half + i, b * c + a * s)


@extensibility.register("mili.rope_table")
struct RopeTable:
    """`y[T, D] = [cos(p f), sin(p f)] * scale` for `positions[T]` and `frequencies[D / 2]`.

    Made once per step and read by every layer. `scale` is YaRN's attention factor, else 1.
    """

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        positions: InputTensor[dtype=DType.int32, rank=1, ...],
        frequencies: InputTensor[dtype=DType.float32, rank=1, ...],
        scale: Float32,
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            var count = positions.dim_size(0)
            launch_rope_table(
                y.unsafe_ptr(),
                positions.unsafe_ptr(),
                frequencies.unsafe_ptr(),
                count,
                frequencies.dim_size(0),
                scale,
                ctx,
            )
        else:
            var half = frequencies.dim_size(0)
            var yp = untracked(y.unsafe_ptr())
            var pp = untracked(positions.unsafe_ptr())
            var fp = untracked(frequencies.unsafe_ptr())

            def rows(begin: Int, end: Int) {imm}:
                comptime width = 16
                for t in range(begin, end):
                    var position = pp[unsafe_offset=t].cast[DType.float32]()
                    for i in range(0, half, width):
                        var angle = position * fp.unsafe_load[width=width](i)
                        yp.unsafe_store(2 * t * half + i, cos(angle) * scale)
                        yp.unsafe_store((2 * t + 1) * half + i, sin(angle) * scale)

            parallel_ranges(y.dim_size(0), 64 * half, rows)
