"""A model together with the one KV cache it serves all requests from."""

from dataclasses import dataclass

import numpy as np
from max.driver import Buffer

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.captured import is_decode
from python_layer.model.config import Qwen3Config
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.pages import make_pages
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampler import Drawn, SamplingRow
from python_layer.model.sampling import SamplingParams


@dataclass(frozen=True)
class NotedStep:
    """A step of a CPU, which is computed once it is known how to draw from it: both at once is faster.

    Attributes:
        batch: What to compute.
        token_ids: As in :meth:`~python_layer.model.qwen3_model.Qwen3Model.step`.
    """

    batch: RaggedBatch
    token_ids: Buffer | None


class PagedModel:
    """Runs steps on its own pages.

    Args:
        model: Computes.
        pages: Pages of the KV cache; their memory is taken as they are first written, or made ready.
        swap_slots: Pages of the swap space, likewise.
        overlap: Steps may take tokens from the step before, which have not left the device.
    """

    def __init__(self, model: Qwen3Model, pages: int, swap_slots: int = 0, *, overlap: bool = False) -> None:
        self._model = model
        spare = int(model.device.is_gpu)  # the page of the tokens that fill captured batches up
        self._pages = make_pages(model.layout, model.device, pages + spare, swap_slots)
        self._gatherer = model.token_gatherer() if overlap else None
        self._decodes = model.captured_decodes(self.cache, spare_page=pages) if spare else None
        if spare:
            self._warm_up(RaggedBatch.of([RequestRows([0], start=0, pages=[pages])]))

    @property
    def config(self) -> Qwen3Config:
        """The model's configuration."""
        return self._model.config

    @property
    def cache(self) -> Buffer:
        """The KV cache."""
        return self._pages.cache

    def forward(self, batch: RaggedBatch, drawn: DrawnTokens | None = None) -> Buffer | NotedStep:
        """Computes a batch, or notes it to be computed when it is drawn from; its keys and values go into the cache.

        Args:
            batch: What to compute.
            drawn: Where its tokens come from that are not known yet.

        Returns:
            What :meth:`draw` takes, before any page is copied: of a GPU logits on the device, which it may not have
            computed yet, for it does what it is asked for in order, and copies of pages too.
        """
        if drawn is not None and self._gatherer is None:
            raise ValueError("the model was made without overlap, so it takes no tokens from the step before")
        with self._model.device.explaining(f"compute a step of {len(batch.token_ids)} tokens"):
            token_ids = self._gatherer.token_ids(batch.token_ids, drawn) if self._gatherer and drawn else None
            if self._decodes is None:
                return NotedStep(batch, token_ids)
            if is_decode(batch):
                self._model.check(batch, self.cache)
                return self._decodes.step(batch, token_ids)
            return self._model.step(batch, self.cache, token_ids)

    def draw(self, step: Buffer | NotedStep, rows: list[SamplingRow]) -> Drawn:
        """Draws a token from each row of what :meth:`forward` gave; what was drawn before must have been read."""
        if isinstance(step, NotedStep):
            return self._model.drawn_step(step.batch, self.cache, rows, step.token_ids)
        with self._model.device.explaining(f"draw {len(rows)} tokens"):
            return self._model.draw(step, rows)

    def _warm_up(self, batch: RaggedBatch) -> None:
        """Does what takes long when it is done first: MAX then maps all of a GPU's memory that it manages, so as to
        capture, takes page-locked memory, and loads kernels.
        """
        drawn = self.draw(self.forward(batch), [SamplingRow(SamplingParams(), seed=0, index=0)])
        if self._gatherer is not None:
            assert drawn.tokens is not None
            self.forward(batch, DrawnTokens(drawn.tokens, np.zeros(1, np.int32)))
        drawn.read()

    def ready_page(self, reached: int) -> bool:
        """Takes memory for one of the pages that come after the first ``reached``; False where none is needed soon."""
        return self._pages.ready(reached)

    def copy_page(self, source: int, target: int) -> None:
        """Copies a page, every layer of it."""
        self._pages.copy(source, target)

    def swap_out(self, page: int, slot: int) -> None:
        """Copies a page to a slot of the swap space."""
        self._pages.swap_out(page, slot)

    def swap_in(self, slot: int, page: int) -> None:
        """Copies it back."""
        self._pages.swap_in(slot, page)
