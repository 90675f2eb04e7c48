"""A transformer block on CPU cores in phases of independent units: h = x + attention(norm(x)), y = h + mlp(norm(h)).

The parts are those of the other files of this folder, and give the same bits. `layers.mojo` hands the units out.
"""

from ..memory.batch import RaggedSlots
from ..memory.kv_cache import PagedKVCache
from ..utils.simd import WIDTH, store_row
from ..utils.types import ReadPtr, WritePtr
from .activations import swiglu_row
from .float_rows import Columns
from .layer_memory import LayerSizes, LayerVectors, Scratch
from .linear_weights import LinearWeights, RowRange
from .mix_rows import MixRows
from .normalization import rms_norm_row
from .packed import PANEL
from .rope import rotate_half
from .shares import Shares, gate_panels, panel_group

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

    def shares(self, threads: Int) -> Shares:
        """How the work is divided among so many threads."""
        var s = self.sizes
        var own_heads = threads <= s.heads()
        var gate = gate_panels(self.gate_up, self.down, s, threads)
        if gate == 0:
            return {own_heads, 0, 1, 1}
        return {
            own_heads,
            gate,
            panel_group(self.mix, s, threads, s.heads() * s.head_dim),
            panel_group(self.down, s, threads, 2 * s.inner),
        }

    @always_inline
    def panel(self, phase: Int, unit: Int, shares: Shares) -> ReadPtr[DType.uint8]:
        """The first weights that a unit of a phase needs; those of the phase to come where it needs none."""
        if phase == HEADS:
            return self.qkv.panel(unit % self.sizes.heads() * Self.head_dim // PANEL)
        elif phase == MIX:
            return self.mix.panel(unit * shares.mix % self.mix.panels())
        elif phase == GATE_UP:
            return self.gate_up.panel(unit % self.gate_units(shares) * max(1, shares.gate))
        elif phase == DOWN:
            return self.down.panel(unit * shares.down % self.down.panels())
        elif phase == NORM:
            return self.qkv.panel(0)
        elif phase < MIX:
            return self.mix.panel(0)
        else:
            return self.gate_up.panel(0) if phase < GATE_UP else self.down.panel(0)

    @always_inline
    def do(self, phase: Int, unit: Int, shares: Shares, thread: Int, next: ReadPtr[DType.uint8]):
        """Does a unit of a phase other than attention.

        Args:
            phase: The phase.
            unit: The unit.
            shares: How the work is divided.
            thread: Number of the thread.
            next: The panel to ask for meanwhile.
        """
        var s = self.scratch
        if phase == NORM:
            self.norm(self.qkv, unit, self.x, self.vectors.input_norm)
        elif phase == HEADS:
            self.head(unit, thread if shares.own_heads else unit % self.sizes.heads(), next)
        elif phase == ROUND:
            var first = unit * Self.Mix.together
            var size = self.sizes.q_size()
            var rows = s.attended.unsafe_offset(first * size)
            self.mix.take_rows(s.attended_operand, self.sizes.tokens, first, rows, size)
        elif phase == MIX:
            var operand = s.attended if Self.Mix.plain else s.attended_operand
            var bias = Optional(self.vectors.o_bias) if self.vectors.has_biases else None
            self.project(self.mix, shares.mix, operand, unit, s.between, self.x, bias, thread, next)
        elif phase == POST_NORM:
            self.norm(self.gate_up, unit, s.between, self.vectors.post_norm)
        elif phase == GATE_UP and shares.gate > 0:
            self.gated_panels(unit, shares.gate, thread, next)
        elif phase == GATE_UP:
            var rows = self.rows_of(self.gate_up, unit // self.gate_up.panels())
            var panel = unit % self.gate_up.panels()
            var stride = 2 * self.sizes.inner
            var to = s.rows.unsafe_offset(rows.first * stride + panel * PANEL)
            self.gate_up.multiply(to, stride, s.operand, self.sizes.tokens, rows, panel, next)
        elif phase == SWIGLU:
            self.gate(unit, shares.gate > 0)
        else:
            self.project(self.down, shares.down, s.gated_operand, unit, self.y, s.between, None, thread, next)

    @always_inline
    def gate_units(self, shares: Shares) -> Int:
        """Units of a block of rows in the phase of gate and factor."""
        return self.sizes.inner // (PANEL * shares.gate) if shares.gate > 0 else self.gate_up.panels()

    @always_inline
    def attended(self) -> MixRows[Self.Mix]:
        """Where the output of attention goes."""
        var alone = self.mix.unit()
        var formed = not Self.Mix.plain and alone > 0 and Self.head_dim % alone == 0
        return {self.mix, self.scratch, self.sizes, formed}

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
    def gated_panels(self, unit: Int, count: Int, thread: Int, next: ReadPtr[DType.uint8]):
        """Computes panels of the gate and as many of its factor, in the thread's own memory, and their products."""
        var s = self.scratch
        var inner = self.sizes.inner
        var tokens = self.sizes.tokens
        var panels = inner // PANEL
        var rows = self.rows_of(self.gate_up, unit * count // panels)
        var first = unit * count % panels
        var stride = (count + 1) * PANEL
        var block = self.gate_up.row_block(tokens)
        var own = s.rows.unsafe_offset(tokens * inner + thread * block * stride)
        var up = own.unsafe_offset(count * PANEL)
        for panel in range(first, first + count):
            var gate = own.unsafe_offset((panel - first) * PANEL)
            var factor = self.gate_up.panel(panels + panel)
            var then = next if panel + 1 == first + count else self.gate_up.panel(panel + 1)
            self.gate_up.multiply(gate, stride, s.operand, tokens, rows, panel, factor)
            self.gate_up.multiply(up, stride, s.operand, tokens, rows, panels + panel, then)
            for r in range(rows.count):
                var row = gate.unsafe_offset(r * stride)
                swiglu_row(row, row, up.unsafe_offset(r * stride), PANEL)
        for r in range(rows.count):
            var row = own.unsafe_offset(r * stride)
            var t = rows.first + r
            if self.down.unit() > 0:
                var part = Columns(first * PANEL, (first + count) * PANEL)
                self.down.take_columns(s.gated_operand, tokens, t, part, row)
            else:
                store_row(s.rows.unsafe_offset(t * inner + first * PANEL), row, count * PANEL)

    @always_inline
    def gate(self, unit: Int, gated: Bool):
        """Brings the rows that the projection back takes together into form; the MLP's gate may be left to apply."""
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
        group: Int,
        operand: WritePtr[DType.float32],
        unit: Int,
        y: WritePtr[DType.float32],
        x: ReadPtr[DType.float32],
        bias: Optional[ReadPtr[DType.float32]],
        thread: Int,
        next: ReadPtr[DType.uint8],
    ):
        """Computes a group of panels of outputs back to the residual stream, and adds bias and stream to them."""
        var size = self.sizes.hidden
        var tokens = self.sizes.tokens
        var groups = w.panels() // group
        var rows = self.rows_of(w, unit // groups)
        var first = unit % groups * group
        var to = y.unsafe_offset(rows.first * size + first * PANEL)
        var own = to
        var stride = size
        if group == 1:
            w.multiply(to, size, operand, tokens, rows, first, next)
        else:
            own = self.scratch.rows.unsafe_offset(tokens * thread * group * PANEL)
            stride = PANEL
            w.multiply_group(own, operand, tokens, rows, first, next)
        for p in range(group):
            var begin = (first + p) * PANEL
            var count = min(PANEL, size - begin)
            for r in range(rows.count):
                var t = rows.first + r
                var sums = own.unsafe_offset((p * rows.count + r) * stride)
                if bias:
                    add_row(sums, sums, bias.value().unsafe_offset(begin), count)
                add_row(y.unsafe_offset(t * size + begin), sums, x.unsafe_offset(t * size + begin), count)

    @always_inline
    def head(self, unit: Int, place: Int, next: ReadPtr[DType.uint8]):
        """Computes a head of queries, keys or values of some tokens, and brings it where attention finds it.

        Args:
            unit: The unit.
            place: Number of the memory for it.
            next: The panel to ask for meanwhile.
        """
        comptime panels = Self.head_dim // PANEL
        var s = self.sizes
        var h = unit % s.heads()
        var rows = self.rows_of(self.qkv, unit // s.heads())
        var own = self.scratch.rows.unsafe_offset((place * s.tokens + rows.first) * Self.head_dim)
        for panel in range(panels):
            var to = own.unsafe_offset(panel * PANEL)
            var index = h * panels + panel
            var then = self.qkv.panel(index + 1) if panel + 1 < panels else next
            self.qkv.multiply(to, Self.head_dim, self.scratch.operand, s.tokens, rows, index, then)
        for t in range(rows.first, rows.first + rows.count):
            var row = own.unsafe_offset((t - rows.first) * Self.head_dim)
            if self.vectors.has_biases:
                add_row(row, row, self.vectors.qkv_bias.unsafe_offset(h * Self.head_dim), Self.head_dim)
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


@always_inline
def add_row(y: WritePtr[DType.float32], a: ReadPtr[DType.float32], b: ReadPtr[DType.float32], size: Int):
    """`y = a + b` over `size` numbers; y may be a."""
    var i = 0
    while i + WIDTH <= size:
        y.unsafe_store(i, a.unsafe_load[width=WIDTH](i) + b.unsafe_load[width=WIDTH](i))
        i += WIDTH
    while i < size:
        y[unsafe_offset=i] = a[unsafe_offset=i] + b[unsafe_offset=i]
        i += 1
