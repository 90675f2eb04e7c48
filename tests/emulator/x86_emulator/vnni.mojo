"""What vpdpbusd of AVX-VNNI does.

Written from the Intel 64 and IA-32 Architectures Software Developer's Manual: volume 2, "VPDPBUSD", and of where a
thread's vectors are during a signal volume 1, chapter "Managing State Using the XSAVE Feature Set".
"""

from std.memory import bitcast

from .decoder import Bytes, Instruction, at, give_up

comptime STATE = 224
"""Where a ucontext_t of Linux on x86-64 has the address of what XSAVE wrote."""
comptime LOWER = 160
comptime UPPER = 576
"""Where halves of vectors begin there."""
comptime IN_USE = 512
"""Where the bits are that say what of it counts."""
comptime HALVES = UInt64(6)
"""Those of both halves."""
comptime QUAD = 4


def do_vnni(instruction: Instruction) -> Bool:
    """Does vpdpbusd; false if it is something else."""
    if instruction.opcode() != 0x50 or instruction.prefix() != 1:
        return False
    if not instruction.is_wide() or not instruction.on_registers():
        give_up("of vpdpbusd only what has 256 bits, all in registers, is modelled")
    var state = at(at(instruction.context + STATE).unsafe_bitcast[Int]()[])
    var w = load(state, instruction.second())
    var x = bitcast[DType.int8, 32](load(state, instruction.third()))
    var sums = load(state, instruction.target())
    var into = Pointer(to=sums).unsafe_bitcast[Int32]()
    for i in range(len(w)):
        into[unsafe_offset=i // QUAD] += w[i].cast[DType.int32]() * x[i].cast[DType.int32]()
    store(state, instruction.target(), sums)
    return True


def load(state: Bytes, number: Int) -> SIMD[DType.uint8, 32]:
    """A vector register."""
    var lower = state.unsafe_load[width=16](LOWER + 16 * number)
    return lower.join(state.unsafe_load[width=16](UPPER + 16 * number))


def store(state: Bytes, number: Int, value: SIMD[DType.uint8, 32]):
    """Changes a vector register."""
    state.unsafe_store(LOWER + 16 * number, value.slice[16]())
    state.unsafe_store(UPPER + 16 * number, value.slice[16, offset=16]())
    state.unsafe_offset(IN_USE).unsafe_bitcast[UInt64]()[] |= HALVES
