"""Interprets PTX, all threads of a block at a time, so that GPU kernels can be tested where there is no GPU.

What is modelled: registers, branches (threads that part meet again where their ways do),
global and shared memory with every access checked, barriers, shuffles, asynchronous copies that land as late as they may,
ldmatrix and mma.sync as the PTX ISA gives their fragments. What is not: time, caches, rounding inside tensor cores (sums
are exact here and then rounded), the last bits of approximate functions, memory that two blocks share while they run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.ptx.program import Instruction, Program

Values = NDArray[np.generic]
LANES = 32
GAP = 256
"""Bytes between arrays, which nothing may touch."""
TYPES = {
    "f32": np.float32, "f64": np.float64, "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "pred": np.bool_,
}  # fmt: skip
COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
COMPARE |= {"neu": np.not_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
UNORDERED = {"ltu": np.greater_equal, "leu": np.greater, "gtu": np.less_equal, "geu": np.less, "equ": np.not_equal}


def bfloat16(values: Values) -> Values:
    """float32 rounded to the nearest bfloat16, as its bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def from_bfloat16(bits: Values) -> Values:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class GlobalMemory:
    """Arrays at addresses; whatever lies outside them must not be touched.

    Args:
        arrays: Contiguous ones; copied in, and back by :meth:`give_back`.
    """

    BASE = 1 << 32

    def __init__(self, arrays: Sequence[Values]) -> None:
        self._arrays = arrays
        starts = np.cumsum([GAP, *(-(-a.nbytes // GAP) * GAP + GAP for a in arrays)])
        self.addresses = [self.BASE + int(start) for start in starts[:-1]]
        self._bytes = np.zeros(starts[-1], np.uint8)
        self._valid = np.zeros(starts[-1], bool)
        for start, array in zip(starts, arrays, strict=False):
            if not array.flags.c_contiguous:
                raise ValueError("an array must be contiguous")
            self._bytes[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            self._valid[start : start + array.nbytes] = True

    def find(self, addresses: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All memory, and where in it these accesses of ``size`` bytes are.

        Raises:
            MemoryError: One is not aligned, or not inside an array.
        """
        offsets = addresses - self.BASE
        if (offsets % size).any():
            raise MemoryError(f"an access of {size} bytes is not aligned")
        ends = np.clip(offsets + size - 1, 0, len(self._valid) - 1)
        if (offsets < 0).any() or (offsets + size > len(self._valid)).any() or not self._valid[[offsets, ends]].all():
            raise MemoryError(f"an access of {size} bytes is outside of all arrays")
        return self._bytes, offsets

    def give_back(self) -> None:
        """Copies the memory back to the arrays."""
        for address, array in zip(self.addresses, self._arrays, strict=True):
            start = address - self.BASE
            array.reshape(-1).view(np.uint8)[:] = self._bytes[start : start + array.nbytes]


@dataclass
class Copies:
    """Asynchronous copies into shared memory that have not landed."""

    open: list[tuple[NDArray[np.int64], NDArray[np.uint8]]]
    groups: list[list[tuple[NDArray[np.int64], NDArray[np.uint8]]]]


class Machine:
    """One block of threads.

    Args:
        program: The kernel.
        memory: Where its pointers point.
        arguments: Values of its parameters.
        block: Number of the block, (x, y, z).
        threads: Threads of a block.
        grid: Blocks, (x, y, z).
        dynamic_shared: Bytes of dynamic shared memory.
    """

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        arguments: Sequence[int | float],
        block: tuple[int, int, int],
        threads: int,
        grid: tuple[int, int, int],
        dynamic_shared: int,
    ) -> None:
        self.program, self.memory, self.threads = program, memory, threads
        self.shared = np.full(
            program.shared_bytes + dynamic_shared, 0xFF, np.uint8
        )  # NaN, if read before it is written
        self.parameters = dict(zip((name for _, name in program.parameters), arguments, strict=True))
        tid = np.arange(threads, dtype=np.uint32)
        zero = np.zeros(threads, np.uint32)
        self.registers: dict[str, Values] = {
            "%tid.x": tid, "%tid.y": zero, "%tid.z": zero, "%laneid": tid % LANES, "%WARP_SZ": zero + LANES,
            "%ntid.x": zero + threads, "%ntid.y": zero + 1, "%ntid.z": zero + 1,
        }  # fmt: skip
        for axis, place, count in zip("xyz", block, grid, strict=True):
            self.registers[f"%ctaid.{axis}"] = zero + place
            self.registers[f"%nctaid.{axis}"] = zero + count
        self.copies = Copies([], [])

    def run(self) -> None:
        """Runs the block to its end."""
        place = np.zeros(self.threads, np.int64)
        done = np.zeros(self.threads, bool)
        waiting = np.zeros(self.threads, bool)
        order = np.array([*self.program.order, len(self.program.order)])
        while not done.all():
            if (waiting | done).all():
                waiting[:] = False
            ready = ~(waiting | done)
            index = place[ready][order[place[ready]].argmin()]
            active = ready & (place == index)
            place[active] = index + 1
            for instruction in self.program.blocks[index].instructions:
                taken = active
                if instruction.guard is not None:
                    predicate = self.registers[instruction.guard]
                    taken = active & (~predicate if instruction.negated else predicate)
                match instruction.name[0]:
                    case "bra":
                        place[taken] = self.program.labels[instruction.operands[0]]
                    case "ret" | "exit":
                        done |= taken
                    case "bar" | "barrier":
                        waiting |= taken
                    case _:
                        self.step(instruction, taken)

    def step(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        """Runs one instruction on the active threads."""
        if not active.any():
            return
        action = getattr(self, f"do_{instruction.name[0]}", None)
        if action is not None:
            action(instruction, active)
            return
        name = instruction.name
        kind = name[-1]
        operation = ARITHMETIC.get(name[0])
        if operation is None:
            raise NotImplementedError(".".join(name))
        kinds = [kind, "u32"] if name[0] in ("shl", "shr") else [kind] * 3
        values = [self.read(operand, of) for operand, of in zip(instruction.operands[1:], kinds, strict=False)]
        with np.errstate(all="ignore"):
            self.write(instruction.operands[0], operation(*values).astype(TYPES[kind]), active)

    def read(self, operand: str, kind: str) -> Values:
        """An operand's value in every thread."""
        wanted = np.dtype(TYPES[kind])
        if operand.startswith("%"):
            value = self.registers[operand]
            if value.dtype == wanted:
                return value
            if value.dtype.itemsize > wanted.itemsize:
                return value.astype(f"u{wanted.itemsize}").view(wanted)
            return value.view(wanted)
        if operand[:2] in ("0f", "0d"):
            bits = np.array(int(operand[2:], 16), np.uint32 if operand[1] == "f" else np.uint64)
            return np.broadcast_to(bits.view(wanted), self.threads)
        if operand in self.program.shared:
            return np.full(self.threads, self.program.shared[operand], wanted)
        number = {"true": 1, "false": 0}.get(operand)
        number = int(operand.rstrip("U"), 0) if number is None else number
        bits = np.array(number & (1 << 8 * wanted.itemsize) - 1, f"u{wanted.itemsize}")
        return np.full(self.threads, bits.astype(bool) if kind == "pred" else bits.view(wanted), wanted)

    def write(self, operand: str, values: Values, active: NDArray[np.bool_]) -> None:
        """Writes a register of the active threads; a wider one is extended by the sign of the value's type."""
        if operand == "_":
            return
        wide = {"%rd": "i8", "%rs": "i2", "%r": "i4", "%p": "?"}[operand.rstrip("0123456789")]
        if wide != "?" and values.dtype.itemsize < np.dtype(wide).itemsize and values.dtype.kind in "iu":
            values = values.astype(wide)
        bits = values if wide == "?" else values.view(f"u{wide[1:]}")
        if active.all():
            self.registers[operand] = bits
            return
        old = self.registers.get(operand)
        self.registers[operand] = np.where(active, bits, np.zeros_like(bits) if old is None else old)

    def address(self, operand: str) -> tuple[str | None, NDArray[np.int64]]:
        """What is in brackets: the name of a parameter, or addresses."""
        base, _, offset = operand.strip("[]").replace(" ", "").partition("+")
        if base in self.parameters:
            return base, np.full(self.threads, int(offset or 0))
        wide = base.startswith("%rd")
        address = self.read(base, "b64" if wide else "b32").astype(np.int64) + int(offset or 0)
        return None, address if wide else address & 0xFFFF_FFFF

    def window(
        self, space: str, addresses: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Memory and the offsets in it of each address."""
        if space == "global":
            return self.memory.find(addresses, size)
        if (addresses < 0).any() or (addresses + size > len(self.shared)).any() or (addresses % size).any():
            raise MemoryError(f"an access of {size} bytes to shared memory at {addresses.max()} of {len(self.shared)}")
        return self.shared, addresses

    def do_ld(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, targets = instruction.name[-1], _vector(instruction.operands[0])
        name, addresses = self.address(instruction.operands[1])
        if name is not None:
            value = np.array(self.parameters[name])
            wanted = np.dtype(TYPES[kind])
            stored = value.astype(np.float32).view(np.uint32) if value.dtype.kind == "f" else value.astype(np.int64)
            self.write(targets[0], np.full(self.threads, stored.astype(f"i{wanted.itemsize}").view(wanted)), active)
            return
        element = np.dtype(TYPES[kind])
        memory, offsets = self.window(_space(instruction), addresses[active], element.itemsize * len(targets))
        for i, target in enumerate(targets):
            values = np.zeros(self.threads, element)
            at = offsets[:, None] + i * element.itemsize + np.arange(element.itemsize)
            values[active] = memory[at].view(element)[:, 0]
            self.write(target, values, active)

    def do_st(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, sources = instruction.name[-1], _vector(instruction.operands[1])
        element = np.dtype(TYPES[kind])
        _, addresses = self.address(instruction.operands[0])
        memory, offsets = self.window(_space(instruction), addresses[active], element.itemsize * len(sources))
        for i, source in enumerate(sources):
            values = np.ascontiguousarray(self.read(source, kind)[active])
            memory[offsets[:, None] + i * element.itemsize + np.arange(element.itemsize)] = values.view(
                np.uint8
            ).reshape(-1, element.itemsize)

    def do_atom(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, operation = instruction.name[-1], instruction.name[-2]
        if operation not in ("add", "max", "min"):
            raise NotImplementedError(".".join(instruction.name))
        returns = instruction.name[0] == "atom"
        where, value = instruction.operands[-2:]
        element = np.dtype(TYPES[kind])
        _, addresses = self.address(where)
        memory, offsets = self.window(_space(instruction), addresses[active], element.itemsize)
        values = self.read(value, kind)
        view = memory.view(element)
        ufunc = {"add": np.add, "max": np.maximum, "min": np.minimum}[operation]
        old = np.zeros(self.threads, element)
        for thread, offset in zip(np.flatnonzero(active), offsets, strict=True):
            old[thread] = view[offset // element.itemsize]
            view[offset // element.itemsize] = ufunc(old[thread], values[thread])
        if returns:
            self.write(instruction.operands[0], old, active)

    do_red = do_atom

    def do_cp(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        """cp.async and its groups; until a copy has landed its target is poisoned."""
        match instruction.name[2]:
            case "commit_group":
                self.copies.groups.append(self.copies.open)
                self.copies.open = []
            case "wait_group" | "wait_all":
                keep = int(instruction.operands[0]) if instruction.operands else 0
                while len(self.copies.groups) > keep:
                    for at, data in self.copies.groups.pop(0):
                        self.shared[at] = data
            case _:
                size = int(instruction.operands[2])
                _, targets = self.address(instruction.operands[0])
                _, sources = self.address(instruction.operands[1])
                _, targets = self.window("shared", targets[active], size)
                given = self.read(instruction.operands[3], "b32")[active] if len(instruction.operands) > 3 else None
                data = np.zeros((len(targets), size), np.uint8)
                real = np.ones(len(targets), bool) if given is None else given > 0
                if real.any():
                    memory, offsets = self.memory.find(sources[active][real], size)
                    data[real] = memory[offsets[:, None] + np.arange(size)]
                at = targets[:, None] + np.arange(size)
                self.shared[at] = 0xFF
                self.copies.open.append((at, data))

    def do_mov(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, (target, source) = instruction.name[-1], instruction.operands
        size = np.dtype(TYPES[kind]).itemsize
        if target.startswith("{"):
            parts = _vector(target)
            whole = self.read(source, kind)
            step = 8 * size // len(parts)
            for i, part in enumerate(parts):
                piece = (whole >> whole.dtype.type(i * step)).astype(f"u{step // 8}")
                self.write(part, piece, active)
        elif source.startswith("{"):
            parts = _vector(source)
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
        with np.errstate(all="ignore"):
            if to == "bf16x2":
                high, low = (bfloat16(self.read(source, given)).astype(np.uint32) for source in sources)
                self.write(target, high << np.uint32(16) | low, active)
                return
            if to == "bf16":
                self.write(target, bfloat16(self.read(sources[0], given)), active)
                return
            if given == "bf16":
                value = from_bfloat16(self.read(sources[0], "b16"))
            else:
                value = self.read(sources[0], given)
            if np.dtype(TYPES[to]).kind in "iu" and value.dtype.kind == "f":
                rounding = next((name for name in instruction.name if name in ("rzi", "rni", "rmi", "rpi")), "rzi")
                value = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[rounding](value)
            elif "rni" in instruction.name:
                value = np.rint(value)
            self.write(target, value.astype(TYPES[to]), active)

    def do_mul(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind = instruction.name[-1]
        a, b = (self.read(operand, kind) for operand in instruction.operands[1:])
        with np.errstate(all="ignore"):
            self.write(instruction.operands[0], _product(instruction.name, a, b), active)

    def do_mad(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind = instruction.name[-1]
        a, b = (self.read(operand, kind) for operand in instruction.operands[1:3])
        with np.errstate(all="ignore"):
            product = _product(instruction.name, a, b)
            c = self.read(instruction.operands[3], f"{kind[0]}{8 * product.dtype.itemsize}")
            self.write(instruction.operands[0], product + c, active)

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
        targets = _vector(instruction.operands[0])
        _, addresses = self.address(instruction.operands[1])
        rows, lane = addresses.reshape(-1, LANES), np.arange(LANES)
        live = active.reshape(-1, LANES)[:, 0]
        for i, target in enumerate(targets):
            result = np.zeros((len(rows), LANES), np.uint32)
            _, starts = self.window("shared", rows[live, 8 * i : 8 * i + 8], 16)
            matrix = self.shared[starts[:, :, None] + np.arange(16)].view(np.uint16)
            if "trans" in instruction.name:
                matrix = matrix.transpose(0, 2, 1)
            pairs = matrix[:, lane // 4][:, lane, :] if False else matrix[:, lane // 4, :]
            low = pairs[:, lane, lane % 4 * 2].astype(np.uint32)
            high = pairs[:, lane, lane % 4 * 2 + 1].astype(np.uint32)
            result[live] = high << np.uint32(16) | low
            self.write(target, result.reshape(-1), active)

    def do_mma(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        if instruction.name[3:] != ("m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"):
            raise NotImplementedError(".".join(instruction.name))
        self._whole_warps(active)
        d, a, b, c = (_vector(operand) for operand in instruction.operands)
        lane = np.arange(LANES)
        g, t = lane // 4, lane % 4
        warps = self.threads // LANES
        left, right = np.zeros((warps, 16, 16)), np.zeros((warps, 16, 8))
        sums = np.zeros((warps, 16, 8))
        for i, register in enumerate(a):
            pairs = self.read(register, "b32").reshape(warps, LANES)
            for half in range(2):
                value = from_bfloat16((pairs >> np.uint32(16 * half)).astype(np.uint16))
                left[:, g + 8 * (i % 2), 2 * t + half + 8 * (i // 2)] = value
        for i, register in enumerate(b):
            pairs = self.read(register, "b32").reshape(warps, LANES)
            for half in range(2):
                right[:, 2 * t + half + 8 * i, g] = from_bfloat16((pairs >> np.uint32(16 * half)).astype(np.uint16))
        for i, register in enumerate(c):
            sums[:, g + 8 * (i // 2), 2 * t + i % 2] = self.read(register, "f32").reshape(warps, LANES)
        with np.errstate(all="ignore"):
            result = (left @ right + sums).astype(np.float32)
        for i, register in enumerate(d):
            self.write(register, result[:, g + 8 * (i // 2), 2 * t + i % 2].reshape(-1), active)

    def _whole_warps(self, active: NDArray[np.bool_]) -> None:
        of_warp = active.reshape(-1, LANES)
        if (of_warp.any(1) != of_warp.all(1)).any():
            raise RuntimeError("lanes of one warp do not run this instruction together")


def _vector(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{}").split(",")]


def _space(instruction: Instruction) -> str:
    return "shared" if "shared" in instruction.name else "global"


def _product(name: tuple[str, ...], a: Values, b: Values) -> Values:
    if "wide" in name:
        wide = f"{a.dtype.kind}{2 * a.dtype.itemsize}"
        return a.astype(wide) * b.astype(wide)
    if "hi" in name:
        bits = 8 * a.dtype.itemsize
        return np.array([(int(x) * int(y)) >> bits for x, y in zip(a, b, strict=True)], object).astype(a.dtype)
    return a * b


def _divide(a: Values, b: Values) -> Values:
    if a.dtype.kind == "f":
        return a / b
    b = np.where(b == 0, a.dtype.type(1), b)
    return (np.sign(a) * np.sign(b) * (abs(a) // abs(b))).astype(a.dtype) if a.dtype.kind == "i" else a // b


def _remainder(a: Values, b: Values) -> Values:
    return a - _divide(a, b) * np.where(b == 0, a.dtype.type(1), b)


def _shift_left(a: Values, by: Values) -> Values:
    most = 8 * a.dtype.itemsize - 1
    return np.where(by > most, a.dtype.type(0), a << np.minimum(by, most).astype(a.dtype))


def _shift_right(a: Values, by: Values) -> Values:
    most = 8 * a.dtype.itemsize - 1
    far = a >> a.dtype.type(most) if a.dtype.kind == "i" else np.zeros_like(a)
    return np.where(by > most, far, a >> np.minimum(by, most).astype(a.dtype))


def _round_fma(a: Values, b: Values, c: Values) -> Values:
    if a.dtype == np.float64:
        return a * b + c
    return a.astype(np.float64) * b + c


ARITHMETIC: dict[str, Callable[..., Values]] = {
    "add": np.add, "sub": np.subtract, "div": _divide, "rem": _remainder, "min": np.fmin, "max": np.fmax,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "neg": np.negative,
    "abs": np.abs, "fma": _round_fma, "shl": _shift_left, "shr": _shift_right, "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "rcp": lambda a: 1 / a,
    "popc": np.bitwise_count, "clz": lambda a: 32 - np.ceil(np.log2(a.astype(np.float64) + 1)).astype(a.dtype),
}  # fmt: skip


def launch(
    program: Program,
    grid: tuple[int, int, int],
    threads: int,
    arguments: Sequence[int | float | Values],
    dynamic_shared: int = 0,
) -> None:
    """Runs a kernel over a grid; arrays among the arguments are memory that it reads and writes."""
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    memory = GlobalMemory(arrays)
    places = iter(memory.addresses)
    values = [next(places) if isinstance(a, np.ndarray) else a for a in arguments]
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                Machine(program, memory, values, (x, y, z), threads, grid, dynamic_shared).run()
    memory.give_back()
