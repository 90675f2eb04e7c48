"""The ragged batch: rows of several requests, one after the other."""

from ..utils.types import ReadPtr


def request_of(row_offsets: ReadPtr[DType.int32], requests: Int, row: Int) -> Int:
    """The request that owns a row.

    Args:
        row_offsets: [requests + 1]; request b owns the rows row_offsets[b] to row_offsets[b + 1].
        requests: Number of requests; some may own no row.
        row: A row of the batch.

    Returns:
        The b with `row_offsets[b] <= row < row_offsets[b + 1]`, by binary search.
    """
    var low = 0
    var high = requests
    while high - low > 1:
        var middle = (low + high) // 2
        if Int(row_offsets[unsafe_offset=middle]) <= row:
            low = middle
        else:
            high = middle
    return low
