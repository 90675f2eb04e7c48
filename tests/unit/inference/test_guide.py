"""What answers must follow: thoughts and their budget, calls, grammars; on the embedded model's tokenizer."""

import dataclasses

import numpy as np
import pytest

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.grammar import Grammar, GrammarCompiler, from_choice, from_functions, from_regex
from python_layer.inference.guide import Calls, Choice, Guide, GuideState, Thoughts
from python_layer.inference.params import GenerationParams
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig
from python_layer.inference.swap_space import SwapSpace
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.paged_model import PagedModel
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampling import SamplingParams
from python_layer.tokenizer import QwenTokenizer
from python_layer.utils.errors import InvalidRequestError


@pytest.fixture(scope="module")
def model() -> Qwen3Model:
    return Qwen3Model.from_pretrained(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def tokenizer(model: Qwen3Model) -> QwenTokenizer:
    assert model.tokenizer is not None
    return model.tokenizer


@pytest.fixture(scope="module")
def compiler(model: Qwen3Model, tokenizer: QwenTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, model.config.vocab_size, model.config.eos_token_ids)


@pytest.fixture
def free(model: Qwen3Model) -> Guide:
    return Guide(model.config.vocab_size, model.config.eos_token_ids)


def thoughts(tokenizer: QwenTokenizer, *, open: bool = False, budget: int | None = None) -> Thoughts:
    start, end = tokenizer.token_to_id("<think>"), tokenizer.token_to_id("</think>")
    assert start is not None
    assert end is not None
    gap = tokenizer.encode("\n\n")
    return Thoughts(start, end, open, (*tokenizer.encode("\n"), end, *gap), tuple(gap), budget)


def allowed(choice: Choice, vocab: int = 2048) -> set[int]:
    """The tokens that may come next."""
    if choice is None:
        return set(range(vocab))
    if isinstance(choice, int):
        return {choice}
    return set(np.flatnonzero(np.unpackbits(choice.view(np.uint8), bitorder="little")[:vocab]).tolist())


def test_thoughts_end_with_their_budget(tokenizer: QwenTokenizer, free: Guide) -> None:
    for opened in (False, True):
        own = thoughts(tokenizer, open=opened, budget=3)
        state = GuideState(dataclasses.replace(free, thoughts=own))
        if not opened:
            assert state.next() is None
            state.take(own.start)
        for token in (10, 11, 12):
            assert state.next() is None
            state.take(token)
        for token in own.cut:
            assert state.next() == token
            state.take(token)
        assert state.next() is None


def test_thoughts_that_end_in_time_are_left_alone(tokenizer: QwenTokenizer, free: Guide) -> None:
    own = thoughts(tokenizer, open=True, budget=3)
    state = GuideState(dataclasses.replace(free, thoughts=own))
    for token in (10, own.end, 11, 12, 13, own.start, 14, 15, 16, 17):
        assert state.next() is None
        state.take(token)


def test_an_answer_without_thoughts_has_no_budget(tokenizer: QwenTokenizer, free: Guide) -> None:
    state = GuideState(dataclasses.replace(free, thoughts=thoughts(tokenizer, budget=0)))
    for token in range(10, 20):
        assert state.next() is None
        state.take(token)


def test_a_grammar_begins_after_the_thoughts(tokenizer: QwenTokenizer, free: Guide, compiler: GrammarCompiler) -> None:
    own, grammar = thoughts(tokenizer), compiler.compile(from_choice(["yes", "no"]), "choice")
    state = GuideState(dataclasses.replace(free, grammar=grammar, thoughts=own))
    first = allowed(state.next())
    assert own.start in first
    assert {tokenizer.decode([t])[0] for t in first - {own.start}} == {"y", "n"}
    state.take(own.start)
    assert allowed(state.next()) == set(range(2048)) - set(free.endings)
    state.take(10)
    state.take(own.end)
    for token in own.gap:
        assert state.next() == token
        state.take(token)
    assert allowed(state.next()) == first - {own.start}
    for token in tokenizer.encode("no"):
        assert not state.finished
        assert token in allowed(state.next())
        state.take(token)
    assert state.finished
    assert not state.failure


def test_a_grammar_may_begin_at_once(tokenizer: QwenTokenizer, free: Guide, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(from_regex("a+b"), "regex")
    state = GuideState(dataclasses.replace(free, grammar=grammar, thoughts=thoughts(tokenizer)))
    [a] = tokenizer.encode("a")
    state.take(a)
    assert {tokenizer.decode([t])[0] for t in allowed(state.next())} == {"a", "b"}


def test_calls_in_free_text(tokenizer: QwenTokenizer, free: Guide, compiler: GrammarCompiler) -> None:
    start, end = tokenizer.token_to_id("<tool_call>"), tokenizer.token_to_id("</tool_call>")
    assert start is not None
    assert end is not None
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    grammar = compiler.compile(from_functions({"f": schema}, end), "tools")
    state = GuideState(dataclasses.replace(free, calls=Calls(start, grammar, most=1)))
    for token in tokenizer.encode("Let me see."):
        assert state.next() is None
        state.take(token)
    state.take(start)
    for token in tokenizer.encode('\n{"name": "f", "arguments": {"n": 2}}\n'):
        choices = allowed(state.next())
        assert token in choices
        assert len(choices) < 1000
        state.take(token)
    assert allowed(state.next()) == {end}
    state.take(end)
    assert allowed(state.next()) == set(range(2048)) - {start}
    assert not state.finished


def test_texts_of_a_choice_are_taken_literally(
    tokenizer: QwenTokenizer, compiler: GrammarCompiler, free: Guide
) -> None:
    for text in ("a b", 'say "hi"', "back\\slash", "line\nbreak", "Zürich 🙂", "[x]*", "<tool_call>", "{}"):
        grammar: Grammar = compiler.compile(from_choice([text, "other"]), "choice")
        state = GuideState(dataclasses.replace(free, grammar=grammar))
        for token in tokenizer.encode(text):
            assert token in allowed(state.next()), text
            state.take(token)
        assert state.finished, text


def test_min_tokens_contradict_a_grammar(compiler: GrammarCompiler, free: Guide) -> None:
    guide = dataclasses.replace(free, grammar=compiler.compile(from_regex("a"), "regex"))
    with pytest.raises(InvalidRequestError) as caught:
        GenerationParams(min_tokens=2, guide=guide)
    assert caught.value.param == "min_tokens"


def engine_of(model: Qwen3Model, pages: int = 200, speculation: int = 0, overlap: bool = False) -> InferenceEngine:
    cache = CacheManager(pages, model.layout.page_size)
    scheduler = ContinuousBatchScheduler(SchedulerConfig(), cache, lambda: 0.0, SwapSpace(0))
    return InferenceEngine(
        PagedModel(model, pages, overlap=overlap),
        scheduler,
        cache,
        model.tokenizer,
        speculation=speculation,
        overlap=overlap,
        debug=True,
    )


@pytest.mark.parametrize("changes", [{"pages": 12}, {"speculation": 4}, {"overlap": True}], ids=str)
def test_neighbours_preemption_and_speculation_change_nothing(
    model: Qwen3Model, tokenizer: QwenTokenizer, compiler: GrammarCompiler, free: Guide, changes: dict[str, int]
) -> None:
    guide = dataclasses.replace(free, grammar=compiler.compile(from_regex("([a-z]{2,5} ){6,20}[.]"), "regex"))
    params = GenerationParams(SamplingParams(1.0, seed=5), max_tokens=60, n=2, logprobs=2, guide=guide)
    prompts = [tokenizer.encode(text) for text in ("Once upon a time", "The capital of", "One, two", "Hello", "Red")]
    engine = engine_of(model)
    alone = [engine.generate_batch([prompt], params)[0] for prompt in prompts]
    engine.shutdown()
    engine = engine_of(model, **changes)
    together = engine.generate_batch(prompts, params)
    preemptions = engine.stats().preemptions
    engine.shutdown()
    assert [[(a.text, a.logprobs) for a in each] for each in together] == [
        [(a.text, a.logprobs) for a in each] for each in alone
    ]
    assert all(a.finish_reason == "stop" for each in alone for a in each)
    assert preemptions > 0 or "pages" not in changes
