"""Tokens and log-probabilities of a request are bit-identical whatever is computed beside it, and how.

Every request is first run alone on a fresh engine, whole and with a cold cache, and then in a crowd under
each condition: any batch, small chunks, a warm prefix cache, speculation, steps that overlap, and so few pages that
requests lose theirs.
"""

import os
import random

import pytest

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig
from python_layer.inference.swap_space import SwapSpace
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.paged_model import PagedModel
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampling import SamplingParams

REQUESTS = 200


@pytest.fixture(scope="module")
def model() -> Qwen3Model:
    chosen = os.environ.get("INVARIANCE_MODEL")
    return Qwen3Model.from_pretrained(chosen or DEFAULT_MODEL)


def engine_of(
    model: Qwen3Model,
    pages: int,
    prefix_caching: bool = True,
    speculation: int = 0,
    swap_slots: int = 0,
    overlap: bool = False,
    **config: int,
) -> InferenceEngine:
    cache = CacheManager(pages, model.layout.page_size, prefix_caching=prefix_caching)
    scheduler = ContinuousBatchScheduler(SchedulerConfig(**config), cache, lambda: 0.0, SwapSpace(swap_slots))
    paged = PagedModel(model, pages, swap_slots, overlap=overlap)
    return InferenceEngine(
        paged, scheduler, cache, model.tokenizer, speculation=speculation, overlap=overlap, debug=True
    )


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(0)
    shared = [[rng.randrange(256) for _ in range(length)] for length in (50, 100)]
    made = []
    for _ in range(REQUESTS):
        beginning = rng.choice([[], *shared])
        made.append([*beginning, *(rng.randrange(256) for _ in range(rng.randint(1, 60)))])
    return made


PARAMS = [
    GenerationParams(max_tokens=24, logprobs=3, ignore_eos=True),
    GenerationParams(SamplingParams(0.8, top_p=0.9, seed=7), max_tokens=24, logprobs=3, ignore_eos=True),
]


@pytest.fixture(scope="module", params=PARAMS, ids=["greedy", "sampled"])
def params(request: pytest.FixtureRequest) -> GenerationParams:
    return request.param


@pytest.fixture(scope="module")
def alone(model: Qwen3Model, prompts: list[list[int]], params: GenerationParams) -> list[Output]:
    engine = engine_of(model, 40, prefix_caching=False)
    answers = [engine.generate_batch([prompt], params)[0][0] for prompt in prompts]
    engine.shutdown()
    return answers


CONDITIONS = {
    "together": {"pages": 2000, "token_budget": 4096, "max_running": 64},
    "small chunks": {"pages": 2000, "token_budget": 13, "max_running": 64},
    "no prefix cache": {"pages": 2000, "prefix_caching": False, "max_running": 7},
    "speculation": {"pages": 2000, "max_running": 16, "speculation": 4},
    "few pages and overlap": {"pages": 40, "token_budget": 100, "max_running": 64, "swap_slots": 50, "overlap": True},
    "few pages": {"pages": 40, "token_budget": 100, "max_running": 64},
    "few pages and a swap space": {"pages": 40, "token_budget": 100, "max_running": 64, "swap_slots": 100},
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_nothing_beside_a_request_changes_a_bit_of_it(
    model: Qwen3Model, prompts: list[list[int]], params: GenerationParams, alone: list[Output], condition: str
) -> None:
    engine = engine_of(model, **CONDITIONS[condition])
    for _ in range(2):  # the second time, the prefix cache is warm
        together = [answers[0] for answers in engine.generate_batch(prompts, params)]
        for one, other in zip(alone, together, strict=True):
            assert one.tokens == other.tokens
            assert one.logprobs == other.logprobs
            assert one.text == other.text
    stats = engine.stats()
    engine.shutdown()
    assert (stats.drafted_tokens > 0) <= (condition == "speculation")
    if condition == "speculation" and params.sampling.temperature == 0:
        assert stats.accepted_tokens > 0
    assert (stats.preemptions > 0) == condition.startswith("few pages")
    assert (stats.prefix_hits > 0) == (condition != "no prefix cache")


def test_one_request_at_a_time_is_the_same_too(
    model: Qwen3Model, prompts: list[list[int]], params: GenerationParams, alone: list[Output]
) -> None:
    """The model's own loop, with a cache for each request."""
    for prompt, answer in list(zip(prompts, alone, strict=True))[:10]:
        sampling = params.sampling
        result = model.generate(
            prompt,
            max_tokens=24,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            logprobs=3,
            ignore_eos=True,
        )
        assert result.tokens == answer.tokens
        assert answer.logprobs is not None
        assert result.logprobs == [entry.logprob for entry in answer.logprobs]
