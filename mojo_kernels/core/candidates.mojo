"""Tokens that may still be drawn, and the radix selection of the largest of them."""

from std.memory import bitcast

from ..utils.exp import exp_vector
from .logits import CHUNK, MINUS_INFINITY, LogitRow

comptime DIGIT_BITS = 11
comptime DIGITS = 3
"""Three digits of 11, 11 and 10 bits make up a float32."""


@always_inline
def ordered_bits(x: Float32) -> UInt32:
    """Bits that compare as unsigned integers the way the numbers do; -0 comes just below +0."""
    var bits = bitcast[DType.uint32](x)
    return ~bits if bits >> 31 else bits | 0x8000_0000


struct Candidates(Movable):
    """Tokens that may still be drawn, in the order of their ids."""

    var ids: List[Int32]
    var logits: List[Float32]
    var weights: List[Float32]
    """Each is exp((logit - largest) / temperature)."""

    def __init__(out self, row: LogitRow, bound: Float32, inverse: Float32):
        """The tokens of a row whose logits are not below `bound`, at the temperature 1 / `inverse`."""
        self.ids = List[Int32](capacity=CHUNK)
        self.logits = List[Float32](capacity=CHUNK)
        row.gather(bound, self.ids, self.logits)
        self.weights = List[Float32](unsafe_uninit_length=len(self.ids))
        for i in range(len(self.ids)):
            self.weights[i] = exp_vector[1]((self.logits[i] - row.maximum) * inverse)[0]

    def __init__(out self, var logits: List[Float32]):
        """Logits of equal weight, of no tokens."""
        self.ids = List[Int32](length=len(logits), fill=0)
        self.weights = List[Float32](length=len(logits), fill=1)
        self.logits = logits^

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
            if self.weights[i] >= least:
                self.move(i, kept)
                kept += 1
        # Of logits that are no numbers, which a broken model may give, something must be left to draw.
        self.shrink(max(kept, 1))

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


def count_bound(row: LogitRow, count: Int) -> Float32:
    """A logit that at least `count` of a row reach: the least of the largest `count` maxima of chunks."""
    if count > len(row.maxima):
        return MINUS_INFINITY
    var maxima = Candidates(row.maxima.copy())
    maxima.keep_largest[False](Float64(count))
    var least = maxima.logits[0]
    for logit in maxima.logits:
        least = min(least, logit)
    return least
