"""SwiGLU (Shazeer 2020, arXiv:2002.05202): the gate of the feed-forward block."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from ..gpu.elementwise import launch_swiglu
from ..utils.exp import exp_vector
from ..utils.parallel import parallel_ranges
from ..utils.simd import WIDTH
from ..utils.types import ReadPtr, WritePtr, floats


@always_inline
def silu[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """`x * sigmoid(x)`."""
    return x / (1 + exp_vector[width](-x))


@always_inline
def swiglu_row(y: WritePtr[DType.float32], gate: ReadPtr[DType.float32], up: ReadPtr[DType.float32], size: Int):
    """`y = silu(gate) * up` over `size` numbers; y may be gate."""
    var i = 0
    while i + WIDTH <= size:
        y.unsafe_store(i, silu(gate.unsafe_load[width=WIDTH](i)) * up.unsafe_load[width=WIDTH](i))
        i += WIDTH
    while i < size:
        y[unsafe_offset=i] = silu[1](gate[unsafe_offset=i]) * up[unsafe_offset=i]
        i += 1


@extensibility.register("mili.swiglu")
struct SwiGLU:
    """`y[T, F] = silu(gate) * up` for `gate_up[T, 2 F]`, which holds gate and then up in each row."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        gate_up: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            launch_swiglu(y.unsafe_ptr(), gate_up.unsafe_ptr(), y.dim_size(0), y.dim_size(1), ctx)
        else:
            var size = y.dim_size(1)
            var yp = floats(y.unsafe_ptr())
            var gp = floats(gate_up.unsafe_ptr())

            def rows(begin: Int, end: Int) {imm}:
                for t in range(begin, end):
                    var gate = gp.unsafe_offset(2 * t * size)
                    swiglu_row(yp.unsafe_offset(t * size), gate, gate.unsafe_offset(size), size)

            parallel_ranges(y.dim_size(0), 8 * size, rows)
