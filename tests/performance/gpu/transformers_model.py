"""Hugging Face transformers with a static cache, eager and compiled (on a GPU: as CUDA graphs)."""

import time
from pathlib import Path
from typing import Any

from tests.performance.gpu.contest import UnavailableError
from tests.performance.gpu.torch_ops import INSTALL, TorchPlace


class TransformersModel:
    """A checkpoint in transformers, greedy, on random prompts.

    Args:
        folder: The checkpoint.
        place: PyTorch's device.

    Raises:
        UnavailableError: transformers is not installed.
    """

    def __init__(self, folder: Path, place: TorchPlace) -> None:
        try:
            from transformers import AutoModelForCausalLM, StaticCache
        except ImportError:
            raise UnavailableError(INSTALL) from None
        self._place, self._torch, self._cache_type = place, place.torch, StaticCache
        dtype = self._torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        self._model = model.to(place.device).eval()
        self._compiled = self._torch.compile(self._model.forward, mode="reduce-overhead", dynamic=False)
        self._caches: dict[tuple[int, int], Any] = {}

    def prefill(self, length: int) -> float:
        """Seconds for a prompt, to its last token's logits."""
        return self._begin(1, length, length + 1)[1]

    def decode(self, requests: int, context: int, new: int, compiled: bool) -> float:
        """Seconds of a step, the mean of ``new``, after prompts of ``context`` tokens."""
        last, _ = self._begin(requests, context, context + new + 1)
        return self._go_on(last, context, new, context + new + 1, compiled) / new

    def answer(self, context: int, new: int, compiled: bool) -> float:
        """Seconds for a prompt and ``new`` tokens."""
        last, took = self._begin(1, context, context + new + 1)
        return took + self._go_on(last, context, new - 1, context + new + 1, compiled)

    def close(self) -> None:
        """Gives its memory back."""
        del self._model, self._compiled, self._caches
        self._torch.compiler.reset()
        if self._place.device.type == "cuda":
            self._torch.cuda.empty_cache()

    def tokens(self, ids: Any, new: int, compiled: bool) -> Any:
        """The answer to prompts of ids [requests, length]: [requests, new]; for tests."""
        room = ids.shape[1] + new
        tokens = [self._prefill(ids, room)]
        for position in range(ids.shape[1], room - 1):
            tokens.append(self._step(tokens[-1], position, room, compiled))
        return self._torch.cat(tokens, 1)

    def _begin(self, requests: int, length: int, room: int) -> tuple[Any, float]:
        """Prefills random prompts into a cache for so many positions: the next tokens, and the seconds it took."""
        shape = (requests, length)
        ids = self._torch.randint(self._model.config.vocab_size, shape, device=self._place.device)
        self._place.synchronize()
        started = time.perf_counter()
        last = self._prefill(ids, room)
        self._place.synchronize()
        return last, time.perf_counter() - started

    def _go_on(self, last: Any, position: int, steps: int, room: int, compiled: bool) -> float:
        """Seconds of so many steps."""
        started = time.perf_counter()
        for _ in range(steps):
            last = self._step(last, position, room, compiled)
            position += 1
        self._place.synchronize()
        return time.perf_counter() - started

    def _prefill(self, ids: Any, room: int) -> Any:
        key = (len(ids), room)
        if key not in self._caches:
            self._caches[key] = self._cache_type(config=self._model.config, max_cache_len=room)
        cache = self._caches[key]
        with self._torch.inference_mode():
            cache.reset()
            return self._next(self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1))

    def _step(self, last: Any, position: int, room: int, compiled: bool) -> Any:
        forward = self._compiled if compiled else self._model.forward
        positions = self._torch.full((len(last), 1), position, device=self._place.device)
        if compiled:
            self._torch.compiler.cudagraph_mark_step_begin()
        with self._torch.inference_mode():
            cache = self._caches[len(last), room]
            return self._next(forward(last, past_key_values=cache, position_ids=positions, use_cache=True))

    def _next(self, output: Any) -> Any:
        """The likeliest tokens, [requests, 1], in memory of their own."""
        return output.logits[:, -1].argmax(-1, keepdim=True).clone()
