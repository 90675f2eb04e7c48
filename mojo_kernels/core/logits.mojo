"""Passes over one row of logits, in vectors: its largest, the sum of its exponentials, what lies above a threshold."""

from std.utils.numerics import neg_inf

from ..utils.exp import exp_vector
from ..utils.simd import WIDTH, Vector
from ..utils.types import ReadPtr, WritePtr

comptime CHUNK = 64
"""Logits of which the largest is kept, so that passes for a few large ones skip most of a row."""
comptime SPAN = 1024
"""Logits whose exponentials are added in float32 before they go into a float64 sum."""
comptime STEPS = 8
"""Thresholds that are tried in one pass."""
comptime MINUS_INFINITY = neg_inf[DType.float32]()


struct LogitRow(Copyable, Movable):
    """A row of logits and the largest of each of its chunks."""

    var logits: ReadPtr[DType.float32]
    var size: Int
    var maxima: List[Float32]
    var maximum: Float32
    """The largest logit; minus infinity where there is no number at all."""

    def __init__(out self, logits: ReadPtr[DType.float32], size: Int):
        self.logits = logits
        self.size = size
        self.maxima = List[Float32](capacity=size // CHUNK + 1)
        self.maximum = MINUS_INFINITY
        for begin in range(0, size, CHUNK):
            var most = MINUS_INFINITY
            if begin + CHUNK <= size:
                var lanes = Vector(MINUS_INFINITY)
                comptime for i in range(0, CHUNK, WIDTH):
                    lanes = max(lanes, logits.unsafe_load[width=WIDTH](begin + i))
                most = lanes.reduce_max()
            else:
                for i in range(begin, size):
                    most = max(most, logits[unsafe_offset=i])
            self.maxima.append(most)
            if most > self.maximum:
                self.maximum = most

    def first_largest(self) -> Int:
        """The first place where the largest logit stands; 0 where there is no number at all."""
        for chunk in range(len(self.maxima)):
            if self.maxima[chunk] == self.maximum:
                for i in range(chunk * CHUNK, min(self.size, (chunk + 1) * CHUNK)):
                    if self.logits[unsafe_offset=i] == self.maximum:
                        return i
        return 0

    @always_inline
    def weights(self, i: Int, inverse: Float32) -> Vector:
        """The weights exp((logit - maximum) * inverse) from logit `i` on; 0 for lanes past the end."""
        if i + WIDTH <= self.size:
            return exp_vector[WIDTH]((self.logits.unsafe_load[width=WIDTH](i) - self.maximum) * inverse)
        var lanes = Vector(0)
        for lane in range(self.size - i):
            lanes[lane] = exp_vector[1]((self.logits[unsafe_offset=i + lane] - self.maximum) * inverse)[0]
        return lanes

    def span_sums(self, inverse: Float32) -> List[Float64]:
        """The sum of the weights of each span."""
        var sums = List[Float64](capacity=self.size // SPAN + 1)
        for begin in range(0, self.size, SPAN):
            var acc = Vector(0)
            for i in range(begin, min(begin + SPAN, self.size), WIDTH):
                acc += self.weights(i, inverse)
            sums.append(acc.cast[DType.float64]().reduce_add())
        return sums^

    def draw(self, inverse: Float32, uniform: Float64) -> Int:
        """The first token where the sum of the weights so far exceeds `uniform` of all."""
        var sums = self.span_sums(inverse)
        var target = uniform * total_of(sums)
        var sum = Float64(0)
        for span in range(len(sums)):
            if sum + sums[span] > target or span == len(sums) - 1:
                var last = span * SPAN
                for i in range(span * SPAN, min(self.size, (span + 1) * SPAN)):
                    var weight = exp_vector[1]((self.logits[unsafe_offset=i] - self.maximum) * inverse)[0]
                    sum += weight.cast[DType.float64]()
                    if weight > 0:
                        last = i
                    if sum > target:
                        break
                return last
            sum += sums[span]
        return 0

    def mass_bound(self, inverse: Float32, target: Float64) -> Float32:
        """A logit such that the weights of it and all larger ones reach `target`, and not many more than needed do.

        Args:
            inverse: Of the temperature.
            target: A sum of weights.
        """
        # Sums of float32 numbers are right to much more than a hundred thousandth.
        var wanted = target * 1.00001
        var highest = Float32(0)
        var width = Float32(2)
        for _ in range(2):
            var masses = self.masses(inverse, highest, width)
            var reached = 0
            while reached < STEPS and masses[reached] < wanted:
                reached += 1
            if reached == STEPS:
                return MINUS_INFINITY
            highest += Float32(reached) * width
            width /= STEPS
        return self.maximum - (highest + STEPS * width + 1e-4) / inverse

    def masses(self, inverse: Float32, highest: Float32, width: Float32) -> Array[Float64, STEPS]:
        """For j from 1 to STEPS, the sum of the weights that are at least exp(-(highest + j width))."""
        var masses = Array[Float64, STEPS](fill=0)
        var thresholds = Array[Float32, STEPS](fill=0)
        for j in range(STEPS):
            thresholds[j] = self.maximum - (highest + Float32(j + 1) * width) / inverse
        for begin in range(0, self.size, SPAN):
            var acc = Array[Vector, STEPS](fill=Vector(0))
            for chunk in range(begin // CHUNK, min((begin + SPAN) // CHUNK, len(self.maxima))):
                if self.maxima[chunk] < thresholds[STEPS - 1]:
                    continue
                for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.size), WIDTH):
                    var w = self.weights(i, inverse)
                    var x = Vector(MINUS_INFINITY)
                    if i + WIDTH <= self.size:
                        x = self.logits.unsafe_load[width=WIDTH](i)
                    else:
                        for lane in range(self.size - i):
                            x[lane] = self.logits[unsafe_offset=i + lane]
                    comptime for j in range(STEPS):
                        acc[j] += x.ge(Vector(thresholds[j])).select(w, Vector(0))
            comptime for j in range(STEPS):
                masses[j] += acc[j].cast[DType.float64]().reduce_add()
        return masses^

    def gather(self, bound: Float32, mut ids: List[Int32], mut logits: List[Float32]):
        """Appends the tokens whose logits are not below `bound`, in the order of their ids."""
        for chunk in range(len(self.maxima)):
            if self.maxima[chunk] < bound:
                continue
            var end = min((chunk + 1) * CHUNK, self.size)
            for i in range(chunk * CHUNK, end, WIDTH):
                if i + WIDTH <= end:
                    var below = self.logits.unsafe_load[width=WIDTH](i).lt(Vector(bound))
                    if below.reduce_and():
                        continue
                for place in range(i, min(i + WIDTH, end)):
                    if not self.logits[unsafe_offset=place] < bound:
                        ids.append(Int32(place))
                        logits.append(self.logits[unsafe_offset=place])

    def top(self, count: Int, ids: WritePtr[DType.int32], values: WritePtr[DType.float64]):
        """Writes the `count` largest logits and their ids, largest first, equal ones by id."""
        if count == 0:
            return
        var filled = 0
        for chunk in range(len(self.maxima)):
            if filled == count and not self.maxima[chunk].cast[DType.float64]() > values[unsafe_offset=count - 1]:
                continue
            for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.size)):
                var x = self.logits[unsafe_offset=i].cast[DType.float64]()
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


def total_of(sums: List[Float64]) -> Float64:
    """Their sum, in order."""
    var total = Float64(0)
    for sum in sums:
        total += sum
    return total
