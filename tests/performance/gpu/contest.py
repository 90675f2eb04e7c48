"""Several systems doing the same work in turn: how long each takes, and whether they compute the same."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
OURS = "MILI"
BURST_S = 0.03
"""Seconds of a burst of executions between two synchronizations."""


class UnavailableError(Exception):
    """A system can't take part here; says why."""


class Once(Generic[T]):
    """Makes what several contenders share when it is first asked for, and remembers it, or why it can't be had.

    Args:
        make: Makes it; may raise anything.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._error: Exception | None = None
        self.made: T | None = None
        """None until then."""

    def __call__(self) -> T:
        if self._error is not None:
            raise self._error
        if self.made is None:
            try:
                self.made = self._make()
            except Exception as error:
                self._error = error
                raise
        return self.made


@dataclass(frozen=True)
class Contender:
    """A system that is ready to do a case's work.

    Attributes:
        seconds: Does it for a round; gives the seconds of one execution.
        result: What it computed last, to be held against the others'; None where that is not compared.
        close: Lets go of what it holds.
    """

    seconds: Callable[[], float]
    result: Callable[[], NDArray[np.float32]] | None = None
    close: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Case:
    """Work that several systems can do.

    Attributes:
        name: Of the work.
        bound: What limits it: "copy", the copy's bytes/s, "matmul", the matrix product's operations/s, or nothing.
        work: Bytes or operations of one execution, at the least.
        contenders: Name -> makes it ready; may raise anything.
        tokens: That one execution computes; 0 where the work is no model's.
    """

    name: str
    bound: str
    work: float
    contenders: Mapping[str, Callable[[], Contender]]
    tokens: int = 0


@dataclass(frozen=True)
class Outcome:
    """What was measured of a case.

    Attributes:
        name: As in the case, like the next three.
        bound: Likewise.
        work: Likewise.
        tokens: Likewise.
        seconds: Contender -> median of the rounds, for one execution.
        missing: Contender -> why it was not measured.
        differences: Contender -> largest difference of its results to the first one's, over their largest number.
    """

    name: str
    bound: str
    work: float
    tokens: int
    seconds: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)


def contest(case: Case, rounds: int) -> Outcome:
    """Measures the contenders in turn, so many times; one that fails is named with the reason."""
    ready: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    samples: dict[str, list[float]] = {}
    for name, make in case.contenders.items():
        try:
            ready[name] = make()
            ready[name].seconds()  # warms up
        except Exception as error:  # whatever a library raises: the others are measured all the same
            missing[name] = reason(error)
    for _ in range(rounds):
        for name in [name for name in ready if name not in missing]:
            try:
                samples.setdefault(name, []).append(ready[name].seconds())
            except Exception as error:
                missing[name] = reason(error)
    seconds = {name: statistics.median(taken) for name, taken in samples.items() if name not in missing}
    differences = compare({name: ready[name] for name in seconds}, missing)
    for contender in ready.values():
        contender.close()
    return Outcome(case.name, case.bound, case.work, case.tokens, seconds, missing, differences)


def compare(contenders: Mapping[str, Contender], missing: dict[str, str]) -> dict[str, float]:
    """Differences to the first one's results; who can't give its own becomes missing."""
    results = {}
    for name, contender in contenders.items():
        if contender.result is not None:
            try:
                results[name] = contender.result()
            except Exception as error:
                missing[name] = reason(error)
    if len(results) < 2:
        return {}
    (_, first), *others = results.items()
    largest = float(np.abs(first).max()) or math.nan  # a first one of nothing but zeros says nothing
    return {name: float(np.abs(result - first).max()) / largest for name, result in others}


def reason(error: Exception) -> str:
    """An error as one short line."""
    lines = [line.strip() for line in f"{error}".splitlines() if line.strip()]
    text = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
    kind = "" if isinstance(error, UnavailableError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]


def bursts(run: Callable[[], object], synchronize: Callable[[], object]) -> Callable[[], float]:
    """Measures what is launched and computed later: as many executions at once as fill a burst.

    Args:
        run: Launches one execution.
        synchronize: Waits for all that were launched.

    Returns:
        A round, for a :class:`Contender`.
    """
    repeats = 0

    def burst() -> float:
        nonlocal repeats
        if not repeats:
            for _ in range(2):  # the first loads kernels
                took = timed(1)
            repeats = max(1, int(BURST_S / took))
        return timed(repeats) / repeats

    def timed(count: int) -> float:
        synchronize()
        started = time.perf_counter()
        for _ in range(count):
            run()
        synchronize()
        return time.perf_counter() - started

    return burst
