"""RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467), alone and fused with the residual addition before it."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import sqrt

from ..utils.parallel import parallel_ranges
from ..utils.simd import WIDTH, sum_of_squares
from ..gpu.normalization import launch_rms_norm
from ..utils.types import ReadPtr, WritePtr, floats, untracked


@always_inline
def rms_norm_row(
    y: WritePtr[DType.float32],
    x: ReadPtr[DType.float32],
    gamma: ReadPtr[DType.float32],
    size: Int,
    eps: Float32,
):
    """`y = x / sqrt(mean(x^2) + eps) * gamma` over one row; y may be x."""
    var scale = 1 / sqrt(sum_of_squares(x, size) / Float32(size) + eps)
    var i = 0
    while i + WIDTH <= size:
        var v = x.unsafe_load[width=WIDTH](i)
        y.unsafe_store(i, v * scale * gamma.unsafe_load[width=WIDTH](i))
        i += WIDTH
    while i < size:
        y[unsafe_offset=i] = x[unsafe_offset=i] * scale * gamma[unsafe_offset=i]
        i += 1


@extensibility.register("mili.rms_norm")
struct RMSNorm:
    """`y[T, D] = x / sqrt(mean(x^2, -1) + eps) * gamma[D]`."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        x: InputTensor[rank=2, ...],
        gamma: InputTensor[dtype=DType.float32, rank=1, ...],
        eps: Float32,
        ctx: DeviceContext,
    ) raises:
        var size = x.dim_size(1)
        comptime if target == "gpu":
            # There is no residual: the pointers in the places of it and of the total are not used.
            var no = gamma.unsafe_ptr()
            launch_rms_norm[add=False](
                y.unsafe_ptr(), no, x.unsafe_ptr(), no, gamma.unsafe_ptr(), x.dim_size(0), size, eps, ctx
            )
        else:
            var yp = floats(y.unsafe_ptr())
            var xp = floats(x.unsafe_ptr())
            var gp = untracked(gamma.unsafe_ptr())

            def rows(begin: Int, end: Int) {imm}:
                for t in range(begin, end):
                    rms_norm_row(yp.unsafe_offset(t * size), xp.unsafe_offset(t * size), gp, size, eps)

            parallel_ranges(x.dim_size(0), 2 * size, rows)


@extensibility.register("mili.add_rms_norm")
struct AddRMSNorm:
    """`total[T, D] = x + residual; y = rms_norm(total) * gamma[D]` in one pass over memory."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        total: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[rank=2, ...],
        residual: InputTensor[dtype=DType.float32, rank=2, ...],
        gamma: InputTensor[dtype=DType.float32, rank=1, ...],
        eps: Float32,
        ctx: DeviceContext,
    ) raises:
        var size = x.dim_size(1)
        comptime if target == "gpu":
            launch_rms_norm[add=True](
                y.unsafe_ptr(),
                total.unsafe_ptr(),
                x.unsafe_ptr(),
                residual.unsafe_ptr(),
                gamma.unsafe_ptr(),
                x.dim_size(0),
                size,
                eps,
                ctx,
            )
        else:
            var yp = floats(y.unsafe_ptr())
            var tp = untracked(total.unsafe_ptr())
            var xp = floats(x.unsafe_ptr())
            var rp = untracked(residual.unsafe_ptr())
            var gp = untracked(gamma.unsafe_ptr())

            def rows(begin: Int, end: Int) {imm}:
                for t in range(begin, end):
                    var at = t * size
                    var i = 0
                    while i + WIDTH <= size:
                        tp.unsafe_store(
                            at + i, xp.unsafe_load[width=WIDTH](at + i) + rp.unsafe_load[width=WIDTH](at + i)
                        )
                        i += WIDTH
                    while i < size:
                        tp[unsafe_offset=at + i] = xp[unsafe_offset=at + i] + rp[unsafe_offset=at + i]
                        i += 1
                    rms_norm_row(yp.unsafe_offset(at), tp.unsafe_offset(at), gp, size, eps)

            parallel_ranges(x.dim_size(0), 3 * size, rows)
