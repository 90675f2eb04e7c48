"""Measures Hugging Face transformers; runs in the environment that has it. The variant is torch's dtype."""

import time

import torch
import workload
from transformers import AutoModelForCausalLM


class Transformers:
    """transformers' own ``generate``, greedy."""

    def __init__(self, model: str, dtype: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.weight_bytes = sum(p.numel() * p.element_size() for p in self._model.parameters())

    def first_token(self, prompt: list[int]) -> float:
        return self._generate([prompt], 1)

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        first = self._generate(prompts, 1)
        return self._generate(prompts, 1 + tokens) - first

    def settle(self) -> None:
        pass

    def _generate(self, prompts: list[list[int]], tokens: int) -> float:
        ids = torch.tensor(prompts)
        started = time.perf_counter()
        out = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        took = time.perf_counter() - started
        assert out.shape == (len(prompts), len(prompts[0]) + tokens)
        return took


if __name__ == "__main__":
    given = workload.options()
    torch.set_num_threads(given.threads)
    with torch.inference_mode():
        workload.measure(Transformers(given.model, given.variant), given)
