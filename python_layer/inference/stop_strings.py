"""Ends a stream of text at a stop string, across the borders of its pieces."""

from collections.abc import Sequence


class StopStringFilter:
    """Passes text on as soon as it can be no part of a stop string.

    Args:
        stops: The strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Takes the next piece.

        Returns:
            The text that is final, and whether a stop string was met. Then the text ends before the string
            that begins first (of those, the longest), and what follows it is dropped.
        """
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            final = self._held[: min(found)]
            self._held = ""
            return final, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        final, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return final, False

    def flush(self) -> str:
        """What was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
