"""A model together with the one KV cache it serves all requests from."""

import numpy as np
from max.driver import Buffer
from numpy.typing import NDArray

from python_layer.model.batch import RaggedBatch
from python_layer.model.config import Qwen3Config
from python_layer.model.qwen3_model import Qwen3Model


class PagedModel:
    """Runs steps on its own pages.

    Args:
        model: Computes.
        pages: Pages of the KV cache; their memory is taken as they are first written.
    """

    def __init__(self, model: Qwen3Model, pages: int) -> None:
        self._model = model
        self._memory, self._cache = model.layout.allocate_with_memory(pages)

    @property
    def config(self) -> Qwen3Config:
        """The model's configuration."""
        return self._model.config

    @property
    def cache(self) -> Buffer:
        """The KV cache."""
        return self._cache

    def step(self, batch: RaggedBatch) -> NDArray[np.float32]:
        """Logits [R, vocab_size] of the batch's wanted rows; its keys and values go into the cache."""
        return self._model.forward(batch, self._cache)

    def copy_page(self, source: int, target: int) -> None:
        """Copies a page, every layer of it."""
        self._memory[target] = self._memory[source]
