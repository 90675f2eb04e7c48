"""How a transformer block's work is divided among threads, where rows are many and threads find room for what they
compute.
"""

from std.math import ceildiv

from .layer_memory import LayerSizes
from .linear_weights import LinearWeights
from .packed import PANEL

comptime GATED_ROWS = 192
"""Fewest rows whose gate is applied panel by panel."""


@fieldwise_init
struct Shares(TrivialRegisterPassable):
    """How the work of some phases is divided."""

    var own_heads: Bool
    """Whether a thread computes one head after the other in the same memory."""
    var gate: Int
    """Panels of the MLP's gate that are a unit, with as many of its factor; 0 where it is applied to whole rows."""
    var mix: Int
    """Panels that are a unit of the projection of what attention gives."""
    var down: Int
    """Those of the projection back."""


def gate_panels[W: LinearWeights, V: LinearWeights](gate_up: W, down: V, sizes: LayerSizes, threads: Int) -> Int:
    """Panels of the MLP's gate that are a unit of work: writing many rows of both factors to memory takes longer than
    reading two streams of weights. Gate and factor must begin with a panel, and each thread needs room.

    Args:
        gate_up: The matrix of gate and factor.
        down: The one that takes what comes of them, at once if the unit's columns suffice for that.
        sizes: Sizes.
        threads: How many there are.

    Returns:
        How many, or 0 where the gate is to be applied to whole rows.
    """
    var panels = max(1, down.unit() // PANEL)
    var room = threads * gate_up.row_block(sizes.tokens) * (panels + 1) * PANEL
    var divides = sizes.inner % (panels * PANEL) == 0 and panels * PANEL % max(1, down.unit()) == 0
    return panels if sizes.tokens >= GATED_ROWS and divides and room <= sizes.tokens * sizes.inner else 0


def panel_group[W: LinearWeights](w: W, sizes: LayerSizes, threads: Int, room: Int) -> Int:
    """Panels that are a unit of work: more than one where each thread finds enough of them, and room for their sums.

    Args:
        w: The matrix.
        sizes: Sizes.
        threads: How many there are.
        room: Numbers for each token that all threads have together.
    """
    var group = w.group(sizes.tokens)
    var units = w.panels() // group * ceildiv(sizes.tokens, w.row_block(sizes.tokens))
    return group if units >= 2 * threads and threads * group * PANEL <= room else 1
