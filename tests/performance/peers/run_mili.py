"""Measures MILI through its engine; the variant is what ``--quantization`` is set to."""

import json
import threading
from time import perf_counter

import workload

from python_layer.inference.build import build_engine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.model.loading import load_model
from python_layer.utils.errors import MiliError
from python_layer.utils.settings import Settings, load_settings


class Mili:
    """The engine, without the HTTP server, greedy; prompts are new each time, so nothing is found in its cache."""

    def __init__(self, settings: Settings) -> None:
        model = load_model(settings)
        self.weight_bytes = model.weight_bytes
        self._engine = build_engine(model, settings)
        self._asked = 0

    def first_token(self, prompt: list[int]) -> float:
        return self._generate([prompt], 1)[0]

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        first, last = self._generate(prompts, 1 + tokens)
        return last - first

    def close(self) -> None:
        self._engine.shutdown()

    def _generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, float]:
        """Seconds to the last of the first tokens, and to the end."""
        firsts: dict[str, float] = {}
        done = threading.Semaphore(0)
        errors = []

        def sink(output: Output) -> None:
            if output.tokens:
                firsts.setdefault(output.request_id, perf_counter())
            if output.finish_reason:
                errors.append(output.error)
                done.release()

        started = perf_counter()
        for prompt in prompts:
            self._asked += 1
            params = GenerationParams(max_tokens=tokens, ignore_eos=True)
            self._engine.submit(Request(str(self._asked), prompt, params), sink)
        for _ in prompts:
            done.acquire()
        ended = perf_counter()
        assert not any(errors), errors
        return max(firsts.values()) - started, ended - started


def variant_settings(model: str, threads: int, variant: str) -> Settings:
    """The settings of a variant.

    Raises:
        ConfigError: This version of MILI has no such variant.
    """
    quantized = {} if variant == "none" else {"quantization": variant}
    # Room for 16 requests and the longest prompt: what more the KV cache may take is never written.
    return load_settings({"model": model, "threads": threads, "kv_cache_memory": 2.0, **quantized})


if __name__ == "__main__":
    given = workload.options()
    try:
        system = Mili(variant_settings(given.model, given.threads, given.variant))
    except MiliError as error:
        print(json.dumps({"unavailable": f"{error}".split("; known keys")[0]}))
    else:
        workload.measure(system, given)
        system.close()
