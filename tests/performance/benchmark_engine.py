"""The engine under load: throughput of many requests over one, shared prefixes, and its own overhead.

    python tests/performance/benchmark_engine.py --model DIR [--json]

Each figure is the median of several repeats, taken in turn. Prompts are random token ids; answers are greedy.
"""

import argparse
import json
import statistics
import threading
import time

import numpy as np

from python_layer.inference.build import build_engine
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.model.loading import load_model
from python_layer.utils.settings import load_settings

PROMPT, NEW, PREFIX = 32, 64, 1000


def random_prompts(rng: np.random.Generator, vocab: int, count: int, length: int) -> list[list[int]]:
    return rng.integers(0, vocab, (count, length)).tolist()


def throughput(engine: InferenceEngine, prompts: list[list[int]]) -> float:
    """Generated tokens per second of all prompts together, from the first arrival to the last token."""
    started = time.perf_counter()
    engine.generate_batch(prompts, GenerationParams(max_tokens=NEW, ignore_eos=True))
    return len(prompts) * NEW / (time.perf_counter() - started)


def time_to_first_token(engine: InferenceEngine, prompt: list[int]) -> float:
    first, done = [0.0], threading.Event()

    def sink(output: Output) -> None:
        first[0] = first[0] or time.perf_counter()
        if output.finish_reason:
            done.set()

    started = time.perf_counter()
    engine.submit(Request(f"{started}", prompt, GenerationParams(max_tokens=1)), sink)
    done.wait()
    return first[0] - started


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: models/mili-tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    model = load_model(load_settings({"model": options.model}))
    model.settle_weights()
    engine = build_engine(model, load_settings({}))
    rng, vocab = np.random.default_rng(0), model.config.vocab_size

    throughput(engine, random_prompts(rng, vocab, 2, PROMPT))  # warm up
    rates: dict[int, list[float]] = {1: [], 8: [], 16: []}
    cold, warm = [], []
    for _ in range(options.repeats):
        for count, values in rates.items():
            values.append(throughput(engine, random_prompts(rng, vocab, count, PROMPT)))
        [prefix] = random_prompts(rng, vocab, 1, PREFIX)
        first, second = random_prompts(rng, vocab, 2, 8)
        cold.append(time_to_first_token(engine, [*prefix, *first]))
        warm.append(time_to_first_token(engine, [*prefix, *second]))
    stats = engine.stats()
    engine.shutdown()
    one = statistics.median(rates[1])
    figures = {f"tokens_per_s_{count}": statistics.median(values) for count, values in rates.items()}
    figures |= {f"ratio_{count}": statistics.median(rates[count]) / one for count in (8, 16)}
    figures |= {"prefix_ttft_cold_s": statistics.median(cold), "prefix_ttft_warm_s": statistics.median(warm)}
    figures["prefix_ttft_ratio"] = figures["prefix_ttft_warm_s"] / figures["prefix_ttft_cold_s"]
    figures["overhead_ms_per_step"] = stats.overhead_seconds / stats.steps * 1e3
    figures["overhead_share"] = stats.overhead_seconds / (stats.overhead_seconds + stats.model_seconds)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:10.3f}")


if __name__ == "__main__":
    main()
