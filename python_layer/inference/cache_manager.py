"""Block tables: which pages each sequence holds, shared prefixes, and copies on write."""

from collections.abc import Collection

from python_layer.inference.page_pool import PagePool, PoolCounts
from python_layer.inference.radix_cache import PrefixStats, RadixAttentionCache
from python_layer.inference.sequence import Sequence


class CacheManager:
    """Hands pages to sequences and takes them back.

    Args:
        total_pages: Pages of the KV cache.
        page_size: Positions per page.
        prefix_caching: Share full pages between sequences with the same beginning.
    """

    def __init__(self, total_pages: int, page_size: int, *, prefix_caching: bool = True) -> None:
        self.page_size = page_size
        self._pool = PagePool(total_pages)
        self._tree = RadixAttentionCache(self._pool, page_size) if prefix_caching else None
        self._copies: list[tuple[int, int]] = []

    @property
    def total_pages(self) -> int:
        """All pages."""
        return self._pool.total

    @property
    def reached(self) -> int:
        """Pages that were ever held: the first ones."""
        return self._pool.reached

    @property
    def counts(self) -> PoolCounts:
        """Pages by state."""
        return self._pool.counts

    @property
    def prefix_stats(self) -> PrefixStats:
        """Tokens looked up and found in the prefix cache."""
        return self._tree.stats if self._tree else PrefixStats()

    def pages_for(self, tokens: int) -> int:
        """Pages that hold so many tokens of one sequence."""
        return -(-tokens // self.page_size)

    def adopt_prefix(self, sequence: Sequence) -> None:
        """Gives a sequence without pages those of its longest cached prefix; sets ``computed``."""
        if self._tree is None:
            return
        sequence.pages = self._tree.match(sequence.tokens)
        for page in sequence.pages:
            self._pool.retain(page)
        sequence.computed = len(sequence.pages) * self.page_size

    def count_prefix(self, sequence: Sequence) -> None:
        """Counts an admitted sequence's lookup in the statistics."""
        if self._tree is not None:
            self._tree.count(len(sequence.tokens), sequence.computed)

    def reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Makes room for positions ``computed`` to ``tokens`` - 1 of a sequence; all or nothing.

        A page that others share and that is about to be written is copied first: see :meth:`take_copies`.

        Returns:
            Whether there were pages enough, counting cached ones that nobody holds.
        """
        first = sequence.computed // self.page_size
        page = sequence.pages[first] if first < len(sequence.pages) else None
        # A fork's first one goes ahead of it: what it filled a page with may be cached before the fork writes there.
        shared = page is not None and (self._pool.references(page) > 1 or self._pool.is_cached(page))
        needed = max(0, self.pages_for(tokens) - len(sequence.pages)) + shared
        if needed > self._pool.free and self._tree is not None:
            self._tree.evict(needed - self._pool.free)
        if needed > self._pool.free:
            return False
        if shared:
            page = self._pool.acquire()
            self._copies.append((sequence.pages[first], page))
            self._release(sequence.pages[first])
            sequence.pages[first] = page
        while len(sequence.pages) < self.pages_for(tokens):
            sequence.pages.append(self._pool.acquire())
        return True

    def take_copies(self) -> list[tuple[int, int]]:
        """Page copies (from, to) to make, in order, before the next step of the model."""
        copies, self._copies = self._copies, []
        return copies

    def commit(self, sequence: Sequence) -> None:
        """Shares the pages that are filled with known tokens."""
        full = min(sequence.computed, len(sequence.tokens)) // self.page_size
        if self._tree is None or full == 0 or self._pool.is_cached(sequence.pages[full - 1]):
            return
        kept = self._tree.insert(sequence.tokens[: full * self.page_size], sequence.pages)
        for i, page in enumerate(kept):
            # Another sequence computed the same tokens: equal bits, so one page is enough.
            if page != sequence.pages[i]:
                self._pool.retain(page)
                self._release(sequence.pages[i])
                sequence.pages[i] = page

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Gives a sequence without pages all those of another, up to the tokens both have."""
        child.computed = min(parent.computed, len(child.tokens) - 1)
        child.pages = parent.pages[: self.pages_for(child.computed)]
        for page in child.pages:
            self._pool.retain(page)

    def free(self, sequence: Sequence) -> None:
        """Takes all pages from a sequence; full ones stay in the prefix cache."""
        # The end first: it is the least likely to be shared, so it should be evicted first.
        for page in reversed(sequence.pages):
            self._release(page)
        sequence.pages = []
        sequence.computed = 0

    def check_integrity(self, sequences: Collection[Sequence]) -> None:
        """Checks that every reference is accounted for.

        Args:
            sequences: All that hold pages.

        Raises:
            AssertionError: A page is lost, or shared by mistake.
        """
        expected = [0] * self.total_pages
        for sequence in sequences:
            if self.pages_for(sequence.computed) > len(sequence.pages):
                raise AssertionError(f"{sequence.request_id} has computed tokens without pages")
            if len(set(sequence.pages)) != len(sequence.pages):
                raise AssertionError(f"{sequence.request_id} holds a page twice")
            for page in sequence.pages:
                expected[page] += 1
        cached = set(self._tree.pages()) if self._tree else set()
        for page, count in enumerate(expected):
            if self._pool.references(page) != count:
                raise AssertionError(f"page {page} has {self._pool.references(page)} references, but {count} holders")
            if self._pool.is_cached(page) != (page in cached):
                raise AssertionError(f"page {page} is marked cached, but not in the tree, or the other way round")
            if count > 1 and page not in cached and not self._may_share(page, sequences):
                raise AssertionError(f"page {page} is shared, but is no common prefix")
        counts = self.counts
        if counts.free + counts.cached + counts.held != self.total_pages:
            raise AssertionError(f"{counts} do not add up to {self.total_pages} pages")
        held = sum(count > 0 for count in expected)
        if counts.held != held or counts.cached != len(cached) - sum(expected[page] > 0 for page in cached):
            raise AssertionError(f"{counts} do not agree with {held} pages in block tables")

    def _may_share(self, page: int, sequences: Collection[Sequence]) -> bool:
        """Forks may hold a page that is not full, at the same place and after the same tokens."""
        holders = [s for s in sequences if page in s.pages]
        place = holders[0].pages.index(page)
        same = {tuple(s.tokens[: min(s.computed, (place + 1) * self.page_size)]) for s in holders}
        return all(s.pages.index(page) == place for s in holders) and len({t[: min(map(len, same))] for t in same}) == 1

    def _release(self, page: int) -> None:
        if self._pool.release(page) and self._tree is not None:
            self._tree.released(page)
