"""What the engine costs beside the model: scheduling, pages and bookkeeping per step, and what of it overlap hides.

    python tests/performance/benchmark_scheduler.py [--batch 64] [--context 512] [--device-ms 3] [--json]

Runs the real engine on a model that answers every step at once, so that every microsecond is the engine's own, and then
on one whose device takes a given time for each step, as a GPU would, without overlap and with it.
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


class DeviceModel:
    """Tokens after a time that passes on a device of its own; the batch is checked as a real model would.

    Args:
        pages: Of the KV cache.
        seconds: Of each step, which begins when it is launched and the one before has ended.
    """

    config = CONFIG

    def __init__(self, pages: int, seconds: float) -> None:
        self._pages = pages
        self._seconds = seconds
        self._done = 0.0

    def forward(self, batch: RaggedBatch, drawn: DrawnTokens | None = None) -> None:
        batch.check(VOCAB, self._pages, PAGE)
        self._done = max(self._done, time.perf_counter()) + self._seconds

    def draw(self, logits: None, rows: list[SamplingRow]) -> MockDraws:
        done = self._done

        def wait() -> None:
            while time.perf_counter() < done:
                pass

        return MockDraws(wait, [0] * len(rows), [SampledToken(0, None, [])] * len(rows))

    def ready_page(self, reached: int) -> bool:
        return False

    def copy_page(self, source: int, target: int) -> None:
        raise AssertionError("no request forks here")


def ms_per_step(options: argparse.Namespace, device_ms: float, overlap: bool) -> float:
    """The wall time of a decode step of the whole batch."""
    pages = options.batch * (-(-(options.context + options.steps) // PAGE))
    cache = CacheManager(pages, PAGE)
    config = SchedulerConfig(token_budget=1 << 20, max_running=options.batch)
    scheduler = ContinuousBatchScheduler(config, cache, time.monotonic)
    engine = InferenceEngine(DeviceModel(pages, device_ms / 1e3), scheduler, cache, None, overlap=overlap)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, VOCAB, (options.batch, options.context)).tolist()
    engine.generate_batch(prompts, GenerationParams(max_tokens=options.steps, ignore_eos=True))
    engine.shutdown()
    between = engine.request_stats.inter_token_latency
    return between.sum / between.count * 1e3


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--device-ms", type=float, default=3.0, help="what a step takes on the device")
    parser.add_argument("--rounds", type=int, default=3, help="of each, the fastest counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    figures = {"batch": options.batch, "context": options.context, "device_ms": options.device_ms}
    runs = {"overhead_ms_per_step": (0.0, False), "step_ms": (options.device_ms, False)}
    runs["overlapped_step_ms"] = (options.device_ms, True)
    for name in runs:
        figures[name] = min(ms_per_step(options, *runs[name]) for _ in range(options.rounds))
    figures["hidden_ms"] = figures["step_ms"] - figures["overlapped_step_ms"]
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
