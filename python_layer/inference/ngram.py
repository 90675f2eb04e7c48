"""Speculation by prompt lookup: what followed the last tokens before, may follow them again.

Drafts are checked by the model in the step that would have computed one token; each accepted one saves a
step, and the output stays exactly that of normal decoding (Leviathan et al. 2023, arXiv:2211.17192, with the
request's own text as the draft model, after Saxena 2023, "Prompt Lookup Decoding").
"""

from collections.abc import Sequence

NGRAM = 3
"""Tokens that must recur before what followed them is proposed."""


class NgramIndex:
    """Remembers where each n-gram of a growing sequence was last followed by something."""

    def __init__(self) -> None:
        self._follower: dict[tuple[int, ...], int] = {}
        self._indexed = NGRAM

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens that followed the last occurrence of the sequence's last n-gram.

        Args:
            tokens: The sequence; it only ever grows between calls.
            count: Most tokens to propose.
        """
        for end in range(self._indexed, len(tokens)):
            self._follower[tuple(tokens[end - NGRAM : end])] = end
        self._indexed = max(self._indexed, len(tokens))
        start = self._follower.get(tuple(tokens[-NGRAM:]))
        return [] if start is None or count <= 0 else list(tokens[start : start + count])
