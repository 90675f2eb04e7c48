"""What a run of the benchmark found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.performance.gpu.contest import Outcome


@dataclass(frozen=True)
class Result:
    """All of it.

    Attributes:
        device: Where, in words.
        versions: Of the systems.
        rounds: How often each contender of a case ran, in turn with the others.
        outcomes: The cases.
        memory: Model -> share of the device's memory in use, at the largest batch.
        failures: What could not be measured besides contenders -> why.
    """

    device: str
    versions: dict[str, str]
    rounds: int
    outcomes: list[Outcome]
    memory: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> "Result":
        """The inverse of :meth:`to_json`; what else is there was derived."""
        outcomes = [Outcome(**outcome) for outcome in values["outcomes"]]
        known = {name: values[name] for name in ("device", "versions", "rounds", "memory", "failures")}
        return Result(**known, outcomes=outcomes)

    def to_json(self) -> dict[str, Any]:
        """An object for JSON, with the limits and the fractions of them."""
        fractions = {
            outcome.name: {name: self.fraction(outcome, name) for name in outcome.seconds} for outcome in self.outcomes
        }
        limits = {bound: self.limit(bound) for bound in ("copy", "matmul")}
        return {**asdict(self), "limits": limits, "fractions": fractions}

    def outcome(self, name: str) -> Outcome | None:
        """A case's outcome."""
        return next((outcome for outcome in self.outcomes if outcome.name == name), None)

    def limit(self, bound: str) -> float | None:
        """Bytes or operations per second of the best contender of the case that is the limit."""
        outcome = self.outcome(bound)
        return outcome.work / min(outcome.seconds.values()) if outcome and outcome.seconds else None

    def fraction(self, outcome: Outcome, name: str) -> float | None:
        """A contender's rate as a share of the limit; None where there is none."""
        limit = self.limit(outcome.bound)
        return outcome.work / outcome.seconds[name] / limit if limit else None
