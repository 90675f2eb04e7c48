"""What the instructions of Intel AMX do.

Written from the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter "Intel AMX Instruction
Set Reference". What a CPU refuses (tiles that are not configured, or do not fit each other) ends the process here.
"""

from std.atomic import Atomic
from std.ffi import external_call
from std.math import fma
from std.memory import bitcast
from std.sys import inlined_assembly

from .decoder import Bytes, Instruction, at, give_up

comptime STATE = 0x5A00_0000_0000
"""Address of the tiles of all threads, which a handler of signals must find without being told."""
comptime THREADS = 64
comptime TILE_BYTES = 1024
comptime ROW_BYTES = 64
comptime THREAD_BYTES = 64 + 64 + 8 * TILE_BYTES
"""Of one thread: which it is, its configuration, and its tiles."""
comptime Row = SIMD[DType.float32, 16]


struct Tiles(TrivialRegisterPassable):
    """The tiles of the thread that asks."""

    var memory: Bytes

    def __init__(out self):
        var me = inlined_assembly["movq %fs:0, $0", Int, constraints="=r", has_side_effect=True]()
        self.memory = at(STATE)
        for i in range(THREADS):
            self.memory = at(STATE + i * THREAD_BYTES)
            var owner = self.memory.unsafe_bitcast[Int64]()
            var free = Int64(0)
            if Int(owner[]) == me or Atomic[Int64].compare_exchange(owner, free, Int64(me)):
                return
        give_up("too many threads")

    def config(self) -> Bytes:
        """The configuration: 64 bytes, of which the first is 0 or 1, the palette."""
        return self.memory.unsafe_offset(64)

    def tile(self, t: Int) -> Bytes:
        """A tile's 16 rows of 64 bytes."""
        if self.config()[] != 1:
            give_up("no tiles are configured")
        return self.memory.unsafe_offset(128 + t * TILE_BYTES)

    def rows(self, t: Int) -> Int:
        return Int(self.config()[unsafe_offset=48 + t])

    def columns(self, t: Int) -> Int:
        """Bytes of a row."""
        return Int(self.config().unsafe_offset(16 + 2 * t).unsafe_bitcast[UInt16]()[])

    def clear(self, t: Int):
        for i in range(0, TILE_BYTES, ROW_BYTES):
            self.tile(t).unsafe_store(i, SIMD[DType.uint8, ROW_BYTES](0))

    def configure(self, source: Bytes):
        """Does ldtilecfg."""
        for i in range(64):
            self.config()[unsafe_offset=i] = source[unsafe_offset=i]
        if source[] == 0:
            return
        for t in range(8):
            if source[] != 1 or self.rows(t) > 16 or self.columns(t) > ROW_BYTES:
                give_up("not a configuration")
            self.clear(t)

    def load(self, t: Int, source: Int, stride: Int):
        """Does tileloadd, and tileloaddt1, whose hint changes no number."""
        self.clear(t)
        for r in range(self.rows(t)):
            for i in range(self.columns(t)):
                self.tile(t)[unsafe_offset=r * ROW_BYTES + i] = at(source + r * stride)[unsafe_offset=i]

    def store(self, t: Int, target: Int, stride: Int):
        """Does tilestored."""
        for r in range(self.rows(t)):
            for i in range(self.columns(t)):
                at(target + r * stride)[unsafe_offset=i] = self.tile(t)[unsafe_offset=r * ROW_BYTES + i]

    def check(self, c: Int, a: Int, b: Int):
        """Ends the process where the tiles of a product do not fit each other."""
        if self.rows(c) != self.rows(a) or self.columns(c) != self.columns(b) or self.columns(a) != 4 * self.rows(b):
            give_up("tiles of a product do not fit")

    def add_pairs(self, c: Int, a: Int, b: Int):
        """Does tdpbf16ps: even and odd products are summed apart, and their sum is added."""
        self.check(c, a, b)
        for m in range(self.rows(c)):
            var even = Row(0)
            var odd = Row(0)
            for k in range(self.columns(a) // 4):
                var x = self.tile(a).unsafe_offset(m * ROW_BYTES + 4 * k).unsafe_bitcast[UInt32]()[]
                var w = self.tile(b).unsafe_offset(k * ROW_BYTES).unsafe_bitcast[UInt32]().unsafe_load[width=16](0)
                even = flushed[16](fma(Row(number(x << 16)), flushed[16](bitcast[DType.float32, 16](w << 16)), even))
                odd = flushed[16](fma(Row(number(x)), flushed[16](bitcast[DType.float32, 16](w & 0xFFFF_0000)), odd))
            var sums = self.tile(c).unsafe_offset(m * ROW_BYTES).unsafe_bitcast[Float32]()
            sums.unsafe_store(0, flushed[16](flushed[16](sums.unsafe_load[width=16](0)) + flushed[16](even + odd)))

    def add_quads(self, c: Int, a: Int, b: Int, a_signed: Bool, b_signed: Bool):
        """Does tdpbssd, tdpbsud, tdpbusd and tdpbuud."""
        self.check(c, a, b)
        for m in range(self.rows(c)):
            for n in range(self.columns(c) // 4):
                var place = self.tile(c).unsafe_offset(m * ROW_BYTES + 4 * n).unsafe_bitcast[Int32]()
                for k in range(self.columns(a)):
                    var x = self.tile(a)[unsafe_offset=m * ROW_BYTES + k]
                    var w = self.tile(b)[unsafe_offset=k // 4 * ROW_BYTES + 4 * n + k % 4]
                    place[] += byte(x, a_signed) * byte(w, b_signed)


def number(bits: UInt32) -> Float32:
    """The float32 of a bfloat16 in the upper half."""
    return flushed[1](bitcast[DType.float32, 1](bits & 0xFFFF_0000))


def flushed[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Numbers too small for float32's full precision count as zero."""
    return abs(x).lt(SIMD[DType.float32, width](1.1754944e-38)).select(SIMD[DType.float32, width](0), x)


def byte(x: UInt8, signed: Bool) -> Int32:
    """A byte's number."""
    return bitcast[DType.int8, 1](x).cast[DType.int32]() if signed else x.cast[DType.int32]()


def do_amx(instruction: Instruction) -> Bool:
    """Does an instruction of AMX; false if it is none."""
    var prefix = instruction.prefix()
    var opcode = instruction.opcode()
    if opcode == 0x5C or opcode == 0x5E:
        var c = instruction.target()
        var a = instruction.third()
        var b = instruction.second()
        if opcode == 0x5E:
            Tiles().add_quads(c, a, b, prefix >= 2, prefix == 1 or prefix == 3)
        elif prefix == 2:
            Tiles().add_pairs(c, a, b)
        else:
            give_up("products of this type are not modelled")
    elif opcode == 0x49 and instruction.on_registers():
        if prefix == 3:
            Tiles().clear(instruction.target())
        else:  # tilerelease
            Tiles().config()[] = 0
    elif opcode == 0x49:
        if prefix != 0:
            give_up("sttilecfg is not modelled")
        Tiles().configure(at(instruction.memory().address))
    elif opcode == 0x4B:
        var operand = instruction.memory()
        if prefix == 2:
            Tiles().store(instruction.target(), operand.address, operand.stride)
        else:
            Tiles().load(instruction.target(), operand.address, operand.stride)
    else:
        return False
    return True


def prepare_amx() -> Bool:
    """Makes room for the tiles; whether there is."""
    # Private memory at a fixed place, refused where that is taken.
    return external_call["mmap", Int](STATE, Int(THREADS * THREAD_BYTES), Int32(3), Int32(0x10_0022), Int32(-1), 0) == STATE
