"""How a transformer block's work is divided among threads, where rows are many and threads find room for sums of their
own.
"""

from std.math import ceildiv

from .layer_memory import LayerSizes
from .matrix import LinearWeights
from .packed import PANEL

comptime GATED_ROWS = 192
"""Fewest rows whose gate is applied panel by panel."""


@fieldwise_init
struct Shares(TrivialRegisterPassable):
    """How the work of some phases is divided."""

    var gated: Bool
    """Whether the MLP's gate is applied panel by panel."""
    var mix: Int
    """Panels that are a unit of the projection of what attention gives."""
    var down: Int
    """Those of the projection back."""


def gates_panels(sizes: LayerSizes, threads: Int) -> Bool:
    """Whether the MLP's gate is applied panel by panel: writing many rows of both factors to memory takes longer than
    reading two streams of weights. Gate and factor must begin with a panel, and each thread needs room for two.
    """
    return sizes.tokens >= GATED_ROWS and sizes.inner % PANEL == 0 and threads * 2 * PANEL <= sizes.inner


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
