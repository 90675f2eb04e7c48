"""A model together with the one KV cache it serves all requests from."""

from max.driver import Buffer

from python_layer.model.batch import RaggedBatch
from python_layer.model.config import Qwen3Config
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampler import SampledToken, SamplingRow


class PagedModel:
    """Runs steps on its own pages.

    Args:
        model: Computes.
        pages: Pages of the KV cache; their memory is taken as they are first written.
        swap_slots: Pages of the swap space, likewise.
    """

    def __init__(self, model: Qwen3Model, pages: int, swap_slots: int = 0) -> None:
        self._model = model
        self._swap, _ = model.layout.allocate_with_memory(max(1, swap_slots))
        self._memory, self._cache = model.layout.allocate_with_memory(pages)

    @property
    def config(self) -> Qwen3Config:
        """The model's configuration."""
        return self._model.config

    @property
    def cache(self) -> Buffer:
        """The KV cache."""
        return self._cache

    def step(self, batch: RaggedBatch, rows: list[SamplingRow]) -> list[SampledToken]:
        """Computes a batch, whose keys and values go into the cache, and samples from its wanted rows' logits."""
        return self._model.sampler.sample(self._model.step(batch, self._cache), rows)

    def copy_page(self, source: int, target: int) -> None:
        """Copies a page, every layer of it."""
        self._memory[target] = self._memory[source]

    def swap_out(self, page: int, slot: int) -> None:
        """Copies a page to a slot of the swap space."""
        self._swap[slot] = self._memory[page]

    def swap_in(self, slot: int, page: int) -> None:
        """Copies it back."""
        self._memory[page] = self._swap[slot]
