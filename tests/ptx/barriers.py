"""PTX barriers: named ones, where threads meet, and mbarriers in shared memory, which count arrivals and bytes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.ptx.program import Instruction

LANES = 32
ALL = 16
"""Where the threads of a block meet that name barrier 0; warps' own barriers follow."""


@dataclass
class MBarrier:
    """An mbarrier (PTX ISA, 9.7.13.15).

    Attributes:
        arrivals: That end a phase.
        pending: Of the current phase.
        bytes: Of copies that the current phase still waits for.
        phase: Number of the current phase.
        published: Whether copies may use it: its thread has run fence.mbarrier_init.
        landed: Places in shared memory that `cp.async` filled before its arrivals.
        maker: The thread that made it.
    """

    arrivals: int
    pending: int
    maker: int
    bytes: int = 0
    phase: int = 0
    published: bool = False
    landed: list[NDArray[np.int64]] = field(default_factory=list)

    def settle(self) -> None:
        """Ends the phase if nothing is missing."""
        if self.pending == 0 and self.bytes == 0:
            self.pending, self.phase = self.arrivals, self.phase + 1

    def arrive(self) -> None:
        """Counts an arrival.

        Raises:
            RuntimeError: The phase has had all of its arrivals.
        """
        if self.pending == 0:
            raise RuntimeError("a thread arrives at an mbarrier whose phase has had all of its arrivals")
        self.pending -= 1
        self.settle()


class BarrierInstructions:
    """What a machine does at barriers; :class:`~tests.ptx.machine.Machine` has its registers and memory.

    Attributes:
        waiting: Threads that wait, at a named barrier or at an mbarrier.
        mbarriers: By address.
    """

    threads: int

    def start_barriers(self) -> None:
        """Begins with no thread at a barrier."""
        self.waiting = np.zeros(self.threads, bool)
        self.mbarriers: dict[int, MBarrier] = {}
        self._met = np.full(self.threads, -1)
        self._wanted = np.zeros(self.threads, np.int64)
        self._asked: dict[int, tuple[int, int]] = {}

    def meet(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        """bar.sync and bar.warp.sync: threads wait for as many as the barrier takes, or for all that have not ended."""
        if "warp" in instruction.name:
            barrier, count = ALL + 1 + np.arange(self.threads) // LANES, np.full(self.threads, LANES)
        elif len(instruction.operands) > 1:
            barrier, count = (self.read(operand, "b32").astype(np.int64) for operand in instruction.operands)
        else:
            barrier, count = np.full(self.threads, ALL), np.full(self.threads, -1)
        self._met[active], self._wanted[active] = barrier[active], count[active]
        self.waiting |= active
        for number in np.unique(barrier[active]):
            here = self._met == number
            wanted = self._wanted[here][0]
            if (self._wanted[here] != wanted).any() or 0 <= wanted < here.sum():
                raise RuntimeError(f"threads disagree about how many meet at barrier {number}")
            if here.sum() == wanted:
                self._go(here)

    def let_go(self, done: NDArray[np.bool_]) -> bool:
        """Lets threads go on that need not wait any more; whether there are any."""
        everyone = self._met == ALL
        if everyone.any() and (everyone | done).all():
            self._go(everyone)
            return True
        free = [t for t, (address, parity) in self._asked.items() if self.mbarriers[address].phase & 1 != parity]
        for thread in free:
            del self._asked[thread]
        self.waiting[free] = False
        return bool(free)

    def try_wait(self, instruction: Instruction, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """mbarrier.try_wait.parity, which waits as long as it takes; the threads that go on."""
        if "parity" not in instruction.name:
            raise NotImplementedError(".".join(instruction.name))
        _, addresses = self.address(instruction.operands[1])
        parity = self.read(instruction.operands[2], "b32")
        passed = active.copy()
        for thread in np.flatnonzero(active):
            barrier = self._mbarrier(int(addresses[thread]))
            if barrier.phase & 1 == int(parity[thread]):
                passed[thread] = False
                self.waiting[thread] = True
                self._asked[int(thread)] = (int(addresses[thread]), int(parity[thread]))
            else:
                self.acquired(barrier)
        self.write(instruction.operands[0], np.ones(self.threads, bool), passed)
        return passed

    def do_mbarrier(self, instruction: Instruction, active: NDArray[np.bool_]) -> None:
        kind = instruction.name[1]
        _, addresses = self.address(instruction.operands[0 if kind == "init" else 1])
        for thread in np.flatnonzero(active):
            address = int(addresses[thread])
            if kind == "init":
                self.window("shared", addresses[[thread]], 8)
                count = int(self.read(instruction.operands[1], "b32")[thread])
                self.mbarriers[address] = MBarrier(count, count, int(thread))
            elif kind == "arrive":
                barrier = self._mbarrier(address)
                if "expect_tx" in instruction.name:
                    barrier.bytes += int(self.read(instruction.operands[2], "b32")[thread])
                barrier.arrive()
            else:
                raise NotImplementedError(".".join(instruction.name))

    def _mbarrier(self, address: int) -> MBarrier:
        if address not in self.mbarriers:
            raise RuntimeError(f"there is no mbarrier at {address}")
        return self.mbarriers[address]

    def _go(self, threads: NDArray[np.bool_]) -> None:
        self.waiting &= ~threads
        self._met[threads] = -1
