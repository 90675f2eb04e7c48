"""What the engine costs beside the model: scheduling, pages and bookkeeping per step, on a model that costs nothing.

    python tests/performance/benchmark_scheduler.py [--batch 64] [--context 512] [--json]

Runs the real engine on a model that answers every step at once, so that every microsecond is the engine's own.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for the tests' mock model

import numpy as np

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig
from python_layer.model.batch import RaggedBatch
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.sampler import SampledToken, SamplingRow
from tests.unit.inference.mock_model import CONFIG, VOCAB, MockDraws

PAGE = 16


class InstantModel:
    """Logits at once; the batch is checked as a real model would."""

    config = CONFIG

    def __init__(self, pages: int) -> None:
        self._pages = pages

    def forward(self, batch: RaggedBatch, drawn: DrawnTokens | None = None) -> None:
        batch.check(VOCAB, self._pages, PAGE)

    def draw(self, logits: None, rows: list[SamplingRow]) -> MockDraws:
        return MockDraws(lambda: None, [0] * len(rows), [SampledToken(0, None, [])] * len(rows))

    def copy_page(self, source: int, target: int) -> None:
        raise AssertionError("no request forks here")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    pages = options.batch * (-(-(options.context + options.steps) // PAGE))
    cache = CacheManager(pages, PAGE)
    config = SchedulerConfig(token_budget=1 << 20, max_running=options.batch)
    engine = InferenceEngine(InstantModel(pages), ContinuousBatchScheduler(config, cache, time.monotonic), cache, None)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, VOCAB, (options.batch, options.context)).tolist()
    engine.generate_batch(prompts, GenerationParams(max_tokens=options.steps, ignore_eos=True))
    stats = engine.stats()
    engine.shutdown()
    seconds = stats.overhead_seconds + stats.model_seconds
    figures = {"batch": options.batch, "context": options.context, "steps": stats.steps}
    figures["overhead_ms_per_step"] = seconds / stats.steps * 1e3
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
