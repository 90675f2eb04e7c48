"""How long requests take and how they end: what the engine measures beside its counts."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence as Values
from typing import get_args

from python_layer.inference.sequence import Sequence
from python_layer.inference.timeline import EndReason, Timeline

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5,
    10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip
TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))


class Histogram:
    """Counts values by size. One thread writes; a reader may miss the value that is just being added.

    Args:
        bounds: Upper bounds of the buckets, inclusive and ascending; larger values have a bucket of their own.
    """

    def __init__(self, bounds: Values[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """All values."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Adds a value, or the same one several times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class RequestStats:
    """Requests since the start. All methods are called on the engine's thread, and cost about a microsecond.

    Attributes:
        queue_time: Seconds from a request's arrival until it was scheduled, or given up before that.
        time_to_first_token: Seconds from arrival to the first token.
        inter_token_latency: Seconds between two tokens of an answer; tokens of one step share its time.
        latency: Seconds from arrival to the end, however the request ended.
        prompt_lengths: Tokens of prompts, of requests that ended.
        generated: Tokens generated for a request, in all of its answers.
        prompt_tokens: Tokens of the prompts that are computed, or were found in the prefix cache.
        reasons: Answers by why they ended, of requests that ended.
        aborted: Requests that were taken back.
    """

    def __init__(self) -> None:
        self.queue_time = Histogram(SECONDS)
        self.time_to_first_token = Histogram(SECONDS)
        self.inter_token_latency = Histogram(SECONDS)
        self.latency = Histogram(SECONDS)
        self.prompt_lengths = Histogram(TOKENS)
        self.generated = Histogram(TOKENS)
        self.prompt_tokens = 0
        self.reasons: Counter[EndReason] = Counter(dict.fromkeys(get_args(EndReason), 0))
        self.aborted = 0

    def sampled(self, sequence: Sequence, now: float) -> None:
        """A sequence's next token is there; called before anybody gets it."""
        timeline = sequence.timeline
        if timeline.first_token is not None:
            return
        timeline.first_token, timeline.cached = now, sequence.prefix_hit
        self.prompt_tokens += sequence.prompt_length
        self.time_to_first_token.observe(now - timeline.arrived)
        assert timeline.scheduled is not None
        self.queue_time.observe(timeline.scheduled - timeline.arrived)

    def took(self, sequence: Sequence, tokens: int, now: float) -> None:
        """An answer took some tokens, at once."""
        if sequence.last_token is not None:
            self.inter_token_latency.observe((now - sequence.last_token) / tokens, tokens)
        sequence.last_token = now

    def ended(self, timeline: Timeline, prompt_length: int, now: float) -> None:
        """A request's last answer ended."""
        timeline.ended = now
        if timeline.first_token is None:
            self.queue_time.observe((now if timeline.scheduled is None else timeline.scheduled) - timeline.arrived)
        self.latency.observe(now - timeline.arrived)
        self.prompt_lengths.observe(prompt_length)
        self.generated.observe(timeline.generated)
        self.reasons.update(timeline.reasons)
        self.aborted += "abort" in timeline.reasons
