"""How matrices lie in memory: panels of 64 rows, interleaved so that a kernel reads one stream.

A matrix w[N, K] becomes [N / 64, K / P, 64 * P]: the elements of 64 rows at P columns lie side by side, those of a row next
to each other. P is 2 for bfloat16, whose pairs CPUs multiply at once, and 1 for the others. N and K are filled up with zeros.
"""

comptime PANEL = 64
"""Rows of a panel."""


@always_inline
def pack_factor[dtype: DType]() -> Int:
    """Columns that lie together."""
    return 2 if dtype == DType.bfloat16 else 1
