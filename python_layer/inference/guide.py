"""What the tokens of an answer must follow: a grammar, a budget of thoughts, calls of functions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from python_layer.inference.grammar import Grammar, Matcher

Choice = int | NDArray[np.uint32] | None
"""What may come next: one token, the tokens of a mask, or anything."""


@dataclass(frozen=True)
class Thoughts:
    """How an answer's thoughts begin and end.

    Attributes:
        start: The token ``<think>``.
        end: The token ``</think>``.
        open: The prompt ends within thoughts.
        cut: Tokens that end thoughts which have used their budget up, the end among them.
        gap: Tokens between the end of thoughts and what follows.
        budget: Most tokens of thoughts; None is no limit.
    """

    start: int
    end: int
    open: bool
    cut: tuple[int, ...]
    gap: tuple[int, ...]
    budget: int | None = None


@dataclass(frozen=True)
class Calls:
    """How an answer in free text calls functions.

    Attributes:
        start: The token ``<tool_call>``.
        grammar: Of what follows it; None leaves it free.
        most: Calls an answer may make; None is no limit.
    """

    start: int
    grammar: Grammar | None = None
    most: int | None = None


@dataclass(frozen=True)
class Guide:
    """What an answer's tokens must follow; each answer goes through it with a :class:`GuideState` of its own.

    Attributes:
        vocab_size: The model's.
        endings: Its end-of-sequence tokens.
        grammar: Of the whole answer after its thoughts.
        thoughts: None where the answer has none.
        calls: Beside a grammar, it has no effect.
    """

    vocab_size: int
    endings: tuple[int, ...]
    grammar: Grammar | None = None
    thoughts: Thoughts | None = None
    calls: Calls | None = None


class GuideState:
    """Where one answer stands."""

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self._matcher = guide.grammar.begin() if guide.grammar else None
        self._block: Matcher | None = None
        self._forced: list[int] = []
        self._thinking = guide.thoughts is not None and guide.thoughts.open
        self._thought = self._called = 0
        self._first = True
        self.finished = False
        """Whether the grammar is at its end, and the answer with it."""
        self.failure = ""
        """Why the grammar can't be followed any further."""
        if self._thinking:
            self._count_thought()

    def next(self) -> Choice:
        """What may come next."""
        guide = self._guide
        if self._forced:
            return self._forced[0]
        if self._thinking:
            # Thoughts that end the answer would leave the grammar unfulfilled.
            return None if self._matcher is None else self._all_but(*guide.endings)
        matcher = self._block or self._matcher
        if matcher is not None:
            mask = matcher.mask()
            if self._first and guide.thoughts is not None:
                mask = mask.copy()
                mask[guide.thoughts.start // 32] |= np.uint32(1 << guide.thoughts.start % 32)
            return mask
        calls = guide.calls
        if calls is not None and calls.most is not None and self._called >= calls.most:
            return self._all_but(calls.start)
        return None

    def take(self, token: int) -> None:
        """Goes on with the token that was chosen."""
        thoughts, first, self._first = self._guide.thoughts, self._first, False
        if self._forced:
            self._forced.pop(0)
        elif self._thinking and thoughts is not None:
            self._thought += 1
            self._thinking = token != thoughts.end
            if self._thinking:
                self._count_thought()
            elif self._matcher is not None:
                self._forced = list(thoughts.gap)
        elif first and thoughts is not None and token == thoughts.start:
            self._thinking = True
            self._count_thought()
        else:
            self._follow(token)

    def _count_thought(self) -> None:
        thoughts = self._guide.thoughts
        if thoughts is not None and thoughts.budget is not None and self._thought >= thoughts.budget:
            self._forced, self._thinking = list(thoughts.cut), False

    def _follow(self, token: int) -> None:
        """A token of the answer itself."""
        calls = self._guide.calls
        if self._block is not None:
            self._block.take(token)
            self.failure = self._block.failure
            if self._block.complete:
                self._block = None
        elif self._matcher is not None:
            self._matcher.take(token)
            self.failure = self._matcher.failure
            self.finished = self._matcher.complete
        elif calls is not None and token == calls.start:
            self._called += 1
            self._block = calls.grammar.begin() if calls.grammar else None

    def _all_but(self, *tokens: int) -> NDArray[np.uint32]:
        mask = np.full(-(-self._guide.vocab_size // 32), 0xFFFFFFFF, np.uint32)
        for token in tokens:
            mask[token // 32] &= ~np.uint32(1 << token % 32)
        return mask
