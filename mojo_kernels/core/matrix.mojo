"""A packed matrix of any type, as a transformer block multiplies it."""

from std.math import ceildiv

from .float_rows import Columns, Rows, block_rows
from .linear import linear_panel
from .linear_weights import LinearWeights, RowRange
from .packed import PANEL, pack_factor
from .quantized import quantized_panel
from .quantized_amx import TiledQuads, by_tiles, quantized_panel_by_amx, sum_weight
from .quantized_rows import QuantizedMatrix, QuantizedRows, quantize_row
from .scaled_linear import scaled_panel
from .scaled_rows import GROUP as SCALED_GROUP, ScaledRows, WHOLE_BLOCKS, scaled_panel_size
from .tiled_linear import STEP, TiledRows, tiled_panel
from ..utils.isa import has_tiles
from ..utils.simd import store_row
from ..utils.tiles import TILE_ROWS
from ..utils.types import ReadPtr, WritePtr

comptime BLOCK_NUMBERS = 256 * 1024
"""Of rows that pass one panel after the other where there are tiles, which multiply faster than other caches give."""
comptime LEAST_BLOCK = 256
"""Rows of a block at least, for each block has all weights pass."""
comptime PART = 768
"""Columns that a group of panels is multiplied with at a time."""
comptime GROUP = 4
"""Panels of a group."""


@fieldwise_init
struct Matrix[isa: StaticString, dtype: DType, bits: Int, offsets: Bool, rounds: Bool](LinearWeights):
    """A matrix w of a linear layer y = x @ w.T.

    Parameters:
        isa: Instructions to use.
        dtype: Type of w; uint8 where it is quantised.
        bits: Of a quantised weight; 16 where w is float16 or int16 with scales, and x is rounded so too.
        offsets: Whether quantised weights have offsets.
        rounds: Whether x is rounded to bfloat16 where w has that type.
    """

    comptime quantized = Self.dtype == DType.uint8
    comptime scaled = Self.bits == 16
    comptime operand = DType.bfloat16 if Self.rounds and Self.dtype == DType.bfloat16 else DType.float32
    """Type of x where w is not quantised."""
    comptime block = 0 if Self.quantized or Self.scaled else block_rows[Self.isa, Self.operand]()
    comptime plain = not Self.quantized and not Self.scaled and Self.operand == DType.float32 and Self.block == 0
    comptime together = WHOLE_BLOCKS if Self.scaled else max(Self.block, 1)
    comptime tiled = has_tiles[Self.isa]() and Self.operand == DType.bfloat16
    comptime Tiled = TiledRows[tiled=True]

    var data: ReadPtr[Self.dtype]
    var rows: Int
    var columns: Int
    var groups: Int
    """Groups of columns in a row of a quantised matrix."""

    @always_inline
    def panels(self) -> Int:
        return ceildiv(self.rows, PANEL)

    @always_inline
    def panel_size(self) -> Int:
        """Elements of a panel."""
        comptime if Self.quantized:
            return self.groups * QuantizedMatrix[Self.bits, Self.offsets].block_bytes(self.columns // self.groups)
        elif Self.scaled:
            return scaled_panel_size(self.columns)
        else:
            comptime factor = pack_factor[Self.dtype]()
            return ceildiv(self.columns, factor) * factor * PANEL

    @always_inline
    def quads(self, memory: WritePtr[DType.float32], tokens: Int) -> TiledQuads:
        """Rows that tiles multiply with a quantised matrix."""
        return {memory.unsafe_bitcast[Int8](), tokens, self.columns, self.groups}

    @always_inline
    def scaled_rows(self, memory: WritePtr[DType.float32], tokens: Int) -> ScaledRows[Self.dtype]:
        """Rows that share scales."""
        return {memory.unsafe_bitcast[UInt32](), tokens, self.columns}

    @always_inline
    def row_block(self, tokens: Int) -> Int:
        var most = tokens
        comptime if has_tiles[Self.isa]() and (Self.tiled or Self.quantized):
            most = max(LEAST_BLOCK, BLOCK_NUMBERS // self.columns)
        if tokens <= most:
            return max(tokens, 1)
        return ceildiv(ceildiv(tokens, ceildiv(tokens, most)), TILE_ROWS) * TILE_ROWS

    @always_inline
    def take_rows(
        self, memory: WritePtr[DType.float32], tokens: Int, t: Int, x: ReadPtr[DType.float32], x_stride: Int
    ):
        comptime if Self.scaled:
            var rows = self.scaled_rows(memory, tokens)
            for m in range(t, min(t + Self.together, tokens)):
                rows.put(m, x.unsafe_offset((m - t) * x_stride))
        elif Self.block > 0:
            Rows[DType.float32, Self.block](memory, tokens, self.columns).put(t, x, x_stride)
        else:
            self.take_columns(memory, tokens, t, {0, self.columns}, x)

    @always_inline
    def unit(self) -> Int:
        comptime if Self.scaled:
            return SCALED_GROUP if Self.dtype == DType.int16 else 0
        elif Self.block > 0:
            return 0
        elif Self.quantized:
            return self.columns // self.groups
        else:
            return STEP if Self.tiled else 1

    @always_inline
    def take_columns(
        self, memory: WritePtr[DType.float32], tokens: Int, t: Int, part: Columns, x: ReadPtr[DType.float32]
    ):
        comptime if Self.quantized:
            if by_tiles[Self.isa](tokens):
                self.quads(memory, tokens).put(t, part, x, sum_weight[Self.bits, Self.offsets]())
                return
            var group = self.columns // self.groups
            var scales = memory.unsafe_offset(tokens * self.columns // 4 + 2 * (t * self.groups + part.begin // group))
            var values = memory.unsafe_bitcast[Int8]().unsafe_offset(t * self.columns + part.begin)
            quantize_row(values, scales, x, (part.end - part.begin) // group, group)
        elif Self.scaled:
            comptime if Self.dtype == DType.int16:  # float16 has no units
                self.scaled_rows(memory, tokens).put_groups(t, part, x)
        elif Self.tiled:
            Self.Tiled(memory.unsafe_bitcast[BFloat16](), tokens, self.columns).put(t, part, x)
        else:
            var row = memory.unsafe_bitcast[Scalar[Self.operand]]().unsafe_offset(t * self.columns)
            store_row(row.unsafe_offset(part.begin), x, part.end - part.begin)

    @always_inline
    def multiply(
        self,
        y: WritePtr[DType.float32],
        y_stride: Int,
        memory: WritePtr[DType.float32],
        tokens: Int,
        rows: RowRange,
        panel: Int,
        next: ReadPtr[DType.uint8],
    ):
        comptime if Self.quantized:
            var w = QuantizedMatrix[Self.bits, Self.offsets](
                rebind[ReadPtr[DType.uint8]](self.data), self.rows, self.groups, self.columns // self.groups
            )
            comptime if has_tiles[Self.isa]():
                if by_tiles[Self.isa](tokens):
                    var quads = self.quads(memory, tokens)
                    quantized_panel_by_amx(y, y_stride, quads, rows.first, rows.count, w, panel, next)
                    return
            var x = QuantizedRows(
                memory.unsafe_bitcast[Int8](),
                memory.unsafe_offset(tokens * self.columns // 4),
                self.columns,
                self.groups,
            )
            quantized_panel[Self.isa](y, y_stride, x, tokens, w, panel, {next})
        else:
            var w = self.data.unsafe_offset(panel * self.panel_size())
            var outputs = min(PANEL, self.rows - panel * PANEL)
            comptime if Self.scaled:
                scaled_panel[Self.isa](y, y_stride, self.scaled_rows(memory, tokens), w, outputs, next)
            elif Self.tiled:
                var x = Self.Tiled(memory.unsafe_bitcast[BFloat16](), tokens, self.columns)
                var weights = rebind[ReadPtr[DType.bfloat16]](w)
                tiled_panel(y, y_stride, x, rows.first, rows.count, weights, {0, self.columns}, outputs, {next})
            else:
                var x = Rows[Self.operand, Self.block](
                    memory.unsafe_bitcast[Scalar[Self.operand]](), tokens, self.columns
                )
                linear_panel[Self.isa, Self.operand, Self.dtype](y, y_stride, x, w, outputs, {next})

    @always_inline
    def group(self, tokens: Int) -> Int:
        comptime if Self.tiled:
            var several = self.columns >= 2 * PART and tokens > LEAST_BLOCK // 2 and self.rows % (GROUP * PANEL) == 0
            return GROUP if several else 1
        else:
            return 1

    @always_inline
    def multiply_group(
        self,
        y: WritePtr[DType.float32],
        memory: WritePtr[DType.float32],
        tokens: Int,
        rows: RowRange,
        first: Int,
        next: ReadPtr[DType.uint8],
    ):
        comptime if Self.tiled:
            var x = Self.Tiled(memory.unsafe_bitcast[BFloat16](), tokens, self.columns)
            var panel = rebind[ReadPtr[DType.bfloat16]](self.data).unsafe_offset(first * self.panel_size())
            for begin in range(0, self.columns, PART):
                var end = min(begin + PART, self.columns)
                for p in range(GROUP):
                    var w = panel.unsafe_offset(p * self.panel_size())
                    var then = w.unsafe_offset(self.panel_size() + begin * PANEL).unsafe_bitcast[UInt8]()
                    if p + 1 == GROUP:
                        then = panel.unsafe_offset(end * PANEL).unsafe_bitcast[UInt8]() if end < self.columns else next
                    var to = y.unsafe_offset(p * rows.count * PANEL)
                    tiled_panel(to, PANEL, x, rows.first, rows.count, w, {begin, end}, PANEL, {then})

    @always_inline
    def panel(self, index: Int) -> ReadPtr[DType.uint8]:
        return self.data.unsafe_offset(index * self.panel_size()).unsafe_bitcast[UInt8]()

    @always_inline
    def later(self, matrices: Int) -> Self:
        var offset = matrices * self.panels() * self.panel_size()
        return {self.data.unsafe_offset(offset), self.rows, self.columns, self.groups}
