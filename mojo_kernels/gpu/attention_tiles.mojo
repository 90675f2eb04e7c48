"""Which rows of a ragged batch a block of the attention kernels has, and how contexts are split.

A tile is rows that share a KV head: row r is query head `r % group` of the token `r // group` of its request.
"""

from max.gpu.memory import AddressSpace
from std.math import ceildiv

from .block import GpuRead

comptime SPLIT = 256
"""Positions whose sums are merged with those of others."""
comptime MOST_SPLIT_ROWS = 16
"""Query heads of a KV head up to which the splits of a request of one token are computed by different blocks."""

comptime PLACE_INTS = 6
comptime SharedInts = MutPointer[Int32, _, address_space=AddressSpace.SHARED]


@always_inline
def is_split(rows: Int32, group: Int32) -> Bool:
    """Whether a request with so many rows for a KV head, `group` of them for a token, has a block for each split."""
    return rows == group and group <= Int32(MOST_SPLIT_ROWS)


@fieldwise_init
struct Place(TrivialRegisterPassable):
    """A block's tile of the ragged batch; in 32 bits, because a tile's sums leave few registers."""

    var request: Int32
    """-1 is none."""
    var first_row: Int32
    """First of the tile's rows in its request's."""
    var first_token: Int32
    """The request's first row of the batch."""
    var rows: Int32
    """All of the request's query rows for a KV head."""
    var group: UInt32
    """Query heads of a KV head."""
    var first_position: Int32
    """Of the request's first token of the batch; those of the others follow."""

    @always_inline
    def keep(self, there: SharedInts):
        """Writes it to shared memory, [PLACE_INTS]."""
        there[unsafe_offset=0] = self.request
        there[unsafe_offset=1] = self.first_row
        there[unsafe_offset=2] = self.first_token
        there[unsafe_offset=3] = self.rows
        there[unsafe_offset=4] = Int32(self.group)
        there[unsafe_offset=5] = self.first_position

    @staticmethod
    @always_inline
    def kept(there: SharedInts) -> Self:
        """What `keep` wrote."""
        return Self(
            there[unsafe_offset=0],
            there[unsafe_offset=1],
            there[unsafe_offset=2],
            there[unsafe_offset=3],
            UInt32(there[unsafe_offset=4]),
            there[unsafe_offset=5],
        )

    @always_inline
    def token(self, row: Int32) -> Int32:
        """Which of the request's tokens a row belongs to."""
        return Int32(UInt32(row) // self.group)

    @always_inline
    def end(self, row: Int32) -> Int32:
        """How many positions a row of the request sees; none if there is no such row."""
        return self.first_position + self.token(row) + 1 if row < self.rows else 0

    @always_inline
    def last_end(self, first: Int32, count: Int32) -> Int32:
        """How many positions any of `count` rows from `first` on sees."""
        return self.end(min(first + count, self.rows) - 1) if first < self.rows else 0

    @always_inline
    def query(self, row: Int32, head: Int32, kv_heads: Int32) -> Int:
        """Number of a row for a KV head in [T, query heads]."""
        var token = self.token(row)
        var in_group = row - token * Int32(self.group)
        return Int(((self.first_token + token) * kv_heads + head) * Int32(self.group) + in_group)


@always_inline
def place_of[
    tile_rows: Int
](
    row_offsets: GpuRead[DType.int32], positions: GpuRead[DType.int32], requests: Int32, group: Int32, block: Int
) -> Place:
    """The tile of a block, from the last of the last request on: those have the most keys, and begin first.

    Requests of one token have no tile here.
    """
    var index = Int32(block)
    for b in range(Int(requests) - 1, -1, -1):
        var first = row_offsets[unsafe_offset=b]
        var rows = (row_offsets[unsafe_offset=b + 1] - first) * group
        if is_split(rows, group):
            continue
        var tiles = Int32(UInt32(rows + Int32(tile_rows) - 1) // UInt32(tile_rows))
        if index < tiles:
            var first_row = (tiles - 1 - index) * Int32(tile_rows)
            return Place(Int32(b), first_row, first, rows, UInt32(group), positions[unsafe_offset=Int(first)])
        index -= tiles
    return Place(-1, 0, 0, 0, 1, 0)


@always_inline
def place_of_request(
    row_offsets: GpuRead[DType.int32], positions: GpuRead[DType.int32], group: Int32, request: Int
) -> Place:
    """The rows of a request of one token; none if it has more."""
    var first = row_offsets[unsafe_offset=request]
    var rows = (row_offsets[unsafe_offset=request + 1] - first) * group
    var found = Int32(request) if is_split(rows, group) else -1
    return Place(found, 0, first, rows, UInt32(group), positions[unsafe_offset=Int(first)])


@always_inline
def split_count(pages_per_request: Int, page_bits: Int) -> Int:
    """Splits of the longest context that a page table can name."""
    return ceildiv(pages_per_request << page_bits, SPLIT)
