"""The running sums of attention in registers, and how those of different keys are merged."""

from std.math import exp2, fma
from std.utils.numerics import neg_inf

from .mma import Sums

comptime MASKED = neg_inf[DType.float32]()
"""The score of a key that a row does not see."""


@always_inline
def reference_of(maximum: Float32) -> Float32:
    """What is subtracted from scores: their maximum, or 0 where everything was masked."""
    return maximum if maximum > MASKED else 0


struct Accumulator[head_dim: Int](Movable):
    """A lane's share of 16 rows' sums over some keys: rows g = lane / 4 and g + 8."""

    comptime TILES = Self.head_dim // 8
    var values: Array[Sums, Self.TILES]
    """Values weighted by 2^(score - maximum)."""
    var weights: Sums
    """The weights' sums, as one more column of values that are all 1."""
    var low: Float32
    """Row g's maximum score."""
    var high: Float32
    """Row g + 8's."""

    @always_inline
    def __init__(out self):
        self.values = Array[Sums, Self.TILES](fill=Sums(0))
        self.weights = Sums(0)
        self.low = MASKED
        self.high = MASKED

    @always_inline
    def rise(mut self, low: Float32, high: Float32):
        """Raises the maxima to at least these and rescales the sums."""
        var new_low = max(self.low, low)
        var new_high = max(self.high, high)
        if new_low > self.low or new_high > self.high:
            var a = exp2(self.low - reference_of(new_low))
            var b = exp2(self.high - reference_of(new_high))
            var decay = Sums(a, a, b, b)
            comptime for n in range(Self.TILES):
                self.values[n] *= decay
            self.weights *= decay
            self.low = new_low
            self.high = new_high

    @always_inline
    def merge(mut self, mut part: Self):
        """Adds the sums over later keys, and empties them."""
        var low = max(self.low, part.low)
        var high = max(self.high, part.high)
        var a = exp2(self.low - reference_of(low))
        var b = exp2(self.high - reference_of(high))
        var c = exp2(part.low - reference_of(low))
        var d = exp2(part.high - reference_of(high))
        var mine = Sums(a, a, b, b)
        var other = Sums(c, c, d, d)
        comptime for n in range(Self.TILES):
            self.values[n] = fma(part.values[n], other, self.values[n] * mine)
            part.values[n] = Sums(0)
        self.weights = fma(part.weights, other, self.weights * mine)
        part.weights = Sums(0)
        self.low = low
        self.high = high
        part.low = MASKED
        part.high = MASKED
