"""Prefix sharing (RadixAttention, Zheng et al. 2024, arXiv:2312.07104, section 3) at the grain of whole pages."""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from python_layer.inference.page_pool import PagePool

Key = tuple[int, ...]


@dataclass(eq=False)
class _Node:
    """A full page: the tokens at its positions, after those of its ancestors."""

    key: Key
    page: int
    parent: "_Node | None"
    children: dict[Key, "_Node"] = field(default_factory=dict)
    last_used: int = 0


@dataclass
class PrefixStats:
    """Tokens looked up, and tokens found."""

    queried: int = 0
    hit: int = 0


class RadixAttentionCache:
    """A tree over token ids whose nodes are full pages, of requests that live and that have finished.

    A page's keys and values depend on every token before it, so a page is named by its path from the root.
    Each edge is one page of tokens. Only leaves that no request holds are evicted, least recently used
    first: who holds a page holds its ancestors too.

    Args:
        pool: Owns the pages.
        page_size: Tokens per page.
    """

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._root = _Node((), -1, None)
        self._nodes: dict[int, _Node] = {}
        self._clock = itertools.count(1)
        # (last use, page) of leaves that may be evicted; entries that no longer hold are skipped when met.
        self._evictable: list[tuple[int, int]] = []
        self.stats = PrefixStats()

    def match(self, tokens: Sequence[int]) -> list[int]:
        """The pages of the longest known prefix, in order; they stay valid until the next eviction.

        Args:
            tokens: A prompt. Its last token is never matched: a request needs the logits of at least one.
        """
        now, node, pages = next(self._clock), self._root, []
        for start in range(0, len(tokens) - self._page_size, self._page_size):
            child = node.children.get(tuple(tokens[start : start + self._page_size]))
            if child is None:
                break
            child.last_used = now
            pages.append(child.page)
            node = child
        self._offer(node)
        return pages

    def count(self, queried: int, hit: int) -> None:
        """Adds an admitted request's tokens to the statistics."""
        self.stats.queried += queried
        self.stats.hit += hit

    def insert(self, tokens: Sequence[int], pages: Sequence[int]) -> list[int]:
        """Adds the full pages of a sequence.

        Args:
            tokens: Its computed tokens; what does not fill a page is left out.
            pages: Its block table, which holds every page of it.

        Returns:
            The pages that stand for the tokens now: where the tree knew a page with the same tokens, that
            one, which has the same content. The caller exchanges them in its block table.
        """
        now, node, kept = next(self._clock), self._root, []
        for index in range(len(tokens) // self._page_size):
            key = tuple(tokens[index * self._page_size : (index + 1) * self._page_size])
            child = node.children.get(key)
            if child is None:
                child = _Node(key, pages[index], node)
                node.children[key] = child
                self._nodes[child.page] = child
                self._pool.set_cached(child.page, True)
            child.last_used = now
            kept.append(child.page)
            node = child
        return kept

    def released(self, page: int) -> None:
        """Tells that no request holds a page any more."""
        if page in self._nodes:
            self._offer(self._nodes[page])

    def evict(self, wanted: int) -> int:
        """Frees up to ``wanted`` pages, least recently used first; returns how many."""
        freed = 0
        while freed < wanted and self._evictable:
            last_used, page = heapq.heappop(self._evictable)
            node = self._nodes.get(page)
            if node is None or node.last_used != last_used or not self._may_go(node):
                continue
            assert node.parent is not None
            del node.parent.children[node.key]
            del self._nodes[page]
            self._pool.set_cached(page, False)
            self._offer(node.parent)
            freed += 1
        return freed

    def clear(self) -> int:
        """Forgets every prefix that no request holds; returns the number of pages freed."""
        return self.evict(len(self._nodes))

    def pages(self) -> Iterator[int]:
        """Every page of the tree, ancestors first."""
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            yield node.page
            stack.extend(node.children.values())

    def _may_go(self, node: _Node) -> bool:
        return node is not self._root and not node.children and self._pool.references(node.page) == 0

    def _offer(self, node: _Node) -> None:
        if self._may_go(node):
            heapq.heappush(self._evictable, (node.last_used, node.page))
