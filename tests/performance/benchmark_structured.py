"""What structured output costs: answers under a JSON schema beside free ones, and the work per mask.

    python tests/performance/benchmark_structured.py --model DIR [--json]

Both kinds are generated in turn, several times; figures are medians.
"""

import argparse
import json
import statistics
import time

import numpy as np

from python_layer.inference.build import build_engine
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.grammar import GrammarCompiler, from_json_schema
from python_layer.inference.guide import Guide, GuideState
from python_layer.inference.params import GenerationParams
from python_layer.model.loading import load_model
from python_layer.model.sampling import SamplingParams
from python_layer.utils.settings import load_settings

PROMPT, NEW = 32, 64

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "kind": {"enum": ["a", "b", "c"]}},
    "required": ["name", "count", "kind"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": ITEM, "minItems": 1000}
"""Too long to be finished, so that every answer has all its tokens."""


def tokens_per_second(engine: InferenceEngine, prompts: list[list[int]], guide: Guide | None) -> float:
    # At a temperature, so that random weights do not repeat one token within a string.
    params = GenerationParams(SamplingParams(1.0, seed=0), max_tokens=NEW, ignore_eos=True, guide=guide)
    started = time.perf_counter()
    answers = engine.generate_batch(prompts, params)
    return sum(len(answer.tokens) for [answer] in answers) / (time.perf_counter() - started)


def mask_microseconds(guide: Guide, rng: np.random.Generator) -> float:
    """Time to compute a mask and go on with one of its tokens."""
    state, spent = GuideState(guide), []
    for _ in range(200):
        started = time.perf_counter()
        mask = state.next()
        spent.append(time.perf_counter() - started)
        assert isinstance(mask, np.ndarray)
        choices = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        state.take(int(rng.choice(choices)))
    return statistics.mean(spent) * 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: models/mili-tiny")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    model = load_model(load_settings({"model": options.model}))
    model.settle_weights()
    if model.tokenizer is None:
        parser.error("the model needs a tokenizer")
    config = model.config
    engine = build_engine(model, load_settings({"prefix_caching": False}))
    rng = np.random.default_rng(0)

    compiler = GrammarCompiler(model.tokenizer, config.vocab_size, config.eos_token_ids)
    compiler.compile(from_json_schema({"const": 1}), "json")  # the tokenizer's tables are made once
    started = time.perf_counter()
    grammar = compiler.compile(from_json_schema(SCHEMA), "json")
    compiled = time.perf_counter() - started
    guide = Guide(config.vocab_size, config.eos_token_ids, grammar)

    prompts = rng.integers(0, config.vocab_size, (options.requests, PROMPT)).tolist()
    free, guided = [], []
    tokens_per_second(engine, prompts, guide)  # warm up
    for _ in range(options.repeats):
        free.append(tokens_per_second(engine, prompts, None))
        guided.append(tokens_per_second(engine, prompts, guide))
    engine.shutdown()
    figures = {
        "tokens_per_s_free": statistics.median(free),
        "tokens_per_s_guided": statistics.median(guided),
        "ratio": statistics.median(g / f for g, f in zip(guided, free, strict=True)),
        "compile_ms": compiled * 1e3,
        "mask_us": mask_microseconds(guide, rng),
    }
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value:10.3f}")


if __name__ == "__main__":
    main()
