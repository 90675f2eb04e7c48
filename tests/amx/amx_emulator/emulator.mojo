"""What the instructions of Intel AMX do, for CPUs without them: a handler of the signal that they raise there.

Written from the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter "Intel AMX Instruction
Set Reference". What a CPU refuses (tiles that are not configured, or do not fit each other) ends the process here.
"""

import extensibility
from extensibility import OutputTensor
from std.atomic import Atomic
from std.ffi import external_call
from std.math import fma
from std.memory import bitcast
from std.sys import inlined_assembly

comptime STATE = 0x5A00_0000_0000
"""Address of the tiles of all threads, which a handler of signals must find without being told."""
comptime SIGILL = Int32(4)
comptime SA_SIGINFO = 4
comptime THREADS = 64
comptime TILE_BYTES = 1024
comptime ROW_BYTES = 64
comptime THREAD_BYTES = 64 + 64 + 8 * TILE_BYTES
"""Of one thread: which it is, its configuration, and its tiles."""
comptime REGISTERS = 40
"""Where a ucontext_t of Linux on x86-64 has its registers: r8 to r15, then `LEGACY`, then rip."""
comptime LEGACY: List[Int] = [13, 14, 12, 11, 15, 10, 9, 8]
"""Which of them are rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi."""
comptime RIP = 16

comptime Bytes = Pointer[UInt8, MutUntrackedOrigin]
comptime Row = SIMD[DType.float32, 16]


def at(address: Int) -> Bytes:
    """The bytes at an address."""
    return Bytes(unsafe_from_address=address)


def give_up(message: StaticString):
    """Ends the process."""
    _ = external_call["write", Int](Int32(2), message.unsafe_ptr(), message.byte_length())
    external_call["abort", NoneType]()


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
        give_up("AMX emulator: too many threads\n")

    def config(self) -> Bytes:
        """The configuration: 64 bytes, of which the first is 0 or 1, the palette."""
        return self.memory.unsafe_offset(64)

    def tile(self, t: Int) -> Bytes:
        """A tile's 16 rows of 64 bytes."""
        if self.config()[] != 1:
            give_up("AMX emulator: no tiles are configured\n")
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
                give_up("AMX emulator: not a configuration\n")
            self.clear(t)

    def load(self, t: Int, source: Int, stride: Int):
        """Does tileloadd."""
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
            give_up("AMX emulator: tiles of a product do not fit\n")

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


struct Operand(TrivialRegisterPassable):
    """An instruction's memory: where it begins, what lies between rows, and how many bytes say so."""

    var address: Int
    var stride: Int
    var size: Int

    def __init__(out self, code: Bytes, registers: Pointer[Int, MutUntrackedOrigin], extended: UInt8):
        """Decodes ModR/M, SIB and displacement.

        Args:
            code: From ModR/M on.
            registers: Of the thread.
            extended: The byte of the VEX prefix with the upper bits of registers, inverted.
        """
        var mode = Int(code[] >> 6)
        var base = Int(code[] & 7)
        var has_index = base == 4
        self.size = 2 if has_index else 1
        self.stride = 0
        if has_index:
            var sib = code[unsafe_offset=1]
            base = Int(sib & 7)
            var index = Int(sib >> 3 & 7) + (0 if extended & 0x40 else 8)
            if index != 4:
                self.stride = register(registers, index) << Int(sib >> 6)
        if mode == 0 and base == 5:
            give_up("AMX emulator: addresses without a base are not modelled\n")
        self.address = register(registers, base + (0 if extended & 0x20 else 8))
        var displacement = code.unsafe_offset(self.size)
        if mode == 1:
            self.address += Int(displacement.unsafe_bitcast[Int8]()[])
            self.size += 1
        elif mode == 2:
            self.address += Int(displacement.unsafe_bitcast[Int32]()[])
            self.size += 4


def register(registers: Pointer[Int, MutUntrackedOrigin], number: Int) -> Int:
    """What a general register holds."""
    var place = number - 8
    if number < 8:
        place = materialize[LEGACY]()[number]
    return registers[unsafe_offset=place]


def on_signal(signal: Int32, info: Int, context: Int) abi("C"):
    """The handler of SIGILL: does the instruction, and goes on behind it."""
    var registers = Pointer[Int, MutUntrackedOrigin](unsafe_from_address=context + REGISTERS)
    var code = at(registers[unsafe_offset=RIP])
    if code[] != 0xC4 or code[unsafe_offset=1] & 0x1F != 2:
        give_up("AMX emulator: an illegal instruction, and none of AMX\n")
    var extended = code[unsafe_offset=1]
    var prefix = Int(code[unsafe_offset=2] & 3)
    var opcode = code[unsafe_offset=3]
    var modrm = code[unsafe_offset=4]
    var t = Int(modrm >> 3 & 7)
    var size = 5
    var tiles = Tiles()
    if opcode == 0x5C or opcode == 0x5E:
        var a = Int(modrm & 7)
        var b = Int(~code[unsafe_offset=2] >> 3 & 7)
        if opcode == 0x5E:
            tiles.add_quads(t, a, b, prefix >= 2, prefix == 1 or prefix == 3)
        elif prefix == 2:
            tiles.add_pairs(t, a, b)
        else:
            give_up("AMX emulator: products of this type are not modelled\n")
    elif opcode == 0x49 and modrm >> 6 == 3:
        if prefix == 3:
            tiles.clear(t)
        else:  # tilerelease
            tiles.config()[] = 0
    elif opcode == 0x49 or opcode == 0x4B:
        var operand = Operand(code.unsafe_offset(4), registers, extended)
        size = 4 + operand.size
        if opcode == 0x49:
            if prefix != 0:
                give_up("AMX emulator: sttilecfg is not modelled\n")
            tiles.configure(at(operand.address))
        elif prefix == 2:
            tiles.store(t, operand.address, operand.stride)
        else:
            tiles.load(t, operand.address, operand.stride)
    else:
        give_up("AMX emulator: an illegal instruction, and none of AMX\n")
    registers[unsafe_offset=RIP] += size


def emulate_amx() -> Bool:
    """From now on this process does AMX's instructions itself; whether that can be."""
    # Private memory at a fixed place, refused where that is taken.
    var got = external_call["mmap", Int](STATE, Int(THREADS * THREAD_BYTES), Int32(3), Int32(0x10_0022), Int32(-1), 0)
    var handler = on_signal
    var action = Array[Int, 19](fill=0)  # a struct sigaction of glibc: handler, 128 bytes of mask, flags
    action[0] = Pointer(to=handler).unsafe_bitcast[Int]()[]
    action[17] = SA_SIGINFO
    return got == STATE and external_call["sigaction", Int32](SIGILL, action.unsafe_ptr(), Int(0)) == 0


@extensibility.register("tests.emulate_amx")
struct EmulateAmx:
    """See `emulate_amx`: `result[1]` is whether that can be."""

    @staticmethod
    def execute(result: OutputTensor[dtype=DType.int32, rank=1, ...]) raises:
        result.unsafe_ptr()[unsafe_offset=0] = Int32(Int(emulate_amx()))
