"""Measures OpenVINO GenAI; runs in the environment that has it. The variant is the precision of its arithmetic."""

from pathlib import Path
from time import perf_counter

import numpy as np
import openvino
import openvino_genai
import workload


class OpenVino:
    """Its ``LLMPipeline``, greedy."""

    def __init__(self, model: str, precision: str, threads: int) -> None:
        wanted = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        self._pipeline = openvino_genai.LLMPipeline(model, "CPU", **wanted)
        self.weight_bytes = Path(model, "openvino_model.bin").stat().st_size

    def first_token(self, prompt: list[int]) -> float:
        return self._generate([prompt], 1)

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        first = self._generate(prompts, 1)
        return self._generate(prompts, 1 + tokens) - first

    def settle(self) -> None:
        pass

    def _generate(self, prompts: list[list[int]], tokens: int) -> float:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
        ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        started = perf_counter()
        result = self._pipeline.generate(inputs, config)
        took = perf_counter() - started
        assert [len(answer) for answer in result.tokens] == [tokens] * len(prompts)
        return took


if __name__ == "__main__":
    given = workload.options()
    workload.measure(OpenVino(given.model, given.variant, given.threads), given)
