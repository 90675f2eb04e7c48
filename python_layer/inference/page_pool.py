"""The pages of the KV cache: who holds each, and which are free."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PoolCounts:
    """Pages by state; the three add up to all of them.

    Attributes:
        free: Nobody's, content meaningless.
        cached: Kept by the prefix cache only; may be taken back at any time.
        held: In some request's block table.
    """

    free: int
    cached: int
    held: int


@dataclass
class PagePool:
    """Pages 0 to ``total`` - 1 with reference counts.

    A page is free, cached or held. Sequences count references with :meth:`acquire`, :meth:`retain` and
    :meth:`release`; the prefix cache marks pages it keeps with :meth:`set_cached`.

    Args:
        total: Number of pages.
    """

    total: int
    reached: int = field(init=False, default=0)
    """Pages that were ever held: the first ones."""
    _free: list[int] = field(init=False)
    _references: list[int] = field(init=False)
    _cached: list[bool] = field(init=False)
    _cached_unheld: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._free = list(range(self.total - 1, -1, -1))
        self._references = [0] * self.total
        self._cached = [False] * self.total

    @property
    def counts(self) -> PoolCounts:
        """Pages by state."""
        free = len(self._free)
        return PoolCounts(free, self._cached_unheld, self.total - free - self._cached_unheld)

    @property
    def free(self) -> int:
        """Number of free pages."""
        return len(self._free)

    def references(self, page: int) -> int:
        """How many block tables hold a page."""
        return self._references[page]

    def is_cached(self, page: int) -> bool:
        """Whether the prefix cache keeps a page."""
        return self._cached[page]

    def acquire(self) -> int:
        """A free page, held once. There must be one."""
        page = self._free.pop()
        self._references[page] = 1
        self.reached = max(self.reached, page + 1)
        return page

    def retain(self, page: int) -> None:
        """One more block table holds a page, which must be held or cached."""
        if self._references[page] == 0:
            if not self._cached[page]:
                raise AssertionError(f"page {page} is free and can't be shared")
            self._cached_unheld -= 1
        self._references[page] += 1

    def release(self, page: int) -> bool:
        """One block table less holds a page; returns whether nobody does any more."""
        if self._references[page] <= 0:
            raise AssertionError(f"page {page} is released more often than held")
        self._references[page] -= 1
        if self._references[page]:
            return False
        if self._cached[page]:
            self._cached_unheld += 1
        else:
            self._free.append(page)
        return True

    def set_cached(self, page: int, cached: bool) -> None:
        """The prefix cache begins or ceases to keep a page."""
        if self._cached[page] == cached:
            raise AssertionError(f"page {page} is {'already' if cached else 'not'} cached")
        self._cached[page] = cached
        if self._references[page] == 0:
            if cached:
                raise AssertionError(f"page {page} is free and can't be cached")
            self._cached_unheld -= 1
            self._free.append(page)
