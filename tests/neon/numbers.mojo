"""Numbers for the tests: the same in every run."""


struct Numbers:
    """A sequence of random numbers (SplitMix64, Steele et al. 2014, figure 17)."""

    var state: UInt64

    def __init__(out self, seed: Int):
        self.state = UInt64(seed)

    def next(mut self) -> UInt64:
        """All 64 bits."""
        self.state += 0x9E3779B97F4A7C15
        var z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        return z ^ (z >> 31)

    def below(mut self, end: Int) -> Int:
        """An integer from 0 on, below `end`."""
        return Int(self.next() >> 33) % end

    def list[dtype: DType](mut self, size: Int, scale: Float64 = 1) -> List[Scalar[dtype]]:
        """Numbers between -scale and scale, rounded to a type."""
        var values = List[Scalar[dtype]](length=size, fill=0)
        for i in range(size):
            values[i] = ((Float64(Int(self.next() >> 11)) * 2.0**-52 - 1) * scale).cast[dtype]()
        return values^


def assert_close(actual: Float32, expected: Float64, bound: Float64, what: String) raises:
    """Fails where a number is further than `bound` from what it should be, or is none."""
    if not abs(actual.cast[DType.float64]() - expected) <= bound:
        raise Error(what, " is ", actual, ", not ", expected, " within ", bound)


def assert_same_bits(
    actual: List[Float32], first: Int, expected: List[Float32], begin: Int, size: Int, what: String
) raises:
    """Fails where `size` numbers of a list, from `first` on, differ from those of another, from `begin` on."""
    for i in range(size):
        if actual[first + i].to_bits() != expected[begin + i].to_bits():
            raise Error(what, ": number ", i, " is ", actual[first + i], ", not ", expected[begin + i])
