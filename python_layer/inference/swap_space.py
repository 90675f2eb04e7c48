"""Host memory for the pages of preempted sequences, so that they need not be computed again."""

from collections.abc import Collection
from dataclasses import dataclass, field

from python_layer.inference.sequence import Sequence


@dataclass
class SwapSpace:
    """Slots 0 to ``total`` - 1, each as large as a page, and the copies to make before the next step.

    Args:
        total: Number of slots; with 0 nothing is ever kept.
    """

    total: int
    _free: list[int] = field(init=False)
    _out: list[tuple[int, int]] = field(init=False, default_factory=list)
    _in: list[tuple[int, int]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._free = list(range(self.total - 1, -1, -1))

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return len(self._free)

    def keep(self, sequence: Sequence, page_size: int) -> None:
        """Keeps the computed pages of a sequence that is about to lose them; nothing happens if there is no room."""
        pages = sequence.pages[: -(-sequence.computed // page_size)]
        if not pages or len(pages) > self.free:
            return
        sequence.slots = [self._free.pop() for _ in pages]
        sequence.kept = sequence.computed
        self._out += zip(pages, sequence.slots, strict=True)

    def restore(self, sequence: Sequence, page_size: int) -> None:
        """Brings back what a sequence lacks; its pages must be reserved. ``computed`` goes up to what was kept."""
        first = sequence.computed // page_size
        if sequence.kept > sequence.computed:
            used = len(sequence.slots)
            self._in += zip(sequence.slots[first:], sequence.pages[first:used], strict=True)
            sequence.computed = sequence.kept
        self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Frees a sequence's slots."""
        self._free += sequence.slots
        sequence.slots, sequence.kept = [], 0

    def take_copies(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Copies to make before the next step: first (page, slot), then, after those of pages, (slot, page)."""
        copies, self._out, self._in = (self._out, self._in), [], []
        return copies

    def check_integrity(self, sequences: Collection[Sequence]) -> None:
        """Checks that each slot is free or a sequence's.

        Raises:
            AssertionError: A slot is lost, or held twice.
        """
        held = sorted([*self._free, *(slot for sequence in sequences for slot in sequence.slots)])
        if held != list(range(self.total)):
            raise AssertionError(f"{len(held)} swap slots are free or held, but there are {self.total}")
