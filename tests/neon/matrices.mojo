"""Matrices as the kernels take them, packed number by number as `packed.mojo` and `quantized_rows.mojo` tell."""

from std.math import ceildiv

from mojo_kernels.core.packed import PANEL, pack_factor
from mojo_kernels.core.quantized_rows import QUADS
from numbers import Numbers


def pack[dtype: DType](w: List[Scalar[dtype]], n: Int, k: Int) -> List[Scalar[dtype]]:
    """The packed form [n / 64, k / P, 64, P] of w[n, k]."""
    comptime factor = pack_factor[dtype]()
    var steps = ceildiv(k, factor)
    var packed = List[Scalar[dtype]](length=ceildiv(n, PANEL) * steps * PANEL * factor, fill=0)
    for row in range(n):
        for column in range(k):
            var step = row // PANEL * steps + column // factor
            packed[(step * PANEL + row % PANEL) * factor + column % factor] = w[row * k + column]
    return packed^


struct QuantizedWeights[bits: Int, offsets: Bool]:
    """A random matrix [n, k]: as it is, and packed."""

    var n: Int
    var groups: Int
    var group: Int
    """Columns of a group."""
    var values: List[UInt8]
    """[n, k]."""
    var scales: List[Float16]
    """[n, groups]."""
    var minima: List[Float16]
    """[n, groups]: offsets."""
    var packed: List[UInt8]

    def __init__(out self, mut numbers: Numbers, n: Int, groups: Int, group: Int, largest: Float64 = 1):
        """Draws and packs the numbers.

        Args:
            numbers: Random numbers.
            n: Rows.
            groups: Groups of columns.
            group: Columns of a group.
            largest: The largest scale, of either sign.
        """
        comptime columns = 32 // Self.bits
        comptime end = 1 << Self.bits
        var k = groups * group
        self.n = n
        self.groups = groups
        self.group = group
        self.scales = numbers.list[DType.float16](n * groups, largest)
        self.minima = numbers.list[DType.float16](n * groups, Float64(end) * largest)
        self.values = List[UInt8](length=n * k, fill=0)
        for i in range(n * k):
            # The first rows have the largest sums.
            self.values[i] = UInt8(0 if i < k else (end - 1 if i < 2 * k else numbers.below(end)))
        var values_size = PANEL * group * Self.bits // 8
        var block_size = values_size + PANEL * (4 if Self.offsets else 2)
        self.packed = List[UInt8](length=ceildiv(n, PANEL) * groups * block_size, fill=0)
        for row in range(n):
            var lane = row % PANEL
            for column in range(k):
                var block = (row // PANEL * groups + column // group) * block_size
                var step, place = divmod(column % group, columns)
                var half, byte = divmod(place, 4)
                self.packed[block + step * QUADS + lane * 4 + byte] |= self.values[row * k + column] << UInt8(4 * half)
            for g in range(groups):
                var block = (row // PANEL * groups + g) * block_size + values_size
                self.put(block + 2 * lane, self.scales[row * groups + g])
                comptime if Self.offsets:
                    self.put(block + 2 * (PANEL + lane), self.minima[row * groups + g])

    def put(mut self, place: Int, number: Float16):
        var raw = number.to_bits()
        self.packed[place] = UInt8(raw & 255)
        self.packed[place + 1] = UInt8(raw >> 8)

    def offset(self, row: Int, group: Int) -> Float64:
        """What is taken off each scaled value of a group."""
        comptime if Self.offsets:
            return self.minima[row * self.groups + group].cast[DType.float64]()
        else:
            return self.scales[row * self.groups + group].cast[DType.float64]() * Float64(1 << (Self.bits - 1))

    def number(self, row: Int, column: Int) -> Float64:
        """A number of the matrix."""
        var group = column // self.group
        var scale = self.scales[row * self.groups + group].cast[DType.float64]()
        return scale * Float64(Int(self.values[row * self.groups * self.group + column])) - self.offset(row, group)
