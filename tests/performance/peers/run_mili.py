"""Measures MILI through its engine; the variant is what ``--quantization`` is set to."""

import json

import workload

from python_layer.inference.build import build_engine
from python_layer.model.loading import load_model
from python_layer.utils.errors import MiliError
from python_layer.utils.settings import Settings, load_settings
from tests.performance.engine_run import EngineRuns


class Mili:
    """The engine, without the HTTP server, greedy; prompts are new each time, so nothing is found in its cache."""

    def __init__(self, settings: Settings) -> None:
        model = load_model(settings)
        self.weight_bytes = model.weight_bytes
        self._model = model
        self._engine = build_engine(model, settings)
        self._runs = EngineRuns(self._engine)

    def first_token(self, prompt: list[int]) -> float:
        return self._runs.generate([prompt], 1).first

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        arrivals = self._runs.generate(prompts, 1 + tokens)
        return arrivals.ended - arrivals.first

    def settle(self) -> None:
        self._model.settle_weights()

    def close(self) -> None:
        self._engine.shutdown()


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
