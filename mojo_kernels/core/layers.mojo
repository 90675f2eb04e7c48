"""All transformer blocks on CPU cores in one go, and the attention within them.

What an op for each part would leave to MAX, waking the threads and waiting for them, `utils/phases.mojo` does: one
thread does the rows of a small phase while the others ask memory for the weights of the next one, and from layer to
layer.
"""

from std.math import ceildiv

from ..memory.batch import RaggedQueries
from ..utils.phases import PhaseQueue, Ticket, run_team, team_size
from .attention import AttentionWork
from .layer import (
    ATTEND,
    DOWN,
    GATE_UP,
    HEADS,
    MERGE,
    MIX,
    NORM,
    PHASES,
    POST_NORM,
    ROUND,
    SWIGLU,
    LayerWork,
)
from .linear_weights import LinearWeights
from .packed import PANEL, fetch_bytes

comptime FETCHED = 32 * 1024
"""Bytes of weights that a thread that waits asks for."""


def run_layers[
    cache_type: DType,
    query_type: DType,
    head_dim: Int,
    Qkv: LinearWeights,
    Mix: LinearWeights,
    GateUp: LinearWeights,
    Down: LinearWeights,
    //,
    amx: Bool,
](first: LayerWork[cache_type, query_type, head_dim, Qkv, Mix, GateUp, Down], layers: Int):
    """Does the work of so many layers, one after the other.

    Parameters:
        cache_type: Type of the cache.
        query_type: Type of the queries: float32, or bfloat16 with a cache of it.
        head_dim: Numbers of a head.
        Qkv: The projection to queries, keys and values.
        Mix: The projection of what attention gives.
        GateUp: The projection to the MLP's gate and its factor.
        Down: The projection back.
        amx: Whether attention multiplies bfloat16 by AMX.

    Args:
        first: The first layer's.
        layers: How many.
    """
    var s = first.sizes
    var slots = first.slots
    var batch = RaggedQueries[query_type](
        q=first.scratch.queries.unsafe_bitcast[Scalar[query_type]](),
        positions=slots.positions,
        row_offsets=slots.row_offsets,
        page_table=slots.page_table,
        requests=slots.requests,
        pages_per_request=slots.pages_per_request,
        q_size=s.q_size(),
        group=s.q_heads // s.kv_heads,
    )
    var attention = AttentionWork[cache_type, query_type, head_dim, amx](batch, first.kv, s.kv_heads)
    var units = Array[Int, PHASES](fill=0)
    units[NORM] = ceildiv(s.tokens, Qkv.together)
    units[HEADS] = s.heads() * ceildiv(s.tokens, first.qkv.row_block(s.tokens))
    units[ATTEND] = len(attention.list.items)
    units[MERGE] = len(attention.list.split)
    var attended = first.attended()
    units[ROUND] = 0 if Mix.plain or attended.formed else ceildiv(s.tokens, Mix.together)
    units[POST_NORM] = ceildiv(s.tokens, GateUp.together)
    var weights = s.hidden * (s.heads() * s.head_dim + s.q_size() + 3 * s.inner)
    var threads = team_size(s.tokens * weights + attention.list.work * s.head_dim)
    var shares = first.shares(threads)
    units[MIX] = first.mix.panels() // shares.mix * ceildiv(s.tokens, first.mix.row_block(s.tokens))
    units[DOWN] = first.down.panels() // shares.down * ceildiv(s.tokens, first.down.row_block(s.tokens))
    units[SWIGLU] = 0 if shares.gate > 0 and first.down.unit() > 0 else ceildiv(s.tokens, Down.together)
    var blocks = ceildiv(s.tokens, first.gate_up.row_block(s.tokens))
    units[GATE_UP] = first.gate_units(shares) * blocks
    # Units come block by block; those of attention head by head.
    var slices = Array[Int, PHASES](fill=min(threads, blocks))
    slices[ATTEND] = 1
    slices[MERGE] = 1
    var queue = PhaseQueue[PHASES](units, slices, threads, layers)

    def worker(thread: Int) {imm}:
        var tile = attention.worker()
        var ticket = Ticket(0, 0, 0, 0)
        var more = queue.take(thread, ticket)
        while more:
            # The next ticket is taken before this one's work, to know which weights to ask for meanwhile.
            var following = ticket
            more = queue.take(thread, following)
            var layer = first.later(ticket.round)
            if not queue.ready(ticket):
                fetch_bytes(layer.panel(ticket.phase, ticket.begin, shares), FETCHED)
                queue.wait(ticket)
            var after = first.later(following.round).panel(following.phase, following.begin, shares)
            tile.use(layer.kv)
            for unit in range(ticket.begin, ticket.end):
                var last = unit + 1 == ticket.end
                if ticket.phase == ATTEND:
                    var other = following.begin if following.phase == ATTEND else -1
                    attention.compute(attended, tile, unit, other if last else unit + 1, after)
                elif ticket.phase == MERGE:
                    attention.merge(attended, tile, unit)
                else:
                    var then = after if last else layer.panel(ticket.phase, unit + 1, shares)
                    layer.do(ticket.phase, unit, shares, thread, then)
            queue.finish(ticket)
            ticket = following

    run_team(threads, worker)
    _ = queue^
    _ = attention^
