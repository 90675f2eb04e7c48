"""The ops of linear layers on quantised weights, and of tables of them; see `quantized.mojo`."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .packed import PANEL
from .quantized import quantized_linear
from .quantized_rows import QUADS, QuantizedMatrix, QuantizedRows, quantize_row
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, require_cpu, untracked


@extensibility.register("mili.quantize_rows")
struct QuantizeRows:
    """Rounds `x[T, K]` to int8 in groups of columns: `values[T, K]`, and `scales[T, groups, 2]`."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        values: OutputTensor[dtype=DType.int8, rank=2, ...],
        scales: OutputTensor[dtype=DType.float32, rank=3, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        var columns = x.dim_size(1)
        var groups = scales.dim_size(1)
        var vp = untracked(values.unsafe_ptr())
        var sp = untracked(scales.unsafe_ptr())
        var xp = untracked(x.unsafe_ptr())

        def rows(begin: Int, end: Int) {imm}:
            for t in range(begin, end):
                quantize_row(
                    vp.unsafe_offset(t * columns),
                    sp.unsafe_offset(2 * t * groups),
                    xp.unsafe_offset(t * columns),
                    groups,
                    columns // groups,
                )

        parallel_ranges(x.dim_size(0), 4 * columns, rows)


@extensibility.register("mili.quantized_linear")
struct QuantizedLinear:
    """`y[T, N] = x[T, K] @ w[N, K].T`; x from `mili.quantize_rows`, w packed as [N / 64, groups, block]."""

    @staticmethod
    def execute[
        target: StaticString, isa: StaticString, bits: Int, offsets: Bool
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        values: InputTensor[dtype=DType.int8, rank=2, ...],
        scales: InputTensor[dtype=DType.float32, rank=3, ...],
        w: InputTensor[dtype=DType.uint8, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        var groups = w.dim_size(1)
        quantized_linear[isa](
            untracked(y.unsafe_ptr()),
            QuantizedRows(untracked(values.unsafe_ptr()), untracked(scales.unsafe_ptr()), values.dim_size(1), groups),
            values.dim_size(0),
            QuantizedMatrix[bits, offsets](
                untracked(w.unsafe_ptr()), y.dim_size(1), groups, values.dim_size(1) // groups
            ),
        )


@extensibility.register("mili.gather_quantized_rows")
struct GatherQuantizedRows:
    """`y[R, D] = table[rows[R], :]`, from a table that is packed as [N / 64, groups, block]."""

    @staticmethod
    def execute[
        target: StaticString, bits: Int, offsets: Bool, group: Int
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        table: InputTensor[dtype=DType.uint8, rank=3, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        comptime columns = 32 // bits
        comptime zero = 1 << (bits - 1)
        var size = y.dim_size(1)
        var w = QuantizedMatrix[bits, offsets](
            untracked(table.unsafe_ptr()), PANEL * table.dim_size(0), table.dim_size(1), group
        )
        var yp = untracked(y.unsafe_ptr())
        var rp = untracked(rows.unsafe_ptr())

        def gather(begin: Int, end: Int) {imm}:
            for r in range(begin, end):
                var row = Int(rp[unsafe_offset=r])
                var out_row = yp.unsafe_offset(r * size)
                for k in range(size):
                    var block = w.block(row // PANEL, k // group)
                    var step, column = divmod(k % group, columns)
                    var half, within = divmod(column, 4)
                    var byte = block[unsafe_offset=step * QUADS + row % PANEL * 4 + within]
                    var value = (byte >> UInt8(half * bits)) & UInt8((1 << bits) - 1)
                    var scales = w.scales(block)
                    var scale = scales[unsafe_offset=row % PANEL].cast[DType.float32]()
                    comptime if offsets:
                        var offset = scales[unsafe_offset=PANEL + row % PANEL].cast[DType.float32]()
                        out_row[unsafe_offset=k] = scale * value.cast[DType.float32]() - offset
                    else:
                        out_row[unsafe_offset=k] = scale * (value.cast[DType.float32]() - Float32(zero))

        parallel_ranges(y.dim_size(0), size, gather)
