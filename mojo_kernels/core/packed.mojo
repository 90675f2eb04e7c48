"""How matrices lie in memory: panels of 64 rows, interleaved so that a kernel reads one stream.

A matrix w[N, K] becomes [N / 64, K / P, 64 * P]: the elements of 64 rows at P columns lie side by side, those of a row next
to each other. P is 2 for bfloat16, whose pairs CPUs multiply at once, and 1 for the others. N and K are filled up with zeros.
"""

from std.sys.intrinsics import PrefetchOptions, prefetch

from ..utils.types import ReadPtr, WritePtr

comptime PANEL = 64
"""Rows of a panel."""
comptime LINE = 64
"""Bytes of a cache line."""
comptime AHEAD = 8192
"""Bytes that weights are asked for before they are needed: what memory delivers while it answers."""
comptime READ_SOON = PrefetchOptions().for_read().medium_locality().to_data_cache()
comptime READ_AHEAD = PrefetchOptions().for_read().high_locality().to_data_cache()


@always_inline
def pack_factor[dtype: DType]() -> Int:
    """Columns that lie together."""
    return 2 if dtype == DType.bfloat16 else 1


@always_inline
def fetch_ahead[bytes: Int, dtype: DType](w: ReadPtr[dtype]):
    """Asks for as many bytes of weights, some steps after `w`."""
    comptime for line in range(0, bytes, LINE):
        prefetch[READ_AHEAD](w.unsafe_bitcast[UInt8]().unsafe_offset(AHEAD + line))


def fetch_panel(w: ReadPtr[_], bytes: Int):
    """Asks for the first bytes of a panel."""
    for line in range(0, bytes, LINE):
        prefetch[READ_SOON](w.unsafe_bitcast[UInt8]().unsafe_offset(line))


@always_inline
def store_outputs[
    width: Int
](y: WritePtr[DType.float32], lane: Int, sums: SIMD[DType.float32, width], outputs: Int):
    """Stores the sums at `y + lane` and on, as far as these lanes are among the first `outputs`."""
    if outputs >= lane + width:
        y.unsafe_store(lane, sums)
    else:
        for i in range(outputs - lane):
            y[unsafe_offset=lane + i] = sums[i]
