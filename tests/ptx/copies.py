"""PTX's asynchronous copies into shared memory, the proxy they go through, and the registers of warpgroups.

A copy lands as late as it may; from its beginning its target is poisoned. What `cp.async` writes, as ordinary stores
do, the asynchronous proxy sees after a fence by the thread that wrote it, once it has landed, or by one that has waited
at the mbarrier which the copy arrives at.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.ptx.barriers import BarrierInstructions, MBarrier
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import Instruction

REGISTERS = 65_536
"""Of a multiprocessor."""
GROUP = 128
SEEN, UNKNOWN = -1, -2
"""In place of a thread whose writes the asynchronous proxy does not see: there are none, or they have not landed."""


@dataclass
class Copy:
    """One that has not landed: of ``threads``, or a bulk copy, whose bytes ``barrier`` counts."""

    at: NDArray[np.int64]
    data: NDArray[np.uint8]
    threads: NDArray[np.int64] | None = None
    barrier: MBarrier | None = None


@dataclass
class Arrival:
    """One at an mbarrier, by so many threads, once their copies have landed (cp.async.mbarrier.arrive.noinc)."""

    copies: list[Copy]
    barrier: MBarrier
    count: int


class CopyInstructions(BarrierInstructions):
    """What a machine does about copies; :class:`~tests.ptx.machine.Machine` has its registers and memory."""

    shared: NDArray[np.uint8]
    memory: GlobalMemory

    def start_copies(self) -> None:
        """Begins with no copy on its way."""
        self._open: list[Copy] = []
        self._groups: list[list[Copy]] = []
        self._later: list[Copy | Arrival] = []
        # For each byte, the thread whose writes the asynchronous proxy does not see yet, and whether any fence by one
        # that has waited for them shows them.
        self._unseen = np.full(len(self.shared), SEEN, np.int32)
        self._told = np.zeros(len(self.shared), bool)
        self._coming = np.zeros(len(self.shared), bool)
        self._registers: dict[int, int] = {}

    def wrote(self, at: NDArray[np.int64], threads: NDArray[np.int64]) -> None:
        """Notes bytes of shared memory, [threads, n], that these threads wrote as ordinary stores do."""
        self._unseen[at] = threads[:, None]
        self._told[at] = False

    def acquired(self, barrier: MBarrier) -> None:
        """Notes that a thread has waited for a barrier, and so for what has landed before its arrivals."""
        for at in barrier.landed:
            self._told[at] = True
        barrier.landed.clear()

    def seen_by_async(self, at: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Shared memory as products and bulk copies see it.

        Raises:
            RuntimeError: It was written by ordinary stores, and no fence.proxy.async followed.
        """
        if (self._unseen[at] != SEEN).any():
            raise RuntimeError("the asynchronous proxy reads what was written without fence.proxy.async")
        return self.shared[at]

    def land(self) -> bool:
        """Lets the oldest bulk copy land, or copies that arrive at an mbarrier; whether there were any."""
        if not self._later:
            return False
        match self._later.pop(0):
            case Copy(barrier=MBarrier()) as copy:
                self._fill(copy)
                copy.barrier.bytes -= len(copy.at)
                copy.barrier.settle()
            case Arrival() as arrival:
                for copy in arrival.copies:
                    self._land(copy)
                    arrival.barrier.landed.append(copy.at)
                for _ in range(arrival.count):
                    arrival.barrier.arrive()
        return True

    def _land(self, copy: Copy) -> None:
        self._fill(copy)
        self.wrote(copy.at, copy.threads)

    def _fill(self, copy: Copy) -> None:
        self.shared[copy.at] = copy.data
        self._coming[copy.at] = False

    def _begin_at(self, at: NDArray[np.int64], unseen: int) -> None:
        """Poisons what a copy will fill.

        Raises:
            RuntimeError: Another copy to the same place has not landed.
        """
        if self._coming[at].any():
            raise RuntimeError("a copy begins where another one has not landed")
        self._coming[at] = True
        self.shared[at] = 0xFF
        self._unseen[at] = unseen

    def do_cp(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        """cp.async and its groups, and cp.async.bulk from global to shared memory."""
        match instruction.name[2]:
            case "commit_group":
                self._groups.append(self._open)
                self._open = []
            case "wait_group" | "wait_all":
                keep = int(instruction.operands[0]) if instruction.operands else 0
                while len(self._groups) > keep:
                    for copy in self._groups.pop(0):
                        self._land(copy)
            case "bulk":
                self._copy_bulk(instruction, active)
            case "mbarrier":
                self._arrive_when_copied(instruction, active)
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
                self._begin_at(at, UNKNOWN)
                self._open.append(Copy(at, data, np.flatnonzero(active)))

    def _arrive_when_copied(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        if instruction.name[3:] != ("arrive", "noinc", "shared", "cta", "b64"):
            raise NotImplementedError(".".join(instruction.name))
        _, addresses = self.address(instruction.operands[0])
        (address,) = np.unique(addresses[active])
        self._later.append(Arrival(self._open, self._mbarrier(int(address)), int(active.sum())))
        self._open = []

    def _copy_bulk(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        if instruction.name[3:] != ("shared", "cluster", "global", "mbarrier", "complete_tx", "bytes"):
            raise NotImplementedError(".".join(instruction.name))
        (_, targets), (_, sources) = (self.address(operand) for operand in instruction.operands[:2])
        sizes = self.read(instruction.operands[2], "b32")
        _, barriers = self.address(instruction.operands[3])
        for thread in np.flatnonzero(active):
            size = int(sizes[thread])
            if size == 0 or size % 16:
                raise RuntimeError(f"a bulk copy has {size} bytes, not a multiple of 16")
            barrier = self._mbarrier(int(barriers[thread]))
            if not barrier.published:
                raise RuntimeError("a bulk copy uses an mbarrier without fence.mbarrier_init")
            steps = np.arange(0, size, 16)
            memory, offsets = self.memory.find(sources[thread] + steps, 16)
            _, places = self.window("shared", targets[thread] + steps, 16)
            at = (places[:, None] + np.arange(16)).reshape(-1)
            self._begin_at(at, SEEN)
            self._later.append(Copy(at, memory[(offsets[:, None] + np.arange(16)).reshape(-1)], barrier=barrier))

    def do_fence(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        match instruction.name[1:]:
            case ("proxy", "async", "shared", "cta"):
                self._unseen[self._told | np.isin(self._unseen, np.flatnonzero(active))] = SEEN
            case ("mbarrier_init", "release", "cluster"):
                for barrier in self.mbarriers.values():
                    barrier.published |= bool(active[barrier.maker])
            case _:
                raise NotImplementedError(".".join(instruction.name))

    def do_setmaxnreg(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        """The registers of whole warpgroups; that the pool has so many is checked at the end, when all have asked."""
        count = int(instruction.operands[0])
        given = REGISTERS // self.threads // 8 * 8
        pool = given * self.threads
        for group in self.whole_groups(active):
            now = self._registers.get(group, given)
            if count % 8 or (count > now if instruction.name[1] == "dec" else count < now):
                raise RuntimeError(f"setmaxnreg.{instruction.name[1]} {count}: the threads have {now} registers")
            self._registers[group] = count
        if len(self._registers) == self.threads // GROUP and sum(self._registers.values()) * GROUP > pool:
            raise RuntimeError(f"warpgroups take {self._registers} registers, more than the block's {pool}")

    def whole_groups(self, active: NDArray[np.bool_]) -> list[int]:
        """The warpgroups that run an instruction.

        Raises:
            RuntimeError: Threads of one are missing.
        """
        groups = []
        for start in range(0, self.threads, GROUP):
            part = active[start : start + GROUP]
            if part.any():
                if len(part) < GROUP or not part.all():
                    raise RuntimeError("threads of one warpgroup do not run this instruction together")
                groups.append(start // GROUP)
        return groups
