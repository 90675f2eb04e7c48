"""The ragged batch: rows of several requests, one after the other."""

from ..utils.types import ReadPtr


@fieldwise_init
struct RaggedQueries[dtype: DType](TrivialRegisterPassable):
    """The queries of a ragged batch and where each finds its keys.

    A request's query rows for one KV head are numbered token by token: row r is query head `r % group` of the
    token `r // group`.
    """

    var q: ReadPtr[Self.dtype]
    """[T, q_size]."""
    var positions: ReadPtr[DType.int32]
    """[T]."""
    var row_offsets: ReadPtr[DType.int32]
    """[requests + 1]."""
    var page_table: ReadPtr[DType.int32]
    """[requests, pages_per_request]."""
    var requests: Int
    var pages_per_request: Int
    var q_size: Int
    var group: Int
    """Query heads per KV head."""

    @always_inline
    def first_token(self, request: Int) -> Int:
        """The first of a request's tokens in this batch."""
        return Int(self.row_offsets[unsafe_offset=request])

    @always_inline
    def rows(self, request: Int) -> Int:
        """Query rows of a request per KV head."""
        return (self.first_token(request + 1) - self.first_token(request)) * self.group

    @always_inline
    def token(self, request: Int, row: Int) -> Int:
        """The token of a query row."""
        return self.first_token(request) + row // self.group

    @always_inline
    def keys(self, request: Int, row: Int) -> Int:
        """Number of keys a row may see: its position + 1."""
        return Int(self.positions[unsafe_offset=self.token(request, row)]) + 1

    @always_inline
    def place(self, request: Int, position: Int, page_size: Int) -> Tuple[Int, Int]:
        """The page of a request's position, and its slot there."""
        var page, slot = divmod(position, page_size)
        return Int(self.page_table[unsafe_offset=request * self.pages_per_request + page]), slot

    @always_inline
    def offset(self, request: Int, kv_head: Int, row: Int, head_dim: Int) -> Int:
        """Where a row's query begins, and its output in [T, q_size]."""
        return self.token(request, row) * self.q_size + (kv_head * self.group + row % self.group) * head_dim


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


@fieldwise_init
struct Slot(TrivialRegisterPassable):
    """Where a row's key and value go."""

    var page: Int
    var slot: Int
    """In the page."""


@fieldwise_init
struct RaggedSlots(TrivialRegisterPassable):
    """Where the rows of a ragged batch write to the cache."""

    var positions: ReadPtr[DType.int32]
    """[T]."""
    var row_offsets: ReadPtr[DType.int32]
    """[requests + 1]."""
    var page_table: ReadPtr[DType.int32]
    """[requests, pages_per_request]."""
    var requests: Int
    var pages_per_request: Int
    var page_size: Int

    @always_inline
    def of(self, row: Int) -> Slot:
        """The place of a row."""
        var request = request_of(self.row_offsets, self.requests, row)
        var page, slot = divmod(Int(self.positions[unsafe_offset=row]), self.page_size)
        return {
            Int(self.page_table[unsafe_offset=request * self.pages_per_request + page]),
            slot,
        }
