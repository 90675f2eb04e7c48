"""Interprets PTX, all threads of a block at a time, so that GPU kernels can be tested where there is no GPU.

What is modelled: registers, branches (threads that part meet again where their ways do), global and shared memory with
every access checked, barriers and mbarriers, shuffles, asynchronous copies that land as late as they may, ldmatrix,
mma.sync and wgmma as the PTX ISA gives their fragments and descriptors, with the arithmetic of `tensor_cores.py`. What
is not: time, caches, the last bits of approximate functions, memory that two blocks share while they run.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.ptx.arithmetic import ARITHMETIC, TYPES
from tests.ptx.memory import GlobalMemory, Values
from tests.ptx.program import Instruction, Program, vector
from tests.ptx.values import ValueInstructions
from tests.ptx.warps import LANES, WarpInstructions
from tests.ptx.wgmma import GROUP, WarpgroupInstructions

WIDTHS = {"%rd": "i8", "%rs": "i2", "%r": "i4", "%p": "?"}
"""Of registers, by the beginning of their names."""


class Machine(ValueInstructions, WarpInstructions, WarpgroupInstructions):
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
        self.constants: dict[tuple[str, str], Values] = {}
        self.everyone = np.ones(threads, bool)
        tid = np.arange(threads, dtype=np.uint32)
        zero = np.zeros(threads, np.uint32)
        self.registers: dict[str, Values] = {
            "%tid.x": tid, "%tid.y": zero, "%tid.z": zero, "%laneid": tid % LANES, "%WARP_SZ": zero + LANES,
            "%ntid.x": zero + threads, "%ntid.y": zero + 1, "%ntid.z": zero + 1,
        }  # fmt: skip
        for axis, place, count in zip("xyz", block, grid, strict=True):
            self.registers[f"%ctaid.{axis}"] = zero + place
            self.registers[f"%nctaid.{axis}"] = zero + count
        self.start_barriers()
        self.start_copies()
        self.start_products()

    def run(self) -> None:
        """Runs the block to its end.

        Raises:
            RuntimeError: Threads wait for what will not come.
        """
        with np.errstate(all="ignore"):
            self._run()

    def _run(self) -> None:
        place = np.zeros(self.threads, np.int64)
        done = np.zeros(self.threads, bool)
        order = np.array([*self.program.order, len(self.program.order)])
        while not done.all():
            ready = ~(self.waiting | done)
            if not ready.any():
                # Only when nothing else can happen do copies land.
                if not (self.let_go(done) or self.land()):
                    raise RuntimeError("threads wait at barriers for what will not come")
                continue
            index = place[ready][order[place[ready]].argmin()]
            active = self._known(ready & (place == index))
            place[active] = index + 1
            for instruction in self.program.blocks[index].instructions:
                taken = active
                if instruction.guard is not None:
                    predicate = self.registers[instruction.guard]
                    taken = self._known(active & (~predicate if instruction.negated else predicate))
                match instruction.name[:2]:
                    case ("bra", *_):
                        place[taken] = self.program.labels[instruction.operands[0]]
                    case ("ret" | "exit", *_):
                        done |= taken
                    case ("bar" | "barrier", *_):
                        if taken.any():
                            self.meet(instruction, taken)
                    case ("mbarrier", "try_wait"):
                        active = self._known(self.try_wait(instruction, taken))
                        place[taken & ~active] = index
                        if not active.any():
                            break
                    case _:
                        if taken is active or taken.any():
                            self.step(instruction, taken)

    def _known(self, threads: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The same threads: ``everyone``, whom :meth:`write` knows at a glance, if that is who they are."""
        return self.everyone if threads.all() else threads

    def step(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        """Runs one instruction on the active threads, of which there are some."""
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
        self.write(instruction.operands[0], operation(*values).astype(TYPES[kind]), active)

    def read(self, operand: str, kind: str) -> Values:
        """An operand's value in every thread."""
        wanted = TYPES[kind]
        if operand[0] == "%":
            value = self.registers[operand]
            if value.dtype == wanted:
                return value
            if value.dtype.itemsize > wanted.itemsize:
                return value.astype(f"u{wanted.itemsize}").view(wanted)
            return value.view(wanted)
        constant = self.constants.get((operand, kind))
        if constant is None:
            constant = self.constants[operand, kind] = self.constant(operand, kind)
            constant.setflags(write=False)
        return constant

    def constant(self, operand: str, kind: str) -> Values:
        """The value of an operand that is no register."""
        wanted = TYPES[kind]
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
        if operand in self.fenced:
            self.fenced[operand].update(np.flatnonzero(active) // GROUP)
        wide = WIDTHS.get(operand[:3]) or WIDTHS[operand[:2]]
        if wide != "?" and values.dtype.itemsize < np.dtype(wide).itemsize and values.dtype.kind in "iu":
            values = values.astype(wide)
        bits = values if wide == "?" else values.view(f"u{wide[1:]}")
        if active is self.everyone:
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
        kind, targets = instruction.name[-1], vector(instruction.operands[0])
        name, addresses = self.address(instruction.operands[1])
        if name is not None:
            value = np.array(self.parameters[name])
            wanted = TYPES[kind]
            stored = value.astype(np.float32).view(np.uint32) if value.dtype.kind == "f" else value.astype(np.int64)
            self.write(targets[0], np.full(self.threads, stored.astype(f"i{wanted.itemsize}").view(wanted)), active)
            return
        element = TYPES[kind]
        memory, offsets = self.window(_space(instruction), addresses[active], element.itemsize * len(targets))
        numbers = memory[: len(memory) // element.itemsize * element.itemsize].view(element)
        for i, target in enumerate(targets):
            values = np.zeros(self.threads, element)
            values[active] = numbers[offsets // element.itemsize + i]
            self.write(target, values, active)

    def do_st(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, sources = instruction.name[-1], vector(instruction.operands[1])
        element = TYPES[kind]
        _, addresses = self.address(instruction.operands[0])
        memory, offsets = self.window(_space(instruction), addresses[active], element.itemsize * len(sources))
        for i, source in enumerate(sources):
            values = np.ascontiguousarray(self.read(source, kind)[active])
            at = offsets[:, None] + i * element.itemsize + np.arange(element.itemsize)
            memory[at] = values.view(np.uint8).reshape(-1, element.itemsize)
            if memory is self.shared:
                self.wrote(at, np.flatnonzero(active))

    def do_atom(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind, operation = instruction.name[-1], instruction.name[-2]
        if operation not in ("add", "max", "min"):
            raise NotImplementedError(".".join(instruction.name))
        returns = instruction.name[0] == "atom"
        where, value = instruction.operands[-2:]
        element = TYPES[kind]
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


def _space(instruction: Instruction) -> str:
    return "shared" if "shared" in instruction.name else "global"


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
