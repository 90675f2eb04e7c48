"""Decodes on a GPU, captured: a step of one token per request is one launch instead of hundreds.

A capture has fixed sizes, so batches are filled up to the next power of two of requests and of pages per request. What
fills them up is one token at position 0 of a page of its own, which nobody reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from max.driver import Buffer
from numpy.typing import NDArray

from python_layer.model.batch import RaggedBatch
from python_layer.model.device_arrays import staged, views

MOST_REQUESTS = 256
"""Larger batches are not captured: their steps take longer than their launches."""
MOST_ROWS = 512
"""Rows of logits that captures have together: each keeps its own, of 0.6 MB a row, and what a step needs beside."""


@dataclass(frozen=True)
class Capture:
    """A captured step.

    Attributes:
        key: Its number.
        arrays: The batch, as :func:`~python_layer.model.device_arrays.staged` lays it out; what it reads, in place.
        inputs: The cache, and the batch's arrays in ``arrays``.
        logits: What it writes, [requests, vocab_size].
    """

    key: int
    arrays: Buffer
    inputs: list[Buffer]
    logits: Buffer


class CapturedDecodes:
    """Runs batches of decodes on one KV cache; a size is captured when it is met, and let go when long unused.

    Args:
        model: The compiled model, with its weights.
        cache: The KV cache.
        spare_page: A page of it that belongs to no request.
        device: The driver's device.
        keys: Numbers for captures: those of one compiled model must differ, whichever cache they are for.
    """

    def __init__(self, model: Any, cache: Buffer, spare_page: int, device: Any, keys: Iterator[int]) -> None:
        self._model = model
        self._cache = cache
        self._spare_page = spare_page
        self._device = device
        self._keys = keys
        self._captures: dict[tuple[int, int], Capture] = {}
        """By their sizes, the last used one last."""

    def step(self, batch: RaggedBatch, token_ids: Buffer | None = None) -> Buffer:
        """Runs a batch that :func:`is_decode` and that was checked.

        Args:
            batch: The batch.
            token_ids: Its token ids on the device, int32 [requests], where the batch does not have them all.

        Returns:
            Logits [requests, vocab_size] on the device, which the next step of this size overwrites.
        """
        requests, pages = batch.page_table.shape
        size = (power_of_two_from(requests), power_of_two_from(pages))
        arrays = filled_up(batch, *size, self._spare_page)
        block = staged(arrays, self._device)
        capture = self._captures.pop(size, None)
        if capture is None:
            self._make_room(size[0])
            there = Buffer(block.dtype, block.shape, self._device)
            there.inplace_copy_from(block)
            inputs, key = [self._cache, *views(there, arrays)], next(self._keys)
            (logits,) = self._model.capture(key, *inputs)
            capture = Capture(key, there, inputs, logits)
        else:
            capture.arrays.inplace_copy_from(block)
        self._captures[size] = capture
        if token_ids is not None:
            capture.inputs[1][:requests].inplace_copy_from(token_ids)
        self._model.replay(capture.key, *capture.inputs)
        return capture.logits[:requests, :]

    def _make_room(self, rows: int) -> None:
        """Lets the longest unused captures go until there are at most MOST_ROWS rows of logits with these."""
        kept = sum(requests for requests, _ in self._captures)
        while self._captures and kept + rows > MOST_ROWS:
            oldest = next(iter(self._captures))
            self._model.release_captured_graph(self._captures.pop(oldest).key)
            kept -= oldest[0]


def is_decode(batch: RaggedBatch) -> bool:
    """Whether a batch is one token of each of its requests, with the logits of each."""
    requests = len(batch.page_table)
    return (
        len(batch.token_ids) == requests <= MOST_REQUESTS
        and len(batch.logit_rows) == requests
        and bool((batch.logit_rows == np.arange(requests)).all())
    )


def power_of_two_from(number: int) -> int:
    """The least power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()


def filled_up(batch: RaggedBatch, requests: int, pages: int, spare_page: int) -> list[NDArray[np.int32]]:
    """The arrays of a batch of decodes with more requests and a wider page table.

    Args:
        batch: The batch.
        requests: As many as it has, or more.
        pages: Pages per request, likewise.
        spare_page: Where the tokens that fill it up belong.
    """
    given, used = batch.page_table.shape
    tokens, positions = np.zeros((2, requests), np.int32)
    tokens[:given], positions[:given] = batch.token_ids, batch.positions
    table = np.full((requests, pages), spare_page, np.int32)
    table[:given, :used] = batch.page_table
    rows = np.arange(requests + 1, dtype=np.int32)
    return [tokens, positions, rows, table, rows[:-1].copy()]
