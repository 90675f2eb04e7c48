"""Instructions with a VEX prefix of three bytes, as they lie in memory, and the registers of the thread that met one.

Written from the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter "Instruction Format".
"""

from std.ffi import external_call

comptime REGISTERS = 40
"""Where a ucontext_t of Linux on x86-64 has its registers: r8 to r15, then `LEGACY`, then rip."""
comptime LEGACY: List[Int] = [13, 14, 12, 11, 15, 10, 9, 8]
"""Which of them are rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi."""
comptime RIP = 16

comptime Bytes = Pointer[UInt8, MutUntrackedOrigin]


def at(address: Int) -> Bytes:
    """The bytes at an address."""
    return Bytes(unsafe_from_address=address)


def give_up(message: StaticString):
    """Ends the process."""
    comptime begin = StaticString("emulator: ")
    _ = external_call["write", Int](Int32(2), begin.unsafe_ptr(), begin.byte_length())
    _ = external_call["write", Int](Int32(2), message.unsafe_ptr(), message.byte_length())
    _ = external_call["write", Int](Int32(2), StaticString("\n").unsafe_ptr(), 1)
    external_call["abort", NoneType]()


@fieldwise_init
struct Memory(TrivialRegisterPassable):
    """An instruction's operand in memory."""

    var address: Int
    var stride: Int
    """What lies between rows, where there are any."""
    var size: Int
    """Bytes of the instruction that say so."""


@fieldwise_init
struct Instruction(TrivialRegisterPassable):
    """An instruction that a thread met."""

    var context: Int
    """Address of the thread's ucontext_t."""

    def registers(self) -> Pointer[Int, MutUntrackedOrigin]:
        """The general registers, in the context's order."""
        return Pointer[Int, MutUntrackedOrigin](unsafe_from_address=self.context + REGISTERS)

    def code(self, byte: Int) -> UInt8:
        """A byte of the instruction."""
        return at(self.registers()[unsafe_offset=RIP])[unsafe_offset=byte]

    def is_known(self) -> Bool:
        """Whether it has the prefix, and an opcode of the map that all of AMX and AVX-VNNI is in."""
        return self.code(0) == 0xC4 and self.code(1) & 0x1F == 2

    def prefix(self) -> Int:
        """What tells instructions of an opcode apart: none (0), 66 (1), F3 (2) or F2 (3)."""
        return Int(self.code(2) & 3)

    def is_wide(self) -> Bool:
        """Whether vectors have 256 bits."""
        return self.code(2) & 4 != 0

    def opcode(self) -> UInt8:
        return self.code(3)

    def on_registers(self) -> Bool:
        """Whether the third operand is a register."""
        return self.code(4) >> 6 == 3

    def target(self) -> Int:
        """Number of the first operand, a vector or tile."""
        return Int(self.code(4) >> 3 & 7) + (0 if self.code(1) & 0x80 else 8)

    def second(self) -> Int:
        """Number of the operand in the prefix."""
        return Int(~self.code(2) >> 3 & 15)

    def third(self) -> Int:
        """Number of the last operand."""
        return Int(self.code(4) & 7) + (0 if self.code(1) & 0x20 else 8)

    def general(self, number: Int) -> Int:
        """What a general register holds."""
        var place = number - 8
        if number < 8:
            place = materialize[LEGACY]()[number]
        return self.registers()[unsafe_offset=place]

    def memory(self) -> Memory:
        """The third operand, where it is memory."""
        var code = at(self.registers()[unsafe_offset=RIP] + 4)
        var mode = Int(code[] >> 6)
        var base = Int(code[] & 7)
        var has_index = base == 4
        var size = 2 if has_index else 1
        var stride = 0
        if has_index:
            var sib = code[unsafe_offset=1]
            base = Int(sib & 7)
            var index = Int(sib >> 3 & 7) + (0 if self.code(1) & 0x40 else 8)
            if index != 4:
                stride = self.general(index) << Int(sib >> 6)
        if mode == 0 and base == 5:
            give_up("addresses without a base are not modelled")
        var address = self.general(base + (0 if self.code(1) & 0x20 else 8))
        var displacement = code.unsafe_offset(size)
        if mode == 1:
            address += Int(displacement.unsafe_bitcast[Int8]()[])
            size += 1
        elif mode == 2:
            address += Int(displacement.unsafe_bitcast[Int32]()[])
            size += 4
        return Memory(address, stride, size)

    def skip(self):
        """Lets the thread go on behind it."""
        var size = 5 if self.on_registers() else 4 + self.memory().size
        self.registers()[unsafe_offset=RIP] += size
