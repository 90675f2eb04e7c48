"""Systems that stay in memory and are measured in turn, a rate at a time.

Where a machine's speed wanders within a minute, runs of one system after the other do not compare, and these do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.performance.peers.report import HEADINGS, tokens_per_second
from tests.performance.peers.variants import Loaded
from tests.performance.peers.workload import RATES


@dataclass(frozen=True)
class Turns:
    """What was measured.

    Attributes:
        rates: System -> one of RATES -> tokens per second in each round.
    """

    rates: dict[str, dict[str, list[float]]]

    def ratio(self, name: str, rate: str) -> float:
        """How many times as fast the first system was as another: the median of the rounds."""
        first = next(iter(self.rates.values()))
        return median(a / b for a, b in zip(first[rate], self.rates[name][rate], strict=True))

    def table(self) -> list[str]:
        """Lines of a Markdown table: medians of tokens/s, and in brackets the ratio."""
        first = next(iter(self.rates))
        lines = [f"| system | {' | '.join(HEADINGS)} |", "|---" * (len(HEADINGS) + 1) + "|"]
        for name, rates in self.rates.items():
            cells = []
            for rate in RATES:
                ratio = "" if name == first else f" ({self.ratio(name, rate):.2f})"
                cells.append(tokens_per_second(median(rates[rate])) + ratio)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return [*lines, f"In brackets: how many times as fast {first} was, the median of the rounds."]


def take_turns(systems: Mapping[str, Loaded], rounds: int, note: Callable[[str], None]) -> Turns:
    """Measures each rate of all systems, one after the other, and in the other order in every second round."""
    turns = Turns({name: {rate: [] for rate in RATES} for name in systems})
    names: Sequence[str] = list(systems)
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        for rate in RATES:
            for name in names:
                turns.rates[name][rate].append(systems[name].rate(rate))
        names = names[::-1]
    return turns
