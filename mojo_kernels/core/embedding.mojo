"""Rows of a table by index: token embeddings, and the hidden states whose logits are wanted."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from ..utils.parallel import parallel_ranges
from ..utils.simd import WIDTH, widen
from ..utils.types import require_cpu, untracked


@extensibility.register("mili.gather_rows")
struct GatherRows:
    """`y[R, D] = table[rows[R], :]` as float32; rows must lie inside the table."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        table: InputTensor[rank=2, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        var size = y.dim_size(1)
        var yp = untracked(y.unsafe_ptr())
        var tp = untracked(table.unsafe_ptr())
        var rp = untracked(rows.unsafe_ptr())

        def gather(begin: Int, end: Int) {imm}:
            for r in range(begin, end):
                var source = tp.unsafe_offset(Int(rp[unsafe_offset=r]) * size)
                var out_row = yp.unsafe_offset(r * size)
                var i = 0
                while i + WIDTH <= size:
                    out_row.unsafe_store(i, widen(source, i))
                    i += WIDTH
                while i < size:
                    out_row[unsafe_offset=i] = source[unsafe_offset=i].cast[DType.float32]()
                    i += 1

        parallel_ranges(y.dim_size(0), size, gather)
