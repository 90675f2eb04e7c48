"""A token bucket: so much a minute, in bursts of up to a minute's worth."""

import math
from collections.abc import Callable

ENOUGH = 0.999
"""What must be left to take from a bucket: one, less what rounding may have lost."""


class TokenBucket:
    """Fills evenly, up to what a minute brings.

    It may be taken from while anything is left, by more than that too: what was overdrawn is waited for afterwards. So
    what an answer costs need not be known before, and no request is too large for ever.

    Args:
        per_minute: What it holds when full, and what flows in each minute.
        clock: Seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled = clock()

    @property
    def left(self) -> int:
        """What may be taken now."""
        return max(0, math.floor(self._now() + 1 - ENOUGH))

    @property
    def wait(self) -> float:
        """Seconds until it may be taken from; 0 if that is now."""
        level = self._now()
        return 0.0 if level >= ENOUGH else (1 - level) * 60 / self.per_minute

    @property
    def until_full(self) -> float:
        """Seconds until it is full again."""
        return (self.per_minute - self._now()) * 60 / self.per_minute

    def take(self, amount: int) -> None:
        """Takes from it, whether there is enough or not."""
        self._level = self._now() - amount

    def give_back(self, amount: int) -> None:
        """Puts back what was taken for nothing."""
        self._level = min(float(self.per_minute), self._now() + amount)

    def _now(self) -> float:
        now = self._clock()
        self._level = min(float(self.per_minute), self._level + (now - self._filled) * self.per_minute / 60)
        self._filled = now
        return self._level
