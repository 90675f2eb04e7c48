"""PTX instructions that move, compare, choose and convert values, and mul and mad."""

import numpy as np
from numpy.typing import NDArray

from tests.ptx.arithmetic import COMPARE, TYPES, UNORDERED, product
from tests.ptx.float8 import e4m3
from tests.ptx.memory import Values, bfloat16, from_bfloat16
from tests.ptx.program import Instruction, vector


class ValueInstructions:
    """What a machine does thread by thread; :class:`~tests.ptx.machine.Machine` has its registers."""

    threads: int
    registers: dict[str, Values]

    def do_mov(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, (target, source) = instruction.name[-1], instruction.operands
        size = TYPES[kind].itemsize
        if target.startswith("{"):
            parts = vector(target)
            whole = self.read(source, kind)
            step = 8 * size // len(parts)
            for i, part in enumerate(parts):
                piece = (whole >> whole.dtype.type(i * step)).astype(f"u{step // 8}")
                self.write(part, piece, active)
        elif source.startswith("{"):
            parts = vector(source)
            step = 8 * size // len(parts)
            whole = np.zeros(self.threads, f"u{size}")
            for i, part in enumerate(parts):
                whole |= self.read(part, f"b{step}").astype(whole.dtype) << whole.dtype.type(i * step)
            self.write(target, whole, active)
        else:
            self.write(target, self.read(source, kind), active)

    def do_cvta(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        self.do_mov(instruction, active)  # global addresses are generic ones here

    def do_setp(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        comparison, kind = instruction.name[1], instruction.name[-1]
        a, b = (self.read(operand, kind) for operand in instruction.operands[1:3])
        if comparison in ("num", "nan"):
            unordered = np.isnan(a) | np.isnan(b)
            result = ~unordered if comparison == "num" else unordered
        elif comparison in UNORDERED:
            result = ~UNORDERED[comparison](a, b)
        else:
            result = COMPARE[comparison](a, b)
            if comparison == "ne" and kind[0] == "f":
                result &= ~(np.isnan(a) | np.isnan(b))
        self.write(instruction.operands[0], result, active)

    def do_selp(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        target, a, b, predicate = instruction.operands
        kind = instruction.name[-1]
        self.write(target, np.where(self.registers[predicate], self.read(a, kind), self.read(b, kind)), active)

    def do_cvt(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        *_, to, given = instruction.name
        target, *sources = instruction.operands
        if to == "bf16x2":
            high, low = (bfloat16(self.read(source, given)).astype(np.uint32) for source in sources)
            self.write(target, high << np.uint32(16) | low, active)
            return
        if to == "e4m3x2":
            high, low = (e4m3(self.read(source, given)).astype(np.uint16) for source in sources)
            self.write(target, high << np.uint16(8) | low, active)
            return
        if to == "bf16":
            self.write(target, bfloat16(self.read(sources[0], given)), active)
            return
        source = self.read(sources[0], "b16" if given == "bf16" else given)
        value = from_bfloat16(source) if given == "bf16" else source
        if TYPES[to].kind in "iu" and value.dtype.kind == "f":
            rounding = next((name for name in instruction.name if name in ("rzi", "rni", "rmi", "rpi")), "rzi")
            value = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[rounding](value)
        elif "rni" in instruction.name:
            value = np.rint(value)
        self.write(target, value.astype(TYPES[to]), active)

    def do_mul(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind = instruction.name[-1]
        a, b = (self.read(operand, kind) for operand in instruction.operands[1:])
        self.write(instruction.operands[0], product(instruction.name, a, b), active)

    def do_mad(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind = instruction.name[-1]
        a, b = (self.read(operand, kind) for operand in instruction.operands[1:3])
        result = product(instruction.name, a, b)
        c = self.read(instruction.operands[3], f"{kind[0]}{8 * result.dtype.itemsize}")
        self.write(instruction.operands[0], result + c, active)
