"""A row of logits on a GPU as tokens with ranks and weights: which are kept, and which is drawn, without a sort.

Tokens are ordered by a 64-bit rank, the bits of the logit above those of the id turned round, so that no two are equal
and top-k and top-p each leave the tokens from some rank on. That rank is found digit by digit, from histograms.

A token's weight, exp((logit - largest) / temperature), is a whole number of 2^-40, so that sums are exact in any order:
threads may add to one histogram at once, and a row's token depends on the row only.
"""

from max.gpu import WARP_SIZE, lane_id, thread_idx, warp_id
from max.gpu.memory import AddressSpace
from max.gpu.sync import barrier
from std.atomic import Atomic, Ordering
from std.math import exp
from std.memory import bitcast

from ..utils.types import ReadPtr
from .block import block_max, block_sum, last_lane, shuffle_up, shuffle_xor

comptime THREADS = 1024
comptime WARPS = THREADS // WARP_SIZE
comptime ONE = Float32(1 << 40)
"""The weight 1."""
comptime DIGIT_BITS = 11
comptime BUCKETS = 1 << DIGIT_BITS
comptime DIGITS = [53, 42, 32, 21, 10, 0]
"""Lowest bits of a rank's digits, the first three of the logit. The last two are of 11 and 10 bits."""
comptime Histogram = MutPointer[UInt64, _, address_space=AddressSpace.SHARED]


@always_inline
def rank_of(logit: Float32, token: Int) -> UInt64:
    """A number that orders tokens by their logits, and equal ones by their ids, the first highest."""
    var bits = bitcast[DType.uint32](logit)
    var ordered = ~bits if bits >> 31 else bits | 0x8000_0000
    return UInt64(ordered) << 32 | UInt64(~UInt32(token))


@always_inline
def token_of(rank: UInt64) -> Int:
    """The token of a rank."""
    return Int(~UInt32(rank & 0xFFFF_FFFF))


@always_inline
def logit_of(rank: UInt64) -> Float32:
    """The logit of a rank."""
    var ordered = UInt32(rank >> 32)
    return bitcast[DType.float32](ordered ^ 0x8000_0000 if ordered >> 31 else ~ordered)


@fieldwise_init
struct Weights(TrivialRegisterPassable):
    """What tokens may be drawn, and with which weights."""

    var logits: ReadPtr[DType.float32]
    var size: Int
    var maximum: Float32
    var inverse: Float32
    """1 / temperature."""
    var least: Float32
    """Least weight that is kept."""
    var lowest: UInt64
    """Lowest rank that is kept."""

    @always_inline
    def rank(self, token: Int) -> UInt64:
        """A token's rank."""
        return rank_of(self.logits[unsafe_offset=token], token)

    @always_inline
    def weight(self, token: Int) -> UInt64:
        """A token's weight, 0 if it is not kept."""
        var logit = self.logits[unsafe_offset=token]
        var weight = exp((logit - self.maximum) * self.inverse)
        # Written so that what is not a number has no weight.
        if rank_of(logit, token) >= self.lowest and weight >= self.least:
            return (weight * ONE).cast[DType.uint64]()
        return 0

    @always_inline
    def total(self) -> UInt64:
        """The sum of the weights, for all threads."""
        var sum = UInt64(0)
        for token in range(thread_idx.x, self.size, THREADS):
            sum += self.weight(token)
        return block_sum[THREADS](sum)

    @always_inline
    def keep[by_weight: Bool](mut self, target: UInt64, histogram: Histogram):
        """Keeps the fewest tokens, highest ranks first, whose number or weights reach the target.

        Parameters:
            by_weight: Count the weights; otherwise the number.

        Args:
            target: What must be reached, and is.
            histogram: Shared memory, [BUCKETS + 2].
        """
        var decided = UInt64(0)
        var remaining = target
        comptime for digit in range(len(DIGITS)):
            comptime low = DIGITS[digit]
            comptime high = 64 if digit == 0 else DIGITS[digit - 1]
            for b in range(thread_idx.x, BUCKETS, THREADS):
                histogram[unsafe_offset=b] = 0
            barrier()
            for token in range(thread_idx.x, self.size, THREADS):
                var rank = self.rank(token)
                var possible = True
                comptime if digit > 0:
                    possible = rank >> UInt64(high) == decided >> UInt64(high)
                if possible and rank >= self.lowest:
                    var bucket = Int((rank >> UInt64(low)) & UInt64((1 << (high - low)) - 1))
                    var amount = self.weight(token) if by_weight else UInt64(1)
                    if amount > 0:
                        _ = Atomic[UInt64, scope="block"].fetch_add[ordering=Ordering.RELAXED](
                            histogram.unsafe_offset(bucket), amount
                        )
            barrier()
            if warp_id() == 0:
                find_bucket(histogram, remaining)
            barrier()
            decided |= histogram[unsafe_offset=BUCKETS] << UInt64(low)
            remaining -= histogram[unsafe_offset=BUCKETS + 1]
            barrier()
        self.lowest = decided

    @always_inline
    def draw(self, uniform: Float64, total: UInt64, sums: Histogram) -> Int:
        """The first token, by id, where the sum of the weights exceeds `uniform` of the total, for all threads.

        Args:
            uniform: In [0, 1).
            total: Of the weights; positive.
            sums: Shared memory, [WARPS + 1].
        """
        # A warp has a range of tokens: which one's holds the draw, and then where in it.
        var part = (self.size + WARPS - 1) // WARPS
        var first = warp_id() * part
        var end = min(first + part, self.size)
        var own = UInt64(0)
        for token in range(first + lane_id(), end, WARP_SIZE):
            own += self.weight(token)
        comptime for step in range(5):
            own += shuffle_xor(own, 16 >> step)
        barrier()
        if lane_id() == 0:
            sums[unsafe_offset=warp_id()] = own
        barrier()
        var target = min((uniform * total.cast[DType.float64]()).cast[DType.uint64](), total - 1)
        var before = UInt64(0)
        for w in range(warp_id()):
            before += sums[unsafe_offset=w]
        if before <= target and target < before + own:
            for start in range(first, end, WARP_SIZE):
                var token = start + lane_id()
                var weight = self.weight(token) if token < end else UInt64(0)
                var sum = running_sum(weight)
                if before + sum > target and before + sum - weight <= target:
                    sums[unsafe_offset=WARPS] = UInt64(token)
                before += last_lane(sum)
                if before > target:
                    break
        barrier()
        var token = Int(sums[unsafe_offset=WARPS])
        barrier()
        return token


@always_inline
def running_sum(value: UInt64) -> UInt64:
    """The sum of the values of this lane and those before it."""
    var sum = value
    comptime for step in range(5):
        var other = shuffle_up(sum, 1 << step)
        if lane_id() >= 1 << step:
            sum += other
    return sum


@always_inline
def find_bucket(histogram: Histogram, target: UInt64):
    """Finds the highest bucket that, with all above it, reaches the target; called by one warp.

    Leaves its number at BUCKETS and the sum of those above it at BUCKETS + 1.
    """
    comptime own = BUCKETS // WARP_SIZE
    # The first lane has the highest buckets.
    var highest = BUCKETS - 1 - lane_id() * own
    var sum = UInt64(0)
    for i in range(own):
        sum += histogram[unsafe_offset=highest - i]
    var above = running_sum(sum) - sum
    if above < target and target <= above + sum:
        var bucket = highest
        while above + histogram[unsafe_offset=bucket] < target:
            above += histogram[unsafe_offset=bucket]
            bucket -= 1
        histogram[unsafe_offset=BUCKETS] = UInt64(bucket)
        histogram[unsafe_offset=BUCKETS + 1] = above


@always_inline
def highest_below(logits: ReadPtr[DType.float32], size: Int, bound: UInt64) -> UInt64:
    """The highest rank below a bound, for all threads."""
    var best = UInt64(0)
    for token in range(thread_idx.x, size, THREADS):
        var rank = rank_of(logits[unsafe_offset=token], token)
        if rank < bound:
            best = max(best, rank)
    return block_max[THREADS](best)
