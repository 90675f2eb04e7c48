"""A handler of the signal that unknown instructions raise: does them, and lets the program go on."""

import extensibility
from extensibility import OutputTensor
from std.ffi import external_call

from .amx import do_amx, prepare_amx
from .decoder import Instruction, give_up
from .vnni import do_vnni

comptime SIGILL = Int32(4)
comptime SA_SIGINFO = 4


def on_signal(signal: Int32, info: Int, context: Int) abi("C"):
    """The handler of SIGILL."""
    var instruction = Instruction(context)
    if not instruction.is_known() or not (do_vnni(instruction) or do_amx(instruction)):
        give_up("an illegal instruction, and none that is emulated")
    instruction.skip()


def emulate() -> Bool:
    """From now on this process does the instructions itself; whether that can be."""
    var handler = on_signal
    var action = Array[Int, 19](fill=0)  # a struct sigaction of glibc: handler, 128 bytes of mask, flags
    action[0] = Pointer(to=handler).unsafe_bitcast[Int]()[]
    action[17] = SA_SIGINFO
    return prepare_amx() and external_call["sigaction", Int32](SIGILL, action.unsafe_ptr(), Int(0)) == 0


@extensibility.register("tests.emulate")
struct Emulate:
    """See `emulate`: `result[1]` is whether that can be."""

    @staticmethod
    def execute(result: OutputTensor[dtype=DType.int32, rank=1, ...]) raises:
        result.unsafe_ptr()[unsafe_offset=0] = Int32(Int(emulate()))
