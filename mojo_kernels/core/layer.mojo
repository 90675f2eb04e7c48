"""A transformer block on CPU cores in phases of independent units: h = x + attention(norm(x)), y = h + mlp(norm(h)).

The parts are those of the other files of this folder, and give the same bits. `layers.mojo` hands the units out.
"""

from ..memory.batch import RaggedSlots
from ..memory.kv_cache import PagedKVCache
from ..utils.simd import WIDTH, store_row
from ..utils.types import ReadPtr, WritePtr
from .activations import swiglu_row
from .layer_memory import LayerSizes, LayerVectors, Scratch
from .matrix import LinearWeights, RowRange
from .normalization import rms_norm_row
from .packed import PANEL
from .rope import rotate_half

comptime NORM = 0
comptime HEADS = 1
comptime ATTEND = 2
comptime MERGE = 3
comptime ROUND = 4
comptime MIX = 5
comptime POST_NORM = 6
comptime GATE_UP = 7
comptime SWIGLU = 8
comptime DOWN = 9
comptime PHASES = 10
comptime GATED_ROWS = 192
"""Fewest rows whose gate is applied panel by panel."""


@fieldwise_init
struct LayerWork[
    cache_type: DType,
    query_type: DType,
    head_dim: Int,
    Qkv: LinearWeights,
    Mix: LinearWeights,
    GateUp: LinearWeights,
    Down: LinearWeights,
](TrivialRegisterPassable):
    """One layer's work on one batch, but for attention's own phases."""

    var sizes: LayerSizes
    var x: ReadPtr[DType.float32]
    """[T, hidden]: the layer's input."""
    var y: WritePtr[DType.float32]
    """[T, hidden]: its output; may be x."""
    var rope: ReadPtr[DType.float32]
    """[T, head_dim], see `mili.rope_table`."""
    var scratch: Scratch
    var vectors: LayerVectors
    """Norms and biases."""
    var qkv: Self.Qkv
    """Projection to queries, keys and values."""
    var mix: Self.Mix
    """Projection of what attention gives."""
    var gate_up: Self.GateUp
    """Projection to the MLP's gate and its factor."""
    var down: Self.Down
    """Projection back."""
    var kv: PagedKVCache[Self.cache_type]
    """The layer's cache."""
    var slots: RaggedSlots
    """Where rows write to it."""

    @always_inline
    def later(self, layers: Int) -> Self:
        """The work of a layer that comes so many after this one, the first; it reads what the one before it wrote."""
        return {
            self.sizes,
            ReadPtr[DType.float32](self.y) if layers > 0 else self.x,
            self.y,
            self.rope,
            self.scratch,
            self.vectors.later(layers, self.sizes),
            self.qkv.later(layers),
            self.mix.later(layers),
            self.gate_up.later(layers),
            self.down.later(layers),
            self.kv.later_layer(layers),
            self.slots,
        }

    @always_inline
    def panel(self, phase: Int, unit: Int, gated: Bool) -> ReadPtr[DType.uint8]:
        """The first weights that a unit of a phase needs; those of the phase to come where it needs none."""
        if phase == HEADS:
            return self.qkv.panel(unit % self.sizes.heads() * Self.head_dim // PANEL)
        elif phase == MIX:
            return self.mix.panel(unit % self.mix.panels())
        elif phase == GATE_UP:
            return self.gate_up.panel(unit % self.gate_panels(gated))
        elif phase == DOWN:
            return self.down.panel(unit % self.down.panels())
        elif phase == NORM:
            return self.qkv.panel(0)
        elif phase < MIX:
            return self.mix.panel(0)
        else:
            return self.gate_up.panel(0) if phase < GATE_UP else self.down.panel(0)

    @always_inline
    def do(self, phase: Int, unit: Int, thread: Int, next: ReadPtr[DType.uint8]):
        """Does a unit of a phase other than attention.

        Args:
            phase: The phase.
            unit: The unit.
            thread: Number of the thread where panels of the gate are applied at once (`gates_panels`); else -1.
            next: The panel to ask for meanwhile.
        """
        var s = self.scratch
        if phase == NORM:
            self.norm(self.qkv, unit, self.x, self.vectors.input_norm)
        elif phase == HEADS:
            self.head(unit, next)
        elif phase == ROUND:
            var first = unit * Self.Mix.together
            var size = self.sizes.q_size()
            var rows = s.attended.unsafe_offset(first * size)
            self.mix.take_rows(s.attended_operand, self.sizes.tokens, first, rows, size)
        elif phase == MIX:
            var rows = self.rows_of(self.mix, unit // self.mix.panels())
            var panel = unit % self.mix.panels()
            self.project(self.mix, s.attended if Self.Mix.plain else s.attended_operand, rows, panel, s.between, next)
            if self.vectors.has_biases:
                self.add(rows, panel, s.between, self.vectors.o_bias, 0)
            self.add(rows, panel, s.between, self.x, self.sizes.hidden)
        elif phase == POST_NORM:
            self.norm(self.gate_up, unit, s.between, self.vectors.post_norm)
        elif phase == GATE_UP and thread >= 0:
            self.gated_panel(unit, thread, next)
        elif phase == GATE_UP:
            var rows = self.rows_of(self.gate_up, unit // self.gate_up.panels())
            var panel = unit % self.gate_up.panels()
            var stride = 2 * self.sizes.inner
            var to = s.rows.unsafe_offset(rows.first * stride + panel * PANEL)
            self.gate_up.multiply(to, stride, s.operand, self.sizes.tokens, rows, panel, next)
        elif phase == SWIGLU:
            self.gate(unit, thread >= 0)
        else:
            var rows = self.rows_of(self.down, unit // self.down.panels())
            var panel = unit % self.down.panels()
            self.project(self.down, s.gated_operand, rows, panel, self.y, next)
            self.add(rows, panel, self.y, s.between, self.sizes.hidden)

    @always_inline
    def gate_panels(self, gated: Bool) -> Int:
        """Units of a block of rows in the phase of gate and factor."""
        return self.sizes.inner // PANEL if gated else self.gate_up.panels()

    @always_inline
    def rows_of[W: LinearWeights](self, w: W, block: Int) -> RowRange:
        """A block of the rows that a matrix is multiplied with."""
        var size = w.row_block(self.sizes.tokens)
        return {block * size, min(size, self.sizes.tokens - block * size)}

    @always_inline
    def norm[W: LinearWeights](self, w: W, unit: Int, x: ReadPtr[DType.float32], gamma: ReadPtr[DType.float32]):
        """Norms the rows that a matrix takes together."""
        var size = self.sizes.hidden
        var first = unit * W.together
        for t in range(first, min(first + W.together, self.sizes.tokens)):
            var row = self.scratch.rows.unsafe_offset(t * size)
            rms_norm_row(row, x.unsafe_offset(t * size), gamma, size, self.vectors.eps)
        var rows = self.scratch.rows.unsafe_offset(first * size)
        w.take_rows(self.scratch.operand, self.sizes.tokens, first, rows, size)

    @always_inline
    def gated_panel(self, unit: Int, thread: Int, next: ReadPtr[DType.uint8]):
        """Computes a panel of the gate and one of its factor, in the thread's own memory, and their product."""
        var inner = self.sizes.inner
        var tokens = self.sizes.tokens
        var panels = inner // PANEL
        var rows = self.rows_of(self.gate_up, unit // panels)
        var panel = unit % panels
        var gated = self.scratch.rows.unsafe_offset(rows.first * inner + panel * PANEL)
        var own = self.scratch.rows.unsafe_offset(tokens * (inner + thread * 2 * PANEL))
        var up = self.gate_up.panel(panels + panel)
        self.gate_up.multiply(own, 2 * PANEL, self.scratch.operand, tokens, rows, panel, up)
        self.gate_up.multiply(
            own.unsafe_offset(PANEL), 2 * PANEL, self.scratch.operand, tokens, rows, panels + panel, next
        )
        for t in range(rows.count):
            var row = own.unsafe_offset(t * 2 * PANEL)
            swiglu_row(gated.unsafe_offset(t * inner), row, row.unsafe_offset(PANEL), PANEL)

    @always_inline
    def gate(self, unit: Int, gated: Bool):
        """Applies the MLP's gate, if that is left to do, to the rows that the projection back takes together."""
        var inner = self.sizes.inner
        var first = unit * Self.Down.together
        var stride = inner if gated else 2 * inner
        var rows = self.scratch.rows.unsafe_offset(first * stride)
        if not gated:
            for r in range(min(Self.Down.together, self.sizes.tokens - first)):
                var row = rows.unsafe_offset(r * stride)
                swiglu_row(row, row, row.unsafe_offset(inner), inner)
        self.down.take_rows(self.scratch.gated_operand, self.sizes.tokens, first, rows, stride)

    @always_inline
    def project[
        W: LinearWeights
    ](
        self,
        w: W,
        operand: WritePtr[DType.float32],
        rows: RowRange,
        panel: Int,
        y: WritePtr[DType.float32],
        next: ReadPtr[DType.uint8],
    ):
        """Computes a panel of outputs back to the residual stream."""
        var to = y.unsafe_offset(rows.first * self.sizes.hidden + panel * PANEL)
        w.multiply(to, self.sizes.hidden, operand, self.sizes.tokens, rows, panel, next)

    @always_inline
    def add(self, rows: RowRange, panel: Int, y: WritePtr[DType.float32], x: ReadPtr[DType.float32], x_stride: Int):
        """Adds rows to those of a panel of outputs."""
        var size = self.sizes.hidden
        for t in range(rows.first, rows.first + rows.count):
            var row = x.unsafe_offset(t * x_stride)
            add_to(y.unsafe_offset(t * size), row, panel * PANEL, min((panel + 1) * PANEL, size))

    @always_inline
    def head(self, unit: Int, next: ReadPtr[DType.uint8]):
        """Computes a head of queries, keys or values of some tokens, and brings it where attention finds it."""
        comptime panels = Self.head_dim // PANEL
        var s = self.sizes
        var h = unit % s.heads()
        var rows = self.rows_of(self.qkv, unit // s.heads())
        var heads = self.scratch.rows.unsafe_offset(h * s.tokens * Self.head_dim)
        for panel in range(panels):
            var to = heads.unsafe_offset(rows.first * Self.head_dim + panel * PANEL)
            var index = h * panels + panel
            var then = self.qkv.panel(index + 1) if panel + 1 < panels else next
            self.qkv.multiply(to, Self.head_dim, self.scratch.operand, s.tokens, rows, index, then)
        for t in range(rows.first, rows.first + rows.count):
            var row = heads.unsafe_offset(t * Self.head_dim)
            if self.vectors.has_biases:
                add_to(row, self.vectors.qkv_bias.unsafe_offset(h * Self.head_dim), 0, Self.head_dim)
            var angles = self.rope.unsafe_offset(t * Self.head_dim)
            if h < s.q_heads:
                rms_norm_row(row, row, self.vectors.q_norm, Self.head_dim, self.vectors.eps)
                rotate_half(row, angles, Self.head_dim)
                var queries = self.scratch.queries.unsafe_bitcast[Scalar[Self.query_type]]()
                store_row(queries.unsafe_offset((t * s.q_heads + h) * Self.head_dim), row, Self.head_dim)
                continue
            var slot = self.slots.of(t)
            if h < s.q_heads + s.kv_heads:
                rms_norm_row(row, row, self.vectors.k_norm, Self.head_dim, self.vectors.eps)
                rotate_half(row, angles, Self.head_dim)
                self.kv.store_key(slot.page, h - s.q_heads, slot.slot, row)
            else:
                self.kv.store_value(slot.page, h - s.q_heads - s.kv_heads, slot.slot, row)


def gates_panels(sizes: LayerSizes, threads: Int) -> Bool:
    """Whether the MLP's gate is applied panel by panel: writing many rows of both factors to memory takes longer than
    reading two streams of weights. Gate and factor must begin with a panel, and each thread needs room for two.
    """
    return sizes.tokens >= GATED_ROWS and sizes.inner % PANEL == 0 and threads * 2 * PANEL <= sizes.inner


@always_inline
def add_to(y: WritePtr[DType.float32], x: ReadPtr[DType.float32], begin: Int, end: Int):
    """`y[i] += x[i]` from begin to end."""
    var i = begin
    while i + WIDTH <= end:
        y.unsafe_store(i, y.unsafe_load[width=WIDTH](i) + x.unsafe_load[width=WIDTH](i))
        i += WIDTH
    while i < end:
        y[unsafe_offset=i] += x[unsafe_offset=i]
        i += 1
