"""PTX's warpgroup products (PTX ISA, 9.7.15): asynchronous, from shared memory through matrix descriptors.

Operands have 32 bytes of each row: 16 columns of bfloat16, or 32 of e4m3, two in each word of two bytes.

A product reads shared memory and its left registers as late as it may, when the warpgroup waits for it, and writes its
sums only then; until then they are poisoned.
"""

import re
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tests.ptx.copies import GROUP, CopyInstructions
from tests.ptx.float8 import from_e4m3
from tests.ptx.memory import Values, from_bfloat16
from tests.ptx.program import Instruction, Program, vector
from tests.ptx.tensor_cores import add_products, add_warpgroup_e4m3

ROWS, DEPTH = 64, 16
"""Of a product's left operand: rows, and words of two bytes in each."""
KINDS = {
    ("16", "f32", "bf16", "bf16"): (from_bfloat16, partial(add_products, "sm_90a", "bf16")),
    ("32", "f32", "e4m3", "e4m3"): (lambda words: from_e4m3(words.view(np.uint8)), add_warpgroup_e4m3),
}
"""By columns and types: what is in words, and how it is multiplied and added up."""
Kind = tuple[str, ...]
Sums = tuple[str, ...]
"""The registers of a product's sums."""


@dataclass(frozen=True)
class Operand:
    """A matrix in shared memory, as a descriptor gives it (PTX ISA, 9.7.15.5.1).

    Attributes:
        start: Its first byte.
        leading: Bytes from 64 columns to the next where the columns are rows of the product.
        stride: Bytes from 8 rows in memory to the next.
    """

    start: int
    leading: int
    stride: int

    @classmethod
    def decode(cls, bits: int) -> "Operand":
        """Reads a descriptor with the 128-byte swizzle."""
        if bits >> 62 != 1 or bits >> 49 & 7:
            raise NotImplementedError(f"descriptor {bits:#x} has not the 128-byte swizzle, or a base offset")
        return cls((bits & 0x3FFF) << 4, (bits >> 16 & 0x3FFF) << 4, (bits >> 32 & 0x3FFF) << 4)

    def addresses(self, size: int, transposed: bool) -> NDArray[np.int64]:
        """Where the elements [size, 16] are, 2 bytes each; ``transposed`` has the 16 as rows in memory."""
        n, k = np.arange(size)[:, None], np.arange(DEPTH)
        if transposed:
            place = n // 64 * self.leading + n % 64 * 2 + k // 8 * self.stride + k % 8 * 128
        else:
            place = n // 8 * self.stride + n % 8 * 128 + k * 2
        linear = self.start + place
        return np.asarray(linear ^ (linear >> 7 & 7) << 4)


@dataclass(frozen=True)
class Product:
    """One that was begun: its kind, its sums' registers, its operands, and whether it adds."""

    kind: Kind
    sums: Sums
    left: Operand | Sums
    right: Operand
    left_transposed: bool
    right_transposed: bool
    adds: bool


class WarpgroupInstructions(CopyInstructions):
    """What a machine does with warpgroups; :class:`~tests.ptx.machine.Machine` has its registers and memory."""

    registers: dict[str, Values]
    program: Program

    def start_products(self) -> None:
        """Begins with no product on its way."""
        self._begun: dict[int, list[list[Product]]] = {}
        self._pending: dict[tuple[int, Sums], NDArray[np.float32]] = {}
        products = [i for b in self.program.blocks for i in b.instructions if i.name[:2] == ("wgmma", "mma_async")]
        # Registers of products, and the warpgroups that wrote them since their last fence.
        self.fenced = {r: set[int]() for i in products for o in i.operands[:2] for r in vector(o) if "{" in o}

    def do_wgmma(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        for group in self.whole_groups(active):
            begun = self._begun.setdefault(group, [[]])
            match instruction.name[1]:
                case "fence":
                    for writers in self.fenced.values():
                        writers.discard(group)
                case "mma_async":
                    begun[-1].append(self._begin(instruction, group))
                case "commit_group":
                    begun.append([])
                case _:
                    while len(begun) - 1 > int(instruction.operands[0]):
                        for product in begun.pop(0):
                            self._finish(product, group)
                    flying = {product.sums for products in begun for product in products}
                    for key in [key for key in self._pending if key[0] == group and key[1] not in flying]:
                        self._set(key[1], group, self._pending.pop(key))

    def _begin(self, instruction: Instruction, group: int) -> Product:
        shape = re.fullmatch(r"m64n(\d+)k(\d+)", instruction.name[4])
        kind = (shape[2] if shape else "", *instruction.name[5:])
        if shape is None or kind not in KINDS:
            raise NotImplementedError(".".join(instruction.name))
        sums, first, second, adds, *rest = instruction.operands
        registers = tuple(vector(sums))
        if len(registers) != int(shape[1]) // 2 or rest[:2] != ["1", "1"]:
            raise NotImplementedError(f"{'.'.join(instruction.name)} with {len(registers)} sums and signs {rest[:2]}")
        left = tuple(vector(first)) if first.startswith("{") else self._operand(first, group)
        for register in (*registers, *(left if isinstance(left, tuple) else ())):
            if group in self.fenced[register]:
                raise RuntimeError(f"{register} was written after the last wgmma.fence")
        if (group, registers) not in self._pending:
            for register in registers:  # what no one wrote may be anything
                self.registers.setdefault(register, np.full(self.threads, 0xFFFFFFFF, np.uint32))
            self._pending[group, registers] = self._get(registers, group, "f32")
            self._set(registers, group, np.full((len(registers), GROUP), np.nan, np.float32))
        added = bool(self.read(adds, "pred")[group * GROUP])
        transposed = ["0", "0", *rest[2:]][-2:]
        right = self._operand(second, group)
        return Product(kind, registers, left, right, transposed[0] == "1", transposed[1] == "1", added)

    def _operand(self, register: str, group: int) -> Operand:
        bits = self.read(register, "b64")[group * GROUP : (group + 1) * GROUP]
        if (bits != bits[0]).any():
            raise RuntimeError(f"descriptor {register} is not the same in all threads of a warpgroup")
        return Operand.decode(int(bits[0]))

    def _finish(self, product: Product, group: int) -> None:
        sums = self._pending[group, product.sums]
        lane, warp = np.arange(GROUP) % 32, np.arange(GROUP) // 32
        row, column = warp * 16 + lane // 4, lane % 4 * 2
        if isinstance(product.left, Operand):
            left = self._matrix(product.left, ROWS, product.left_transposed)
        else:
            left = np.zeros((ROWS, DEPTH), np.uint16)
            for i, pairs in enumerate(self._get(product.left, group, "b32")):
                for half in range(2):
                    words = (pairs >> np.uint32(16 * half)).astype(np.uint16)
                    left[row + 8 * (i % 2), column + half + 8 * (i // 2)] = words
        right = self._matrix(product.right, 2 * len(sums), product.right_transposed)
        register = np.arange(len(sums))[:, None]
        places = row + 8 * (register % 4 // 2), register // 4 * 8 + column + register % 2
        added = np.zeros((ROWS, 2 * len(sums)), np.float32)
        if product.adds:
            added[places] = sums
        values, add = KINDS[product.kind]
        sums[:] = add(values(left), values(right).T, added)[places]

    def _matrix(self, operand: Operand, size: int, transposed: bool) -> NDArray[np.uint16]:
        _, places = self.window("shared", operand.addresses(size, transposed).reshape(-1), 2)
        data = self.seen_by_async(places[:, None] + np.arange(2))
        return data.view(np.uint16)[:, 0].reshape(size, DEPTH)

    def _get(self, registers: Sums, group: int, kind: str) -> Values:
        return np.stack([self.read(register, kind)[group * GROUP : (group + 1) * GROUP] for register in registers])

    def _set(self, registers: Sums, group: int, values: NDArray[np.float32]) -> None:
        active = np.arange(self.threads) // GROUP == group
        for register, value in zip(registers, values, strict=True):
            whole = np.zeros(self.threads, np.float32)
            whole[active] = value
            self.write(register, whole, active)
            self.fenced[register].discard(group)
