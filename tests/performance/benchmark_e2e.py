"""Prefill and decode of a whole model, next to what the machine allows.

    python tests/performance/benchmark_e2e.py --model DIR --prompt-tokens 512 --new-tokens 128 --batch 1 [--json]

Decode is bound by reading the weights: bandwidth / bytes of weights, times the batch. Prefill is bound by
arithmetic: FLOP/s / (2 x parameters), counting the matrices every token passes through. Both limits are
measured in the same run. Rates are medians of several repeats; the prompt is random token ids.
"""

import argparse
import json
import resource
import statistics
import time
from dataclasses import dataclass

import numpy as np
from machine import MachineLimits, measure_limits

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.generation import PREFILL_CHUNK
from python_layer.model.loading import load_model
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.settings import load_settings


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: until the first token of all requests, and for the tokens after it."""

    prefill: float
    decode: float


def run_once(model: Qwen3Model, prompts: np.ndarray, new_tokens: int) -> Timing:
    """Prefills the prompts [batch, tokens] one after the other, then decodes them together, greedily."""
    batch, length = prompts.shape
    pages = model.layout.pages_for(length + new_tokens)
    cache = model.layout.allocate(batch * pages)
    owned = [range(b * pages, (b + 1) * pages) for b in range(batch)]
    started = time.perf_counter()
    last = []
    for b in range(batch):
        for start in range(0, length, PREFILL_CHUNK):
            rows = RequestRows(prompts[b, start : start + PREFILL_CHUNK].tolist(), start, owned[b])
            logits = model.forward(RaggedBatch.of([rows]), cache)
        last.append(int(logits[0].argmax()))
    prefilled = time.perf_counter()
    for step in range(new_tokens - 1):
        rows = [RequestRows([token], length + step, owned[b]) for b, token in enumerate(last)]
        last = model.forward(RaggedBatch.of(rows), cache).argmax(1).tolist()
    return Timing(prefilled - started, time.perf_counter() - prefilled)


def measure(model: Qwen3Model, options: argparse.Namespace, limits: MachineLimits) -> dict[str, object]:
    """The figures, as they are printed."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, model.config.vocab_size, (options.batch, options.prompt_tokens))
    run_once(model, prompts[:, :32], 4)  # warm up
    timings = [run_once(model, prompts, options.new_tokens) for _ in range(options.repeats)]
    prefill = options.batch * options.prompt_tokens / statistics.median(t.prefill for t in timings)
    decode_s = statistics.median(t.decode for t in timings)
    decode = options.batch * (options.new_tokens - 1) / decode_s if options.new_tokens > 1 else None
    config = model.config
    embedding = config.vocab_size * config.hidden_size
    per_token = config.num_parameters - embedding * (1 if config.tie_word_embeddings else 2)
    rate = limits.rate("int8" if model.formats else model.compute_dtype)
    prefill_bound = rate / (2 * per_token)
    # The embedding is read row by row unless it is also the output projection.
    unread = 0 if config.tie_word_embeddings else embedding * model.weight_bytes / config.num_parameters
    decode_bound = options.batch * limits.bandwidth / (model.weight_bytes - unread)
    return {
        "model": model.name,
        "dtype": model.matrix_format,
        "isa": model.isa,
        "batch": options.batch,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "prefill_tokens_per_s": prefill,
        "prefill_bound_tokens_per_s": prefill_bound,
        "prefill_fraction": prefill / prefill_bound,
        "decode_tokens_per_s": decode,
        "decode_bound_tokens_per_s": decode_bound,
        "decode_fraction": decode / decode_bound if decode else None,
        "ttft_s": statistics.median(t.prefill for t in timings) / options.batch,
        "load_s": model.load_times.load_s,
        "compile_s": model.load_times.compile_s,
        "compile_cached": model.load_times.compile_cached,
        "start_s": model.load_times.total_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "weight_bytes": model.weight_bytes,
        "bandwidth_bytes_per_s": limits.bandwidth,
        "flops_per_s": rate,
    }


def main() -> None:
    """Parses the arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: models/mili-tiny")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--quantization", default=None)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    for name in ("prompt_tokens", "new_tokens", "batch", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    limits = measure_limits()
    model = load_model(load_settings({name: getattr(options, name) for name in ("model", "dtype", "quantization")}))
    model.settle_weights()
    needed, context = options.prompt_tokens + options.new_tokens, model.config.max_position_embeddings
    if needed > context:
        parser.error(f"{needed} tokens exceed the model's context of {context}")
    figures = measure(model, options, limits)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:,.3f}" if isinstance(value, float) else f"{name:28} {value}")


if __name__ == "__main__":
    main()
