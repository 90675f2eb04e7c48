"""One step of a compiled model: arrays to the device, logits and drawn tokens from it."""

from collections.abc import Sequence
from typing import Any

from max.driver import Buffer

from python_layer.model.batch import RaggedBatch
from python_layer.model.device import ComputeDevice
from python_layer.model.device_arrays import on_device
from python_layer.model.host_copies import HostCopies
from python_layer.model.sampler import Drawn, Sampler, SamplingRow, sampler_inputs


class StepRunner:
    """Runs a model's graph on batches that were checked.

    Args:
        compiled: The graph, with its weights.
        device: Where it runs.
        vocab: Size of the vocabulary.
        sampler: Draws from its logits; None if the graph itself does.
    """

    def __init__(self, compiled: Any, device: ComputeDevice, vocab: int, sampler: Sampler | None) -> None:
        self._compiled = compiled
        self._device = device.open()
        self._vocab = vocab
        self._sampler = sampler
        self._copies = HostCopies(self._device, staged=False)  # a sampler has its own

    def step(self, batch: RaggedBatch, cache: Buffer, token_ids: Buffer | None = None) -> Buffer:
        """As :meth:`~python_layer.model.qwen3_model.Qwen3Model.step`."""
        return self._execute(batch, cache, token_ids, ())[0]

    def drawn_step(
        self, batch: RaggedBatch, cache: Buffer, rows: Sequence[SamplingRow], token_ids: Buffer | None = None
    ) -> Drawn:
        """As :meth:`~python_layer.model.qwen3_model.Qwen3Model.drawn_step`."""
        if len(rows) != len(batch.logit_rows):
            raise ValueError(f"{len(rows)} tokens can't be drawn from {len(batch.logit_rows)} rows of logits")
        logits, *drawn = self._execute(batch, cache, token_ids, rows)
        return Drawn.of(rows, self._vocab, drawn, self._copies) if self._sampler is None else self.draw(logits, rows)

    def draw(self, logits: Buffer, rows: Sequence[SamplingRow]) -> Drawn:
        """As :meth:`~python_layer.model.qwen3_model.Qwen3Model.draw`."""
        if self._sampler is None:
            raise ValueError("the model's graph draws tokens itself, within a step")
        return self._sampler.draw(logits, rows)

    def _execute(
        self, batch: RaggedBatch, cache: Buffer, token_ids: Buffer | None, rows: Sequence[SamplingRow]
    ) -> list[Buffer]:
        arrays = [batch.token_ids, batch.positions, batch.row_offsets, batch.page_table, batch.logit_rows]
        drawing = sampler_inputs(rows, self._vocab) if self._sampler is None else ()
        ids, *inputs = on_device([*arrays, *drawing], self._device)
        outputs: list[Buffer] = self._compiled.execute(cache, ids if token_ids is None else token_ids, *inputs)
        return outputs
