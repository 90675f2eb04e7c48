"""What the GPU engine shall reach on one H200, and whether it does."""

from dataclasses import dataclass
from typing import Literal

from tests.performance.gpu.contest import OURS
from tests.performance.gpu.result import Result

Figure = Literal["fraction", "tokens/s", "seconds", "memory", "torch"]


@dataclass(frozen=True)
class Target:
    """A figure of MILI's.

    Attributes:
        case: Of which.
        figure: The fraction of the limit, tokens per second, seconds, the share of memory in use, or how many times as
            fast as the fastest of PyTorch's ways.
        value: What it shall be at least; of seconds and memory, at most.
    """

    case: str
    figure: Figure
    value: float

    @property
    def least(self) -> bool:
        """Whether more is better."""
        return self.figure not in ("seconds", "memory")

    def reached(self, result: Result) -> float | None:
        """The figure; None if it was not measured."""
        if self.figure == "memory":
            return result.memory.get(self.case)
        outcome = result.outcome(self.case)
        if outcome is None or OURS not in outcome.seconds:
            return None
        seconds = outcome.seconds[OURS]
        if self.figure == "seconds":
            return seconds
        if self.figure == "tokens/s":
            return outcome.tokens / seconds
        if self.figure == "fraction":
            return result.fraction(outcome, OURS)
        theirs = [taken for name, taken in outcome.seconds.items() if name.startswith("torch")]
        return min(theirs) / seconds if theirs else None

    def line(self, result: Result) -> str:
        """The target, the figure, and the verdict."""
        reached = self.reached(result)
        bound = ">=" if self.least else "<="
        text = f"{self.case}: {_text(self.figure, self.value, bound)}"
        if reached is None:
            return f"not measured  {text}"
        met = reached >= self.value if self.least else reached <= self.value
        return f"{'met' if met else 'NOT MET':12}  {text}; is {_text(self.figure, reached)}"


TARGETS = [
    Target("attention, prompt of 8192", "fraction", 0.5),
    Target("attention, prompt of 8192", "torch", 1.0),
    Target("attention, decode of 32 x 4096", "fraction", 0.75),
    Target("add_rms_norm, 8192 rows", "fraction", 0.8),
    Target("swiglu, 8192 rows", "fraction", 0.8),
    Target("qk_norm_rope_store, 8192 rows", "fraction", 0.8),
    Target("8B: decode of 1", "fraction", 0.75),
    Target("8B: decode of 64", "tokens/s", 8000),
    Target("8B: prompt of 2048", "fraction", 0.55),
    Target("8B: 512 + 128 tokens", "seconds", 0.8),
    Target("8B", "memory", 0.9),
    Target("0.6B: decode of 1", "tokens/s", 600),
    Target("0.6B: prompt of 2048", "tokens/s", 100_000),
]


def _text(figure: Figure, value: float, bound: str = "") -> str:
    number = f"{bound} {value:.0%}" if figure in ("fraction", "memory") else f"{bound} {value:,.6g}"
    what = {
        "fraction": "of the limit",
        "memory": "of the memory in use at the largest batch",
        "torch": "x the fastest of torch",
    }
    return f"{number.strip()} {what.get(figure, figure)}"
