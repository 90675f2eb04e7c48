"""From logits to tokens, with penalties, temperature, top-k, top-p and min-p, without sorting the vocabulary.

The order of application: mask of allowed tokens; bias (minus infinity bans a token); repetition, presence and frequency penalties;
temperature; top-k; top-p on what top-k left; min-p on what top-p left; one draw by the inverse of the
cumulative distribution in the order of token ids. Top-k and top-p are found by radix selection on the bits
of the logits: one walks down from the largest until so many, or so much probability, is reached.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import exp, iota, log
from std.memory import bitcast
from std.utils.numerics import neg_inf

from ..gpu.sampling import launch_sample
from ..utils.parallel import parallel_ranges
from ..utils.simd import WIDTH, Vector
from ..utils.types import ReadPtr, WritePtr, untracked

comptime DIGIT_BITS = 11
comptime DIGITS = 3
"""Three digits of 11, 11 and 10 bits make up a float32."""


@always_inline
def ordered_bits(x: Float32) -> UInt32:
    """Bits that compare as unsigned integers the way the numbers do; -0 comes just below +0."""
    var bits = bitcast[DType.uint32](x)
    return ~bits if bits >> 31 else bits | 0x8000_0000


def largest(x: ReadPtr[DType.float32], size: Int) -> Tuple[Float32, Int]:
    """The largest of `size` numbers and the first place where it stands."""
    var best = Vector(neg_inf[DType.float32]())
    var i = 0
    while i + WIDTH <= size:
        best = max(best, x.unsafe_load[width=WIDTH](i))
        i += WIDTH
    var value = best.reduce_max()
    while i < size:
        value = max(value, x[unsafe_offset=i])
        i += 1
    for place in range(size):
        if x[unsafe_offset=place] == value:
            return value, place
    return value, 0


def exp_sum(x: ReadPtr[DType.float32], size: Int, maximum: Float32) -> Float64:
    """The sum of exp(x - maximum)."""
    var acc = SIMD[DType.float64, WIDTH](0)
    var i = 0
    while i + WIDTH <= size:
        acc += exp(x.unsafe_load[width=WIDTH](i) - maximum).cast[DType.float64]()
        i += WIDTH
    var total = acc.reduce_add()
    while i < size:
        total += exp(x[unsafe_offset=i] - maximum).cast[DType.float64]()
        i += 1
    return total


struct Candidates(Movable):
    """Tokens that may still be drawn, in the order of their ids."""

    var ids: List[Int32]
    var logits: List[Float32]
    var weights: List[Float32]
    """Each is exp((logit - largest) / temperature)."""

    def __init__(out self, logits: ReadPtr[DType.float32], size: Int, temperature: Float32):
        var maximum = largest(logits, size)[0]
        var inverse = 1 / temperature
        self.ids = List[Int32](length=size, fill=0)
        self.logits = List[Float32](length=size, fill=0)
        self.weights = List[Float32](length=size, fill=0)
        for i in range(size):
            self.ids[i] = Int32(i)
            self.logits[i] = logits[unsafe_offset=i]
        var weights = self.weights.unsafe_ptr()
        var i = 0
        while i + WIDTH <= size:
            weights.unsafe_store(i, exp((logits.unsafe_load[width=WIDTH](i) - maximum) * inverse))
            i += WIDTH
        while i < size:
            self.weights[i] = exp((self.logits[i] - maximum) * inverse)
            i += 1

    def total(self) -> Float64:
        """The sum of the weights."""
        var sum = Float64(0)
        for i in range(len(self.ids)):
            sum += self.weights[i].cast[DType.float64]()
        return sum

    def keep_largest[by_weight: Bool](mut self, target: Float64):
        """Keeps the fewest candidates, largest logits first and equal ones by id, that reach `target`.

        Parameters:
            by_weight: Count their weights; otherwise their number.

        Args:
            target: What must be reached; all are kept if they do not reach it together.
        """
        var decided = UInt32(0)
        var remaining = target
        comptime for digit in range(DIGITS):
            comptime low = max(0, 32 - (digit + 1) * DIGIT_BITS)
            comptime high = 32 - digit * DIGIT_BITS
            comptime buckets = 1 << (high - low)
            var sums = List[Float64](length=buckets, fill=0)
            var filled = List[Bool](length=buckets, fill=False)
            for i in range(len(self.ids)):
                var key = ordered_bits(self.logits[i])
                var possible = True
                comptime if digit > 0:
                    possible = (key >> UInt32(high)) == (decided >> UInt32(high))
                if possible:
                    var bucket = Int((key >> UInt32(low)) & UInt32(buckets - 1))
                    sums[bucket] += self.weights[i].cast[DType.float64]() if by_weight else 1
                    filled[bucket] = True
            var chosen = 0
            while not filled[chosen]:
                chosen += 1
            var lowest = chosen
            for b in range(buckets - 1, lowest - 1, -1):
                if filled[b]:
                    chosen = b
                    if sums[b] >= remaining or b == lowest:
                        break
                    remaining -= sums[b]
            decided |= UInt32(chosen) << UInt32(low)
        self.keep_from[by_weight](decided, remaining)

    def keep_from[by_weight: Bool](mut self, threshold: UInt32, target: Float64):
        """Keeps what lies above the threshold, and at it as many as reach `target`, at least one."""
        var kept = 0
        var reached = Float64(0)
        for i in range(len(self.ids)):
            var key = ordered_bits(self.logits[i])
            if key < threshold or (key == threshold and reached > 0 and reached >= target):
                continue
            if key == threshold:
                reached += self.weights[i].cast[DType.float64]() if by_weight else 1
            self.move(i, kept)
            kept += 1
        self.shrink(kept)

    def keep_weights_from(mut self, least: Float32):
        """Keeps the candidates whose weight is at least `least`; the largest weight is 1."""
        var kept = 0
        for i in range(len(self.ids)):
            # Written so that NaN, which a broken model may give, leaves something to draw.
            if not self.weights[i] < least:
                self.move(i, kept)
                kept += 1
        self.shrink(kept)

    def draw(self, uniform: Float64) -> Int32:
        """The candidate where the cumulative weight first exceeds `uniform` of the total."""
        var target = uniform * self.total()
        var sum = Float64(0)
        var last = 0
        for i in range(len(self.ids)):
            sum += self.weights[i].cast[DType.float64]()
            if sum > target:
                return self.ids[i]
            if self.weights[i] > 0:
                last = i
        return self.ids[last]

    @always_inline
    def move(mut self, source: Int, target: Int):
        self.ids[target] = self.ids[source]
        self.logits[target] = self.logits[source]
        self.weights[target] = self.weights[source]

    def shrink(mut self, size: Int):
        self.ids.shrink(size)
        self.logits.shrink(size)
        self.weights.shrink(size)


@fieldwise_init
struct RowParams(TrivialRegisterPassable):
    """How one row is sampled, as it lies in `params[R, 6]`."""

    var temperature: Float32
    var top_p: Float32
    var min_p: Float32
    var repetition: Float32
    var presence: Float32
    var frequency: Float32

    def __init__(out self, p: ReadPtr[DType.float32]):
        self.temperature = p[unsafe_offset=0]
        self.top_p = p[unsafe_offset=1]
        self.min_p = p[unsafe_offset=2]
        self.repetition = p[unsafe_offset=3]
        self.presence = p[unsafe_offset=4]
        self.frequency = p[unsafe_offset=5]

    def edit(self, x: Float32, bias: Float32, seen: Bool, count: Int32) -> Float32:
        """A logit after bias and penalties."""
        var y = x + bias
        if seen:
            y = y / self.repetition if y > 0 else y * self.repetition
        if count > 0:
            y -= self.presence + self.frequency * count.cast[DType.float32]()
        return y


def copy_allowed(
    mut edited: List[Float32], logits: ReadPtr[DType.float32], mask: Optional[ReadPtr[DType.uint32]]
):
    """Copies logits; where there is a mask, tokens whose bit is not set get minus infinity.

    Args:
        edited: Receives as many logits as it is long.
        logits: As many.
        mask: Token t's bit is bit t % 32 of word t // 32.
    """
    var size = len(edited)
    var target = edited.unsafe_ptr()
    var lanes = iota[DType.uint32, WIDTH]()
    var i = 0
    while i + WIDTH <= size:
        var x = logits.unsafe_load[width=WIDTH](i)
        if mask:
            var bits = mask.value()[unsafe_offset=i // 32] >> UInt32(i % 32)
            var allowed = ((SIMD[DType.uint32, WIDTH](bits) >> lanes) & 1).ne(0)
            x = allowed.select(x, Vector(neg_inf[DType.float32]()))
        target.unsafe_store(i, x)
        i += WIDTH
    while i < size:
        var allowed = True
        if mask:
            allowed = (mask.value()[unsafe_offset=i // 32] >> UInt32(i % 32)) & 1 != 0
        edited[i] = logits[unsafe_offset=i] if allowed else neg_inf[DType.float32]()
        i += 1


def sample_row(
    logits: ReadPtr[DType.float32], size: Int, params: RowParams, top_k: Int, uniform: Float64
) -> Int32:
    """The token drawn from logits that are edited already."""
    if params.temperature == 0:
        return Int32(largest(logits, size)[1])
    var candidates = Candidates(logits, size, params.temperature)
    if 0 < top_k < size:
        candidates.keep_largest[False](Float64(top_k))
    if params.top_p < 1:
        candidates.keep_largest[True](params.top_p.cast[DType.float64]() * candidates.total())
    if params.min_p > 0:
        candidates.keep_weights_from(params.min_p)
    return candidates.draw(uniform)


def top_tokens(
    logits: ReadPtr[DType.float32], size: Int, count: Int, ids: WritePtr[DType.int32], values: WritePtr[DType.float64]
):
    """The `count` largest logits and their ids, largest first, equal ones by id."""
    if count == 0:
        return
    var filled = 0
    for i in range(size):
        var x = logits[unsafe_offset=i].cast[DType.float64]()
        if filled == count and not x > values[unsafe_offset=count - 1]:
            continue
        var place = filled if filled < count else count - 1
        while place > 0 and x > values[unsafe_offset=place - 1]:
            ids[unsafe_offset=place] = ids[unsafe_offset=place - 1]
            values[unsafe_offset=place] = values[unsafe_offset=place - 1]
            place -= 1
        ids[unsafe_offset=place] = Int32(i)
        values[unsafe_offset=place] = x
        filled = min(filled + 1, count)


@extensibility.register("mili.sample")
struct Sample:
    """Draws one token per row of `logits[R, V]`, and reports log-probabilities where they are wanted.

    `params[R, 6]` holds temperature, top_p, min_p and the repetition, presence and frequency penalties;
    `top_k[R]` is 0 for no limit; `uniform[R]` are the draws, in [0, 1). Row r's logits are edited at the
    tokens `edit_tokens[edit_offsets[r]:edit_offsets[r + 1]]`, each named once: `edit_bias` is added, `edit_seen`
    says whether the repetition penalty applies, `edit_counts` how often the token is in the answer. Before that,
    where `mask_of[R]` is not negative, only tokens whose bit is set in that row of `masks[M, ceil(V / 32)]` are left.

    `wanted[R]` is the number of likeliest tokens to report in `top_ids[R, K]` and `top_logprobs[R, K]`, and -1
    for no log-probability at all. Those are of the logits before any edit.
    """

    @staticmethod
    def execute[
        target: StaticString
    ](
        tokens: OutputTensor[dtype=DType.int32, rank=1, ...],
        logprobs: OutputTensor[dtype=DType.float64, rank=1, ...],
        top_ids: OutputTensor[dtype=DType.int32, rank=2, ...],
        top_logprobs: OutputTensor[dtype=DType.float64, rank=2, ...],
        logits: InputTensor[dtype=DType.float32, rank=2, ...],
        params: InputTensor[dtype=DType.float32, rank=2, ...],
        top_k: InputTensor[dtype=DType.int32, rank=1, ...],
        uniform: InputTensor[dtype=DType.float64, rank=1, ...],
        wanted: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_offsets: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_tokens: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_bias: InputTensor[dtype=DType.float32, rank=1, ...],
        edit_seen: InputTensor[dtype=DType.int32, rank=1, ...],
        edit_counts: InputTensor[dtype=DType.int32, rank=1, ...],
        mask_of: InputTensor[dtype=DType.int32, rank=1, ...],
        masks: InputTensor[dtype=DType.uint32, rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        comptime if target == "gpu":
            launch_sample(
                tokens.unsafe_ptr(),
                logprobs.unsafe_ptr(),
                top_ids.unsafe_ptr(),
                top_logprobs.unsafe_ptr(),
                logits.unsafe_ptr(),
                params.unsafe_ptr(),
                top_k.unsafe_ptr(),
                uniform.unsafe_ptr(),
                wanted.unsafe_ptr(),
                edit_offsets.unsafe_ptr(),
                edit_tokens.unsafe_ptr(),
                edit_bias.unsafe_ptr(),
                edit_seen.unsafe_ptr(),
                edit_counts.unsafe_ptr(),
                mask_of.unsafe_ptr(),
                masks.unsafe_ptr(),
                tokens.dim_size(0),
                logits.dim_size(1),
                top_ids.dim_size(1),
                masks.dim_size(1),
                ctx,
            )
        else:
            var size = logits.dim_size(1)
            var most = top_ids.dim_size(1)
            var tokens_out = untracked(tokens.unsafe_ptr())
            var logprobs_out = untracked(logprobs.unsafe_ptr())
            var top_ids_out = untracked(top_ids.unsafe_ptr())
            var top_logprobs_out = untracked(top_logprobs.unsafe_ptr())
            var logits_in = untracked(logits.unsafe_ptr())
            var params_in = untracked(params.unsafe_ptr())
            var top_k_in = untracked(top_k.unsafe_ptr())
            var uniform_in = untracked(uniform.unsafe_ptr())
            var wanted_in = untracked(wanted.unsafe_ptr())
            var offsets_in = untracked(edit_offsets.unsafe_ptr())
            var edit_tokens_in = untracked(edit_tokens.unsafe_ptr())
            var bias_in = untracked(edit_bias.unsafe_ptr())
            var seen_in = untracked(edit_seen.unsafe_ptr())
            var counts_in = untracked(edit_counts.unsafe_ptr())
            var mask_of_in = untracked(mask_of.unsafe_ptr())
            var masks_in = untracked(masks.unsafe_ptr())
            var words = masks.dim_size(1)

            def rows(begin: Int, end: Int) {imm}:
                for r in range(begin, end):
                    var raw = logits_in.unsafe_offset(r * size)
                    var row = RowParams(params_in.unsafe_offset(6 * r))
                    var first = Int(offsets_in[unsafe_offset=r])
                    var last = Int(offsets_in[unsafe_offset=r + 1])
                    var k = Int(top_k_in[unsafe_offset=r])
                    var token: Int32
                    var mask: Optional[ReadPtr[DType.uint32]] = None
                    var own = Int(mask_of_in[unsafe_offset=r])
                    if own >= 0:
                        mask = ReadPtr[DType.uint32](masks_in.unsafe_offset(own * words))
                    if first == last and own < 0:
                        token = sample_row(raw, size, row, k, uniform_in[unsafe_offset=r])
                    else:
                        var edited = List[Float32](length=size, fill=0)
                        copy_allowed(edited, raw, mask)
                        for e in range(first, last):
                            var t = Int(edit_tokens_in[unsafe_offset=e])
                            edited[t] = row.edit(
                                edited[t],
                                bias_in[unsafe_offset=e],
                                seen_in[unsafe_offset=e] != 0,
                                counts_in[unsafe_offset=e],
                            )
                        token = sample_row(
                            untracked(edited.unsafe_ptr()), size, row, k, uniform_in[unsafe_offset=r]
                        )
                        _ = edited^
                    tokens_out[unsafe_offset=r] = token
                    logprobs_out[unsafe_offset=r] = 0
                    var count = Int(wanted_in[unsafe_offset=r])
                    if count >= 0:
                        var maximum = largest(raw, size)[0]
                        var normalizer = maximum.cast[DType.float64]() + log(exp_sum(raw, size, maximum))
                        logprobs_out[unsafe_offset=r] = raw[unsafe_offset=Int(token)].cast[DType.float64]() - normalizer
                        var values = top_logprobs_out.unsafe_offset(r * most)
                        top_tokens(raw, size, min(count, size), top_ids_out.unsafe_offset(r * most), values)
                        for i in range(min(count, size)):
                            values[unsafe_offset=i] -= normalizer

            parallel_ranges(tokens.dim_size(0), 8 * size, rows)
