"""From logits to tokens on a GPU, a block per row: the order of `core/sampling.mojo`, without a sort.

Tokens are ordered by a 64-bit rank, the bits of the logit above those of the id turned round, so that no two are equal
and top-k and top-p each leave the tokens from some rank on. That rank is found digit by digit, from histograms.

A token's weight, exp((logit - largest) / temperature), is a whole number of 2^-40, so that sums are exact in any order:
threads may add to one histogram at once, and a row's token depends on the row only.
"""

from max.gpu import WARP_SIZE, block_idx, lane_id, thread_idx, warp_id
from max.gpu.host import DeviceContext
from max.gpu.memory import AddressSpace
from max.gpu.sync import barrier
from std.atomic import Atomic, Ordering
from std.math import exp, log
from std.memory import bitcast, stack_allocation
from std.utils.numerics import neg_inf

from ..utils.types import ReadPtr
from .block import GpuRead, GpuWrite, block_max, block_sum, last_lane, shuffle_up, shuffle_xor

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


def sample_kernel(
    tokens: GpuWrite[DType.int32],
    logprobs: GpuWrite[DType.float64],
    top_ids: GpuWrite[DType.int32],
    top_logprobs: GpuWrite[DType.float64],
    edited: GpuWrite[DType.float32],
    logits: GpuRead[DType.float32],
    params: GpuRead[DType.float32],
    top_k: GpuRead[DType.int32],
    uniform: GpuRead[DType.float64],
    wanted: GpuRead[DType.int32],
    edit_offsets: GpuRead[DType.int32],
    edit_tokens: GpuRead[DType.int32],
    edit_bias: GpuRead[DType.float32],
    edit_seen: GpuRead[DType.int32],
    edit_counts: GpuRead[DType.int32],
    mask_of: GpuRead[DType.int32],
    masks: GpuRead[DType.uint32],
    vocabulary: Int32,
    most: Int32,
    words: Int32,
):
    """One row; the arguments are those of `mili.sample` and `edited` [R, V], which rows with edits or a mask fill."""
    comptime everything = UInt64(0xFFFF_FFFF_FFFF_FFFF)
    var histogram = stack_allocation[BUCKETS + 2, UInt64, address_space=AddressSpace.SHARED]()
    var size = Int(vocabulary)
    var r = block_idx.x
    var raw = logits.unsafe_offset(r * size).unsafe_origin_cast[ImmUntrackedOrigin]()
    var source = raw
    var first = Int(edit_offsets[unsafe_offset=r])
    var last = Int(edit_offsets[unsafe_offset=r + 1])
    var mask = Int(mask_of[unsafe_offset=r])
    var row = params.unsafe_offset(6 * r)
    if first < last or mask >= 0:
        var target = edited.unsafe_offset(r * size)
        for token in range(thread_idx.x, size, THREADS):
            var allowed = True
            if mask >= 0:
                var word = masks[unsafe_offset=mask * Int(words) + token // 32]
                allowed = word >> UInt32(token % 32) & 1 != 0
            target[unsafe_offset=token] = raw[unsafe_offset=token] if allowed else neg_inf[DType.float32]()
        barrier()
        for e in range(first + thread_idx.x, last, THREADS):
            var token = Int(edit_tokens[unsafe_offset=e])
            var y = target[unsafe_offset=token] + edit_bias[unsafe_offset=e]
            if edit_seen[unsafe_offset=e] != 0:
                var penalty = row[unsafe_offset=3]
                y = y / penalty if y > 0 else y * penalty
            var count = edit_counts[unsafe_offset=e]
            if count > 0:
                y -= row[unsafe_offset=4] + row[unsafe_offset=5] * count.cast[DType.float32]()
            target[unsafe_offset=token] = y
        barrier()
        source = ReadPtr[DType.float32](target.unsafe_origin_cast[MutUntrackedOrigin]())
    var best = highest_below(source, size, everything)
    var token = token_of(best)
    var temperature = row[unsafe_offset=0]
    if temperature > 0:
        var weights = Weights(source, size, logit_of(best), 1 / temperature, 0, 0)
        var k = Int(top_k[unsafe_offset=r])
        if 0 < k and k < size:
            weights.keep[False](UInt64(k), histogram)
        var total = weights.total()
        var top_p = row[unsafe_offset=1].cast[DType.float64]()
        if top_p < 1 and total > 0:
            var exact = top_p * total.cast[DType.float64]()
            var target = exact.cast[DType.uint64]()
            target += UInt64(target.cast[DType.float64]() < exact)
            weights.keep[True](min(max(target, 1), total), histogram)
        weights.least = row[unsafe_offset=2]
        total = weights.total()
        if total > 0:
            token = weights.draw(uniform[unsafe_offset=r], total, histogram)
    var count = min(Int(wanted[unsafe_offset=r]), size)
    if thread_idx.x == 0:
        tokens[unsafe_offset=r] = Int32(token)
        logprobs[unsafe_offset=r] = 0
    if count < 0:
        return
    var highest = highest_below(raw, size, everything)
    var maximum = logit_of(highest)
    var total = Weights(raw, size, maximum, 1, 0, 0).total()
    var normalizer = maximum.cast[DType.float64]() + log(total.cast[DType.float32]() / ONE).cast[DType.float64]()
    if thread_idx.x == 0:
        logprobs[unsafe_offset=r] = raw[unsafe_offset=token].cast[DType.float64]() - normalizer
    for i in range(count):
        if thread_idx.x == 0:
            top_ids[unsafe_offset=r * Int(most) + i] = Int32(token_of(highest))
            top_logprobs[unsafe_offset=r * Int(most) + i] = logit_of(highest).cast[DType.float64]() - normalizer
        highest = highest_below(raw, size, highest)


def launch_sample(
    tokens: GpuWrite[DType.int32],
    logprobs: GpuWrite[DType.float64],
    top_ids: GpuWrite[DType.int32],
    top_logprobs: GpuWrite[DType.float64],
    logits: GpuRead[DType.float32],
    params: GpuRead[DType.float32],
    top_k: GpuRead[DType.int32],
    uniform: GpuRead[DType.float64],
    wanted: GpuRead[DType.int32],
    edit_offsets: GpuRead[DType.int32],
    edit_tokens: GpuRead[DType.int32],
    edit_bias: GpuRead[DType.float32],
    edit_seen: GpuRead[DType.int32],
    edit_counts: GpuRead[DType.int32],
    mask_of: GpuRead[DType.int32],
    masks: GpuRead[DType.uint32],
    rows: Int,
    size: Int,
    most: Int,
    words: Int,
    ctx: DeviceContext,
) raises:
    """Launches the kernel for `rows` rows of `size` logits."""
    var edited = ctx.enqueue_create_buffer[DType.float32](rows * size)
    ctx.enqueue_function[sample_kernel](
        tokens,
        logprobs,
        top_ids,
        top_logprobs,
        edited,
        logits,
        params,
        top_k,
        uniform,
        wanted,
        edit_offsets,
        edit_tokens,
        edit_bias,
        edit_seen,
        edit_counts,
        mask_of,
        masks,
        Int32(size),
        Int32(most),
        Int32(words),
        grid_dim=rows,
        block_dim=THREADS,
    )
    _ = edited^
