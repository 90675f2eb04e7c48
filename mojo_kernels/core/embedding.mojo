"""Rows of a table by index: token embeddings, and the hidden states whose logits are wanted."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from ..gpu.elementwise import launch_gather
from .packed import PANEL, pack_factor
from ..utils.parallel import parallel_ranges
from ..utils.simd import store_row
from ..utils.types import floats, require_cpu, untracked


@extensibility.register("mili.gather_rows")
struct GatherRows:
    """`y[R, D] = table[rows[R], :]` in y's type, float32 on a CPU; rows must lie inside the table."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[rank=2, ...],
        table: InputTensor[rank=2, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            launch_gather(
                y.unsafe_ptr(), table.unsafe_ptr(), rows.unsafe_ptr(), y.dim_size(0), y.dim_size(1), ctx
            )
        else:
            var size = y.dim_size(1)
            var yp = floats(y.unsafe_ptr())
            var tp = untracked(table.unsafe_ptr())
            var rp = untracked(rows.unsafe_ptr())

            def gather(begin: Int, end: Int) {imm}:
                for r in range(begin, end):
                    var source = tp.unsafe_offset(Int(rp[unsafe_offset=r]) * size)
                    store_row(yp.unsafe_offset(r * size), source, size)

            parallel_ranges(y.dim_size(0), size, gather)


@extensibility.register("mili.gather_packed_rows")
struct GatherPackedRows:
    """As `mili.gather_rows`, from a table that is packed as [N / 64, D / P, 64 P]; see `packed.mojo`."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        table: InputTensor[rank=3, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        comptime factor = pack_factor[table.dtype]()
        var size = y.dim_size(1)
        var panel_size = table.dim_size(1) * table.dim_size(2)
        var yp = untracked(y.unsafe_ptr())
        var tp = untracked(table.unsafe_ptr())
        var rp = untracked(rows.unsafe_ptr())

        def gather(begin: Int, end: Int) {imm}:
            for r in range(begin, end):
                var row = Int(rp[unsafe_offset=r])
                var source = tp.unsafe_offset(row // PANEL * panel_size + row % PANEL * factor)
                var out_row = yp.unsafe_offset(r * size)
                for i in range(size):
                    var place = i // factor * PANEL * factor + i % factor
                    out_row[unsafe_offset=i] = source[unsafe_offset=place].cast[DType.float32]()

        parallel_ranges(y.dim_size(0), size, gather)
