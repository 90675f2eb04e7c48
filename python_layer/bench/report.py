"""What a load measured: rates and percentiles, as a table, as JSON and as a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from python_layer.utils.errors import ConfigError

PERCENTILES = (50, 95, 99)
LABELS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end to end"}


@dataclass(frozen=True)
class Measured:
    """One request's times.

    Attributes:
        ttft: Seconds to the first token.
        e2e: Seconds to the end.
        tokens: Tokens of the answer.
    """

    ttft: float
    e2e: float
    tokens: int

    @property
    def tpot(self) -> float | None:
        """Mean seconds from one token to the next; None for a single token."""
        return (self.e2e - self.ttft) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass(frozen=True)
class Report:
    """The result of a load.

    Attributes:
        seconds: From the first request to the last answer.
        measured: The requests that were answered.
        errors: Message -> how often it came.
        left: Requests the client left on purpose.
    """

    seconds: float
    measured: Sequence[Measured]
    errors: dict[str, int]
    left: int = 0

    def figures(self) -> dict[str, Any]:
        """Requests and tokens per second, TTFT, TPOT and end-to-end percentiles in milliseconds, errors."""
        done = self.measured
        tokens = sum(each.tokens for each in done)
        return {
            "requests": len(done),
            "left": self.left,
            "errors": sum(self.errors.values()),
            "error_messages": self.errors,
            "seconds": self.seconds,
            "requests_per_s": len(done) / self.seconds,
            "tokens_per_s": tokens / self.seconds,
            **{
                f"{name}_p{p}_ms": 1e3 * float(np.percentile(values, p)) if values else None
                for name, values in self._columns().items()
                for p in PERCENTILES
            },
        }

    def table(self, title: str) -> Table:
        """The figures for a terminal."""
        figures = self.figures()
        table = Table("", *(f"p{p}" for p in PERCENTILES), title=title)
        for name, label in LABELS.items():
            values = (figures[f"{name}_p{p}_ms"] for p in PERCENTILES)
            table.add_row(f"{label}, ms", *("-" if value is None else f"{value:,.1f}" for value in values))
        table.caption = (
            f"{figures['requests']:,} answers in {self.seconds:.1f} s: {figures['requests_per_s']:.1f} requests/s, "
            f"{figures['tokens_per_s']:,.0f} tokens/s; {figures['errors']} errors, {self.left} left on purpose"
        )
        return table

    def plot(self, file: Path) -> None:
        """Writes the distributions of TTFT, TPOT and end-to-end time as a PNG.

        Raises:
            ConfigError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ConfigError("a plot needs matplotlib: pip install 'mili[bench]'") from None
        figure = Figure(figsize=(9, 3), layout="constrained")
        for axes, (name, values) in zip(figure.subplots(1, 3), self._columns().items(), strict=True):
            ordered = np.sort(np.array(values)) * 1e3
            axes.plot(ordered, np.arange(1, len(ordered) + 1) / max(1, len(ordered)))
            axes.set(title=LABELS[name], xlabel="ms", ylabel="share of requests", ylim=(0, 1))
            axes.grid(alpha=0.3)
        figure.savefig(file, dpi=120)

    def _columns(self) -> dict[str, list[float]]:
        """Every request's seconds."""
        return {
            "ttft": [each.ttft for each in self.measured],
            "tpot": [each.tpot for each in self.measured if each.tpot is not None],
            "e2e": [each.e2e for each in self.measured],
        }
