"""Linear layers on e4m3 weights with scales, as Qwen's FP8 checkpoints have them; on GPUs only.

Weights are w[N, K] with scales[N / 8, K / 128], rounded up: one for 8 outputs and 128 columns.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from ..gpu.float8 import launch_quantize_float8
from ..gpu.linear_launch import launch_linear
from ..gpu.linear_products import FLOAT8, WIDENED
from ..utils.types import require_gpu


@extensibility.register("mili.quantize_float8")
struct QuantizeFloat8:
    """Rounds `x[T, K]` to e4m3, with a scale for each row and 128 columns: `values[T, K]`, `scales[T, K / 128]`."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        values: OutputTensor[dtype=DType.uint8, rank=2, ...],
        scales: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.bfloat16, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        require_gpu[target]()
        launch_quantize_float8(
            values.unsafe_ptr(), scales.unsafe_ptr(), x.unsafe_ptr(), x.dim_size(0), x.dim_size(1), ctx
        )


@extensibility.register("mili.float8_linear")
struct Float8Linear:
    """`y[T, N] = x[T, K] @ w[N, K].T` for x from `mili.quantize_float8`."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        x: InputTensor[dtype=DType.uint8, rank=2, ...],
        x_scales: InputTensor[dtype=DType.float32, rank=2, ...],
        w: InputTensor[dtype=DType.uint8, rank=2, ...],
        w_scales: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        require_gpu[target]()
        launch_linear[FLOAT8](
            y.unsafe_ptr(),
            x.unsafe_ptr(),
            w.unsafe_ptr(),
            x_scales.unsafe_ptr(),
            w_scales.unsafe_ptr(),
            x.dim_size(0),
            w.dim_size(0),
            x.dim_size(1),
            ctx,
        )


@extensibility.register("mili.widened_linear")
struct WidenedLinear:
    """`y[T, N] = x[T, K] @ w[N, K].T` for x in bfloat16, to which the weights are widened in registers."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        x: InputTensor[dtype=DType.bfloat16, rank=2, ...],
        w: InputTensor[dtype=DType.uint8, rank=2, ...],
        w_scales: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        require_gpu[target]()
        launch_linear[WIDENED](
            y.unsafe_ptr(),
            x.unsafe_ptr().unsafe_bitcast[UInt8](),
            w.unsafe_ptr(),
            w_scales.unsafe_ptr(),  # x has none
            w_scales.unsafe_ptr(),
            x.dim_size(0),
            w.dim_size(0),
            x.dim_size(1),
            ctx,
        )
