"""Steps on their way through the model: launched, drawn from, and read when the device has come to them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from python_layer.inference.scheduler import StepPlan
from python_layer.inference.sequence import Sequence
from python_layer.inference.turn import Turn
from python_layer.model.batch import RaggedBatch
from python_layer.model.config import Qwen3Config
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.sampler import SampledToken, SamplingRow


class Draws(Protocol):
    """Tokens that are drawn, or will be."""

    @property
    def tokens(self) -> Any:
        """On the device, for :class:`~python_layer.model.drawn_tokens.DrawnTokens`."""

    def read(self) -> list[SampledToken]:
        """Waits for them."""


class EngineModel(Protocol):
    """What the engine needs of a model; its KV cache is the model's own.

    It may only note what it is asked for, as long as it does it in that order. No page is copied between a step and its
    draws.
    """

    @property
    def config(self) -> Qwen3Config:
        """Its configuration."""

    def forward(self, batch: RaggedBatch, drawn: DrawnTokens | None = None) -> Any:
        """Computes the logits of a batch's wanted rows; ``drawn`` has tokens that are not known here yet."""

    def draw(self, step: Any, rows: list[SamplingRow]) -> Draws:
        """Draws a token from each of the rows of ``forward``; called once the draws before have been read."""

    def ready_page(self, reached: int) -> bool:
        """Takes memory for one of the pages that come after the first ``reached``, whose content means nothing.

        Returns:
            Whether there was one that is needed soon and had none.
        """

    def copy_page(self, source: int, target: int) -> None:
        """Copies a page of the KV cache."""

    def swap_out(self, page: int, slot: int) -> None:
        """Copies a page to a slot of the swap space."""

    def swap_in(self, slot: int, page: int) -> None:
        """Copies it back."""


@dataclass
class InFlight:
    """A step that was launched.

    Attributes:
        turns: What its sequences do.
        logits: Of the rows they want.
        draws: What they drew, once :meth:`Steps.draw` was called.
    """

    turns: list[Turn]
    logits: Any
    draws: Draws | None = None

    def rows(self) -> dict[Sequence, int]:
        """Where among the draws each sequence's next token is."""
        rows, first = {}, 0
        for turn in self.turns:
            rows[turn.sequence] = first + len(turn.scored)
            first += turn.draws
        return rows


class Steps:
    """Hands steps to a model, and their tokens back.

    Args:
        model: Computes them, one after the other.
    """

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        self.model_seconds = 0.0
        """Time in the model's methods, much of it spent waiting."""

    def launch(self, plan: StepPlan, turns: list[Turn], before: InFlight | None) -> InFlight:
        """Begins a step.

        Args:
            plan: Its copies.
            turns: Its rows.
            before: The step before, if its tokens have not been read.
        """
        for page, slot in plan.swap_out:
            self._model.swap_out(page, slot)
        for source, target in plan.copies:
            self._model.copy_page(source, target)
        for slot, page in plan.swap_in:
            self._model.swap_in(slot, page)
        batch = RaggedBatch.of([turn.batch_rows() for turn in turns])
        drawn = None if before is None else _drawn(batch, turns, before)
        with self._timed():
            return InFlight(turns, self._model.forward(batch, drawn))

    def draw(self, step: InFlight) -> None:
        """Draws from a step's logits; all that can be known of its sequences is known by now."""
        rows = [row for turn in step.turns for row in turn.sampling_rows()]
        with self._timed():
            step.draws = self._model.draw(step.logits, rows)
        for turn in step.turns:
            turn.sequence.pending = bool(turn.answers)

    def collect(self, step: InFlight) -> list[tuple[Turn, list[SampledToken]]]:
        """Waits for a step: what was drawn for each of its turns."""
        assert step.draws is not None
        with self._timed():
            sampled = iter(step.draws.read())
        for turn in step.turns:
            turn.sequence.pending = False
        return [(turn, [next(sampled) for _ in range(turn.draws)]) for turn in step.turns]

    def ready_page(self, reached: int) -> bool:
        """As in :class:`EngineModel`."""
        return self._model.ready_page(reached)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.model_seconds += time.perf_counter() - began


def _drawn(batch: RaggedBatch, turns: list[Turn], before: InFlight) -> DrawnTokens | None:
    """Where a batch's tokens are that the step before draws; None if it has none of them."""
    assert before.draws is not None
    known: NDArray[np.int32] = np.full(len(batch.token_ids), -1, np.int32)
    rows = before.rows()
    for turn, end in zip(turns, batch.row_offsets[1:].tolist(), strict=True):
        if turn.takes_pending:
            known[end - 1] = rows[turn.sequence]
    return DrawnTokens(before.draws.tokens, known) if (known >= 0).any() else None
