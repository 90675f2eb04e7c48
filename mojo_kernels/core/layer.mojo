"""A transformer block on CPU cores in one go: h = x + attention(norm(x)), y = h + mlp(norm(h)).

What an op for each part would leave to MAX, waking the threads and waiting for them, `utils/phases.mojo` does: one
thread does the rows of a small phase while the others ask memory for the weights of the next one. The parts are those
of the other files of this folder, and give the same bits.
"""

from ..memory.batch import RaggedQueries, RaggedSlots
from ..memory.kv_cache import PagedKVCache
from ..utils.phases import PhaseQueue, Ticket, run_team, team_size
from ..utils.simd import WIDTH, store_row
from ..utils.types import ReadPtr, WritePtr
from .activations import swiglu_row
from .attention import AttentionWork
from .layer_memory import LayerSizes, LayerVectors, Scratch
from .matrix import LinearWeights
from .normalization import rms_norm_row
from .packed import PANEL, fetch_panel
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

comptime FETCHED = 32 * 1024
"""Bytes of weights that a thread that waits asks for."""


struct LayerWork[
    cache_type: DType,
    query_type: DType,
    head_dim: Int,
    amx: Bool,
    Qkv: LinearWeights,
    Mix: LinearWeights,
    GateUp: LinearWeights,
    Down: LinearWeights,
]:
    """One layer's work on one batch."""

    var sizes: LayerSizes
    var x: ReadPtr[DType.float32]
    """[T, hidden]: the layer's input."""
    var y: WritePtr[DType.float32]
    """[T, hidden]: its output."""
    var rope: ReadPtr[DType.float32]
    """[T, head_dim]."""
    var scratch: Scratch
    var vectors: LayerVectors
    var qkv: Self.Qkv
    var mix: Self.Mix
    var gate_up: Self.GateUp
    var down: Self.Down
    var kv: PagedKVCache[Self.cache_type]
    var slots: RaggedSlots
    var attention: AttentionWork[Self.cache_type, Self.query_type, Self.head_dim, Self.amx]

    def __init__(
        out self,
        sizes: LayerSizes,
        x: ReadPtr[DType.float32],
        y: WritePtr[DType.float32],
        rope: ReadPtr[DType.float32],
        memory: WritePtr[DType.float32],
        vectors: LayerVectors,
        qkv: Self.Qkv,
        mix: Self.Mix,
        gate_up: Self.GateUp,
        down: Self.Down,
        kv: PagedKVCache[Self.cache_type],
        slots: RaggedSlots,
    ):
        """The work.

        Args:
            sizes: How large everything is.
            x: [T, hidden].
            y: [T, hidden], written.
            rope: [T, head_dim], see `mili.rope_table`.
            memory: [T, sizes.scratch()].
            vectors: Norms and biases.
            qkv: Projection to queries, keys and values.
            mix: Projection of what attention gives.
            gate_up: Projection to the MLP's gate and its factor.
            down: Projection back.
            kv: The layer's cache.
            slots: Where rows write to it.
        """
        self.sizes = sizes
        self.x = x
        self.y = y
        self.rope = rope
        self.scratch = Scratch(memory, sizes)
        self.vectors = vectors
        self.qkv = qkv
        self.mix = mix
        self.gate_up = gate_up
        self.down = down
        self.kv = kv
        self.slots = slots
        var batch = RaggedQueries[Self.query_type](
            q=self.scratch.queries.unsafe_bitcast[Scalar[Self.query_type]](),
            out_=self.scratch.attended,
            positions=slots.positions,
            row_offsets=slots.row_offsets,
            page_table=slots.page_table,
            requests=slots.requests,
            pages_per_request=slots.pages_per_request,
            q_size=sizes.q_size(),
            group=sizes.q_heads // sizes.kv_heads,
        )
        self.attention = {batch, kv, sizes.kv_heads}

    def run(self):
        """Does all of it."""
        var s = self.sizes
        var units = Array[Int, PHASES](fill=s.tokens)
        units[HEADS] = s.heads()
        units[ATTEND] = len(self.attention.list.items)
        units[MERGE] = len(self.attention.list.split)
        units[ROUND] = 0 if Self.Mix.plain else s.tokens
        units[MIX] = self.mix.panels()
        units[GATE_UP] = self.gate_up.panels()
        units[DOWN] = self.down.panels()
        var weights = s.hidden * (s.heads() * s.head_dim + s.q_size() + 3 * s.inner)
        var threads = team_size(s.tokens * weights + self.attention.list.work * s.head_dim)
        var queue = PhaseQueue[PHASES](units, threads)

        def worker() {imm}:
            var tile = self.attention.worker()
            var ticket = Ticket(0, 0, 0)
            var more = queue.take(ticket)
            while more:
                # The next ticket is taken before this one's work, to know which weights to ask for meanwhile.
                var following = ticket
                more = queue.take(following)
                if not queue.ready(ticket):
                    fetch_panel(self.panel(ticket.phase, ticket.begin), FETCHED)
                    queue.wait(ticket)
                var after = self.panel(following.phase, following.begin)
                for unit in range(ticket.begin, ticket.end):
                    if ticket.phase == ATTEND:
                        self.attention.compute(tile, unit)
                    elif ticket.phase == MERGE:
                        self.attention.merge(tile, unit)
                    else:
                        var last = unit + 1 == ticket.end
                        self.do(ticket.phase, unit, after if last else self.panel(ticket.phase, unit + 1))
                queue.finish(ticket)
                ticket = following

        run_team(threads, worker)
        _ = queue^

    @always_inline
    def panel(self, phase: Int, unit: Int) -> ReadPtr[DType.uint8]:
        """The first weights that a unit of a phase needs; those of the phase to come where it needs none."""
        if phase == HEADS:
            return self.qkv.panel(unit * Self.head_dim // PANEL)
        elif phase == MIX:
            return self.mix.panel(unit)
        elif phase == GATE_UP:
            return self.gate_up.panel(unit)
        elif phase == DOWN:
            return self.down.panel(unit)
        elif phase == NORM:
            return self.qkv.panel(0)
        elif phase < MIX:
            return self.mix.panel(0)
        else:
            return self.gate_up.panel(0) if phase < GATE_UP else self.down.panel(0)

    @always_inline
    def do(self, phase: Int, unit: Int, next: ReadPtr[DType.uint8]):
        """Does a unit of a phase other than attention; `next` is the panel to ask for meanwhile."""
        ref s = self.scratch
        if phase == NORM:
            self.norm(self.qkv, unit, self.x, self.vectors.input_norm)
        elif phase == HEADS:
            self.head(unit, next)
        elif phase == ROUND:
            var row = s.attended.unsafe_offset(unit * self.sizes.q_size())
            self.mix.take_row(s.attended_operand, self.sizes.tokens, unit, row)
        elif phase == MIX:
            self.project(self.mix, s.attended if Self.Mix.plain else s.attended_operand, unit, s.between, next)
            if self.vectors.has_biases:
                self.add(unit, s.between, self.vectors.o_bias, 0)
            self.add(unit, s.between, self.x, self.sizes.hidden)
        elif phase == POST_NORM:
            self.norm(self.gate_up, unit, s.between, self.vectors.post_norm)
        elif phase == GATE_UP:
            var to = s.rows.unsafe_offset(unit * PANEL)
            self.gate_up.multiply(to, 2 * self.sizes.inner, s.operand, self.sizes.tokens, unit, next)
        elif phase == SWIGLU:
            var gate = s.rows.unsafe_offset(unit * 2 * self.sizes.inner)
            swiglu_row(gate, gate, gate.unsafe_offset(self.sizes.inner), self.sizes.inner)
            self.down.take_row(s.gated_operand, self.sizes.tokens, unit, gate)
        else:
            self.project(self.down, s.gated_operand, unit, self.y, next)
            self.add(unit, self.y, s.between, self.sizes.hidden)

    @always_inline
    def norm[W: LinearWeights](self, w: W, t: Int, x: ReadPtr[DType.float32], gamma: ReadPtr[DType.float32]):
        """Norms a row for a matrix."""
        var size = self.sizes.hidden
        var row = self.scratch.rows.unsafe_offset(t * size)
        rms_norm_row(row, x.unsafe_offset(t * size), gamma, size, self.vectors.eps)
        w.take_row(self.scratch.operand, self.sizes.tokens, t, row)

    @always_inline
    def project[
        W: LinearWeights
    ](
        self,
        w: W,
        operand: WritePtr[DType.float32],
        panel: Int,
        y: WritePtr[DType.float32],
        next: ReadPtr[DType.uint8],
    ):
        """Computes a panel of outputs back to the residual stream."""
        w.multiply(y.unsafe_offset(panel * PANEL), self.sizes.hidden, operand, self.sizes.tokens, panel, next)

    @always_inline
    def add(self, panel: Int, y: WritePtr[DType.float32], x: ReadPtr[DType.float32], x_stride: Int):
        """Adds rows to those of a panel of outputs."""
        var size = self.sizes.hidden
        for t in range(self.sizes.tokens):
            var row = x.unsafe_offset(t * x_stride)
            add_to(y.unsafe_offset(t * size), row, panel * PANEL, min((panel + 1) * PANEL, size))

    @always_inline
    def head(self, h: Int, next: ReadPtr[DType.uint8]):
        """Computes a head of queries, keys or values of all tokens, and brings it where attention finds it."""
        comptime panels = Self.head_dim // PANEL
        var s = self.sizes
        var heads = self.scratch.rows.unsafe_offset(h * s.tokens * Self.head_dim)
        for panel in range(panels):
            var to = heads.unsafe_offset(panel * PANEL)
            var index = h * panels + panel
            var then = self.qkv.panel(index + 1) if panel + 1 < panels else next
            self.qkv.multiply(to, Self.head_dim, self.scratch.operand, s.tokens, index, then)
        for t in range(s.tokens):
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
                self.kv.store_value(slot.page, h - s.q_heads - s.kv_heads, slot.slot, row, slot.last)


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
