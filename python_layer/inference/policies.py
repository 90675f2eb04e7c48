"""Who goes first: the order in which a scheduler serves sequences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from python_layer.inference.sequence import Sequence

PolicyName = Literal["fcfs", "priority", "fair", "latency"]
Key = tuple[float, ...]

AGEING = 50.0
"""Prefill tokens by which each second of waiting moves a sequence forward under ``latency``."""


@dataclass(frozen=True)
class Load:
    """What a policy may look at beside the sequence.

    Attributes:
        now: The scheduler's seconds.
        served: Tokens computed for each user who has sequences.
    """

    now: float
    served: Mapping[str, int]


def fcfs(sequence: Sequence, load: Load) -> Key:
    """First come, first served."""
    return sequence.arrival, sequence.index


def priority(sequence: Sequence, load: Load) -> Key:
    """By the request's priority, then first come, first served."""
    return sequence.priority, sequence.arrival, sequence.index


def fair(sequence: Sequence, load: Load) -> Key:
    """The user who was served least goes first (virtual token counter, Sheng et al. 2024, arXiv:2401.00588)."""
    return load.served[sequence.user], sequence.arrival, sequence.index


def latency(sequence: Sequence, load: Load) -> Key:
    """Least left to prefill first, so that first tokens come soon; waiting counts, so that none starves."""
    aged = sequence.remaining - AGEING * (load.now - sequence.arrival)
    return aged, sequence.arrival, sequence.index


POLICIES: dict[PolicyName, Callable[[Sequence, Load], Key]] = {
    "fcfs": fcfs,
    "priority": priority,
    "fair": fair,
    "latency": latency,
}
"""Each gives the sort key of a sequence; the smallest goes first."""
