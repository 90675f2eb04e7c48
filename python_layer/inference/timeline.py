"""What happens to a request, and when."""

from dataclasses import dataclass, field
from typing import Literal

EndReason = Literal["stop", "length", "abort", "timeout", "error"]
"""A finish reason, where "abort" is left for what was taken back and "error" is what failed."""


@dataclass
class Timeline:
    """A request's life so far. The engine writes it; others may read it at any time, also while it goes on.

    Attributes:
        submitted: Whether the engine has taken it in.
        arrived: When it was, in the engine's seconds.
        scheduled: When it was first scheduled; None until then.
        first_token: When its first token was sampled; likewise.
        ended: When its last answer ended; likewise.
        cached: Tokens of its prompt that were found in the prefix cache.
        generated: Tokens of all of its answers.
        reasons: Why its answers ended, in the order in which they did.
    """

    submitted: bool = False
    arrived: float = 0.0
    scheduled: float | None = None
    first_token: float | None = None
    ended: float | None = None
    cached: int = 0
    generated: int = 0
    reasons: list[EndReason] = field(default_factory=list)

    def begin(self, now: float) -> None:
        """The request is submitted, for the first time or again."""
        self.submitted, self.arrived = True, now
        self.scheduled = self.first_token = self.ended = None
        self.cached = self.generated = 0
        self.reasons = []
