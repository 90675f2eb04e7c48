"""The running sums of attention in registers, and how those of different keys are merged."""

from max.gpu import lane_id
from std.math import exp2, fma
from std.utils.numerics import neg_inf

from .block import shuffle_xor
from .mma import Sums

comptime LOG2_E = 1.4426950408889634
comptime MASKED = neg_inf[DType.float32]()
"""The score of a key that a row does not see."""


@always_inline
def reference_of(maximum: Float32) -> Float32:
    """What is subtracted from scores: their maximum, or 0 where everything was masked."""
    return maximum if maximum > MASKED else 0


@always_inline
def scale_of[head_dim: Int]() -> Float32:
    """What scores are multiplied with, so that 2 to their power is what the softmax takes."""
    return Float32(LOG2_E / (8.0 if head_dim == 64 else 11.313708498984761))


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
    def see[
        tiles: Int
    ](mut self, mut scores: Array[Sums, tiles], start: Int32, low_end: Int32, high_end: Int32, scale: Float32):
        """Masks the scores of 8 * tiles keys, and raises the maxima to theirs.

        Args:
            scores: A lane's share of 16 rows' scores.
            start: The first key's position.
            low_end: Row g sees the positions before this one.
            high_end: Likewise row g + 8.
            scale: Of the scores.
        """
        if start + Int32(8 * tiles) > min(low_end, high_end):
            # Counted from the lane's first key, because those counts need no registers.
            var low_seen = low_end - start - Int32(lane_id() % 4 * 2)
            var high_seen = high_end - start - Int32(lane_id() % 4 * 2)
            comptime for n in range(tiles):
                comptime for i in range(4):
                    if Int32(n * 8 + i % 2) >= (low_seen if i < 2 else high_seen):
                        scores[n][i] = MASKED
        var low = MASKED
        var high = MASKED
        comptime for n in range(tiles):
            low = max(low, max(scores[n][0], scores[n][1]))
            high = max(high, max(scores[n][2], scores[n][3]))
        comptime for step in range(2):
            low = max(low, shuffle_xor(low, 1 << step))
            high = max(high, shuffle_xor(high, 1 << step))
        self.rise(low * scale, high * scale)

    @always_inline
    def weights_of(self, scores: Sums, scale: Float32) -> Sums:
        """The weights of scores that were seen."""
        var a = -reference_of(self.low)
        var b = -reference_of(self.high)
        return exp2(fma(scores, Sums(scale), Sums(a, a, b, b)))

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
