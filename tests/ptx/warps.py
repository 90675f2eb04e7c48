"""PTX instructions that the lanes of a warp run together: shuffles, votes, and the tensor cores' fragments."""

import numpy as np
from numpy.typing import NDArray

from tests.ptx.arithmetic import ARITHMETIC, TYPES
from tests.ptx.float8 import fma_pairs, from_e4m3
from tests.ptx.memory import Values, from_bfloat16
from tests.ptx.program import Instruction, Program, vector
from tests.ptx.tensor_cores import add_products

LANES = 32
PRODUCTS = {
    ("m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"): (lambda words: from_bfloat16(words.view(np.uint16)), 2),
    ("m16n8k32", "row", "col", "f32", "e4m3", "e4m3", "f32"): (lambda words: from_e4m3(words.view(np.uint8)), 4),
}
"""What is in a register of an operand of mma.sync, and how many numbers that is."""


class WarpInstructions:
    """What a machine does with a warp's lanes; :class:`~tests.ptx.machine.Machine` has its registers and memory."""

    threads: int
    registers: dict[str, Values]
    program: Program
    shared: NDArray[np.uint8]

    def do_shfl(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        self._whole_warps(active)
        source, offset = (self.read(operand, "b32") for operand in instruction.operands[1:3])
        lanes = np.arange(self.threads)
        by = offset.astype(np.int64)
        lane = lanes % LANES
        match instruction.name[2]:
            case "bfly":
                wanted = lane ^ by
            case "down":
                wanted = np.where(lane + by < LANES, lane + by, lane)
            case "up":
                wanted = np.where(lane - by >= 0, lane - by, lane)
            case _:
                wanted = by % LANES
        self.write(instruction.operands[0].split("|")[0], source[lanes - lane + wanted], active)

    def do_vote(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        self._whole_warps(active)
        votes = self.registers[instruction.operands[1]].reshape(-1, LANES)
        match instruction.name[2]:
            case "any":
                result = votes.any(1)
            case "all":
                result = votes.all(1)
            case _:
                result = (votes * (1 << np.arange(LANES, dtype=np.uint64))).sum(1).astype(np.uint32)
        self.write(instruction.operands[0], np.repeat(result, LANES), active)

    def do_ldmatrix(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        self._whole_warps(active)
        targets = vector(instruction.operands[0])
        _, addresses = self.address(instruction.operands[1])
        rows, lane = addresses.reshape(-1, LANES), np.arange(LANES)
        live = active.reshape(-1, LANES)[:, 0]
        for i, target in enumerate(targets):
            result = np.zeros((len(rows), LANES), np.uint32)
            _, starts = self.window("shared", rows[live, 8 * i : 8 * i + 8], 16)
            matrix = self.shared[starts[:, :, None] + np.arange(16)].view(np.uint16)
            if "trans" in instruction.name:
                matrix = matrix.transpose(0, 2, 1)
            pairs = matrix[:, lane // 4].reshape(-1, LANES, 4, 2)[:, lane, lane % 4].astype(np.uint32)
            low, high = pairs[:, :, 0], pairs[:, :, 1]
            result[live] = high << np.uint32(16) | low
            self.write(target, result.reshape(-1), active)

    def do_mma(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        shape = instruction.name[3:]
        if shape not in PRODUCTS:
            raise NotImplementedError(".".join(instruction.name))
        self._whole_warps(active)
        numbers, together = PRODUCTS[shape]
        d, a, b, c = (vector(operand) for operand in instruction.operands)
        warps, depth = self.threads // LANES, 8 * together

        def words(registers: list[str], kind: str = "b32") -> Values:
            return np.stack([self.read(register, kind) for register in registers], 1)

        # A lane is (g, t) of 8 x 4. A register's number is, of A, the half of the columns and that of the rows, of B
        # the half of the rows, and of C the half of the rows and one of two columns.
        left = numbers(words(a)).reshape(warps, 8, 4, 2, 2, together).transpose(0, 4, 1, 3, 2, 5)
        right = numbers(words(b)).reshape(warps, 8, 4, 2, together).transpose(0, 3, 2, 4, 1)
        sums = words(c, "f32").reshape(warps, 8, 4, 2, 2).transpose(0, 3, 1, 2, 4)
        left, right, sums = left.reshape(warps, 16, depth), right.reshape(warps, depth, 8), sums.reshape(warps, 16, 8)
        result = add_products(self.program.target, shape[4], left, right, sums)
        parts = result.reshape(warps, 2, 8, 4, 2).transpose(1, 4, 0, 2, 3).reshape(4, self.threads)
        for register, part in zip(d, parts, strict=True):
            self.write(register, part, active)

    def do_fma(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        target, *operands = instruction.operands
        kind = instruction.name[-1]
        a, b, c = (self.read(operand, "b32" if kind == "bf16x2" else kind) for operand in operands)
        result = fma_pairs(a, b, c) if kind == "bf16x2" else ARITHMETIC["fma"](a, b, c).astype(TYPES[kind])
        self.write(target, result, active)

    def _whole_warps(self, active: NDArray[np.bool_]) -> None:
        of_warp = active.reshape(-1, LANES)
        if (of_warp.any(1) != of_warp.all(1)).any():
            raise RuntimeError("lanes of one warp do not run this instruction together")
