"""The engine on a model without weights: many requests at once, and what goes wrong."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.model.sampling import SamplingParams
from python_layer.utils.errors import EngineStoppedError, InvalidRequestError, OverloadedError
from tests.unit.inference.mock_model import AHEAD, EOS, PAGE, VOCAB, MockModel, continuation, make_engine


@contextmanager
def running(pages: int = 64, *, model: MockModel | None = None, **config: object) -> Iterator[InferenceEngine]:
    engine = make_engine(model or MockModel(pages), pages, **config)
    try:
        yield engine
    finally:
        engine.shutdown(drain=False)


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def test_a_batch_of_very_different_lengths() -> None:
    rng = random.Random(0)
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 60))] for _ in range(200)]
    seen = []
    model = MockModel(100)
    with running(100, model=model, token_budget=64, max_running=32) as engine:
        params = GenerationParams(max_tokens=20, ignore_eos=True)
        results = engine.generate_batch(prompts, params, lambda done, total: seen.append((done, total)))
        assert [answers[0].tokens for answers in results] == [continuation(p, 20) for p in prompts]
        assert {answers[0].finish_reason for answers in results} == {"length"}
        assert seen == [(i, 200) for i in range(1, 201)]
        stats = engine.stats()
    assert model.largest > 10
    assert stats.generated_tokens == 4000
    assert (stats.running, stats.waiting, stats.pages_held) == (0, 0, 0)
    assert stats.preemptions > 0


def test_an_idle_engine_makes_pages_ready() -> None:
    model = MockModel(10)
    with running(10, model=model, prefix_caching=False) as engine:
        wait_until(lambda: model.ready == AHEAD)
        params = GenerationParams(max_tokens=2, ignore_eos=True)
        prompt = [1] * (4 * PAGE)
        for _ in range(2):  # pages that were held before are ready
            assert engine.generate_batch([prompt], params)[0][0].tokens == continuation(prompt, 2)
            wait_until(lambda: model.ready == 5 + AHEAD)
        assert engine.generate_batch([prompt * 2], params)[0][0].tokens == continuation(prompt * 2, 2)
        wait_until(lambda: model.ready == 10)


@pytest.mark.parametrize(("count", "swap_slots"), [(10_000, 0), (2000, 20)])
def test_random_requests(count: int, swap_slots: int) -> None:
    """Random arrivals, lengths, aborts, forks and priorities, and pages so few that they run out all the time."""
    rng = random.Random(1)
    finished: dict[tuple[str, int], list[Output]] = {}
    lock = threading.Lock()

    def sink(output: Output) -> None:
        with lock:
            finished.setdefault((output.request_id, output.index), []).append(output)

    prefixes = [[rng.randrange(VOCAB) for _ in range(12)] for _ in range(5)]
    requests: dict[str, Request] = {}
    taken_back: set[str] = set()
    model = MockModel(48)
    sizes = {"token_budget": 48, "max_running": 24, "max_waiting": 100_000, "swap_slots": swap_slots}
    with running(48, model=model, policy="priority", **sizes) as engine:
        for number in range(count):
            prompt = [*rng.choice(prefixes)[: rng.randint(0, 12)], rng.randrange(VOCAB)]
            params = GenerationParams(max_tokens=rng.randint(1, 12), n=rng.choice([1, 1, 1, 3]), ignore_eos=True)
            request = Request(str(number), prompt, params, priority=rng.randrange(3))
            requests[request.request_id] = request
            engine.submit(request, sink)
            if rng.random() < 0.05:
                taken_back.add(victim := rng.choice(list(requests)))
                engine.abort(victim)
        wait_until(lambda: engine.stats().requests == 0, 600)
        stats = engine.stats()
        assert engine.failure is None
    assert stats.preemptions > 100
    assert (model.swapped > 100) == (swap_slots > 0)
    assert stats.pages_held == 0
    assert stats.pages_free + stats.pages_cached == 48
    for request in requests.values():
        for index in range(request.params.n):
            parts = finished[request.request_id, index]
            assert [part.finish_reason is not None for part in parts].index(True) == len(parts) - 1
            tokens = [token for part in parts for token in part.tokens]
            whole = continuation(request.prompt, request.params.max_tokens)
            if request.request_id in taken_back:
                assert tokens == whole[: len(tokens)]
            else:
                assert tokens == whole
                assert parts[-1].finish_reason == "length"


def test_answers_that_have_begun_are_not_timed_out_in_the_queue() -> None:
    model = MockModel(64, delay=0.01)
    with running(64, model=model, max_running=1, queue_timeout=0.15) as engine:
        [answers] = engine.generate_batch([[1, 2, 3]], GenerationParams(max_tokens=30, n=2, ignore_eos=True))
    assert [answer.finish_reason for answer in answers] == ["length", "length"]


def test_a_failure_of_the_model_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = MockModel(64)
    model.forward = lambda batch, drawn: 1 / 0  # type: ignore[method-assign]
    with running(64, model=model) as engine, pytest.raises(EngineStoppedError, match="ZeroDivisionError"):
        engine.generate_batch([[1]], GenerationParams(max_tokens=2))
    assert "the engine failed" in caplog.text


def test_pages_that_were_swapped_are_not_computed_again() -> None:
    rng = random.Random(3)
    prompts = [[rng.randrange(VOCAB) for _ in range(30)] for _ in range(24)]
    computed = []
    for swap_slots in (0, 60):
        model = MockModel(60)
        with running(60, model=model, swap_slots=swap_slots, max_running=24, token_budget=200) as engine:
            results = engine.generate_batch(prompts, GenerationParams(max_tokens=40, ignore_eos=True))
            assert [answers[0].tokens for answers in results] == [continuation(p, 40) for p in prompts]
            assert engine.stats().preemptions > 10
            computed.append(engine.stats().prompt_tokens)
    assert computed[1] < computed[0]


def test_answers_to_one_prompt_share_it_and_differ() -> None:
    with running(model=MockModel(64, uniform=True)) as engine:
        params = GenerationParams(SamplingParams(1.0, seed=3), max_tokens=8, n=5, ignore_eos=True)
        [together] = engine.generate_batch([[1] * 18], params)
        assert engine.stats().prompt_tokens < 2 * 18 + 5 * 8
        assert len({tuple(answer.tokens) for answer in together}) == 5
        [again] = engine.generate_batch([[1] * 18], params)
    assert [answer.tokens for answer in together] == [answer.tokens for answer in again]


def test_a_seed_draws_the_same_alone_and_in_a_crowd() -> None:
    params = GenerationParams(SamplingParams(1.0, seed=11), max_tokens=12, ignore_eos=True)
    with running(model=MockModel(64, uniform=True)) as engine:
        [[alone]] = engine.generate_batch([[5, 6]], params)
    with running(30, model=MockModel(30, uniform=True), token_budget=7) as engine:
        crowd = engine.generate_batch([[5, 6]] + [[i] * 9 for i in range(20)], params)
    assert crowd[0][0].tokens == alone.tokens


def repeating(context: list[int]) -> int:
    """A text that repeats itself with a change now and then: some guesses are right."""
    return context[-7] if len(context) >= 7 and len(context) % 11 else sum(context) % 50


@pytest.mark.parametrize("uniform", [True, False])
def test_speculation_changes_no_answer(uniform: bool) -> None:
    rng = random.Random(2)
    prompts = [[rng.randrange(5) for _ in range(rng.randint(1, 20))] for _ in range(60)]
    params = [
        GenerationParams(SamplingParams(0.7 if uniform else 0.0, seed=5), max_tokens=count, logprobs=2, ignore_eos=True)
        for count in (1, 2, 30)
    ]
    params.append(GenerationParams(SamplingParams(repetition_penalty=1.4, frequency_penalty=0.5), min_tokens=20))
    params.append(GenerationParams(SamplingParams(1.0, seed=1), max_tokens=20, n=3, stop_token_ids=(3,)))

    def answers(speculation: int, pages: int) -> list[list[list[Output]]]:
        model = MockModel(pages, uniform, next_token=repeating)
        with running(pages, model=model, speculation=speculation, max_running=12, token_budget=40) as engine:
            results = [engine.generate_batch(prompts, p) for p in params]
            stats = engine.stats()
        assert (stats.drafted_tokens > 0) == (speculation > 0)
        assert stats.accepted_tokens <= stats.drafted_tokens
        assert stats.accepted_tokens > 0 or uniform or not speculation
        assert stats.generated_tokens == sum(len(a.tokens) for r in results for per in r for a in per)
        return [[[replace(a, request_id="", cached_tokens=0) for a in per] for per in r] for r in results]

    normal = answers(0, 300)
    assert answers(4, 300) == normal
    assert answers(7, 60) == normal


def test_speculation_saves_steps() -> None:
    def steps(speculation: int) -> int:
        model = MockModel(200, next_token=lambda context: context[-5])
        with running(200, model=model, speculation=speculation) as engine:
            engine.generate_batch([[1, 2, 3, 4, 5, 1, 2, 3]], GenerationParams(max_tokens=200, ignore_eos=True))
            return engine.stats().steps

    assert steps(4) < steps(0) / 3


def test_streams_and_leaving_one_frees_its_pages() -> None:
    async def scenario(engine: InferenceEngine) -> None:
        tokens = []
        async for output in engine.generate(Request("a", [1, 2], GenerationParams(max_tokens=6, ignore_eos=True))):
            tokens += output.tokens
        assert tokens == continuation([1, 2], 6)

        stream = engine.generate(Request("b", [3], GenerationParams(max_tokens=200, ignore_eos=True)))
        assert (await anext(stream)).tokens == continuation([3], 1)
        await stream.aclose()
        await asyncio.to_thread(wait_until, lambda: engine.stats().pages_held == 0)
        assert engine.stats().generated_tokens < 200

    with running(model=MockModel(64, delay=0.002)) as engine:
        asyncio.run(scenario(engine))


def test_end_of_sequence_stop_tokens_and_minimum() -> None:
    prompt = [7]
    answer = continuation(prompt, 10)
    with running() as engine:

        def run(**fields: object) -> Output:
            return engine.generate_batch([prompt], GenerationParams(max_tokens=10, **fields))[0][0]

        stopped = run(stop_token_ids=(answer[3],))
        assert (stopped.tokens, stopped.finish_reason) == (answer[: answer.index(answer[3]) + 1], "stop")
        forced = run(stop_token_ids=(answer[0],), min_tokens=4)
        assert len(forced.tokens) >= 4
        assert answer[0] not in forced.tokens[:4]
        biased = engine.generate_batch(
            [prompt], GenerationParams(SamplingParams(logit_bias={EOS: 50.0}), max_tokens=10)
        )[0][0]
        assert (biased.tokens, biased.finish_reason) == ([EOS], "stop")
        assert len(run(ignore_eos=True).tokens) == 10


def test_logprobs() -> None:
    with running() as engine:
        [[answer]] = engine.generate_batch([[1]], GenerationParams(max_tokens=3, logprobs=2, ignore_eos=True))
        assert answer.logprobs is not None
        assert [entry.top[0] for entry in answer.logprobs] == [
            (token, entry.logprob) for token, entry in zip(answer.tokens, answer.logprobs, strict=True)
        ]
        [[plain]] = engine.generate_batch([[1]], GenerationParams(max_tokens=3))
        assert plain.logprobs is None


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], {}, "prompt"),
        ([VOCAB], {}, "prompt"),
        ([1], {"stop_token_ids": (VOCAB,)}, "stop_token_ids"),
        ([1], {"sampling": SamplingParams(logit_bias={-1: 1.0})}, "logit_bias"),
        ([1] * 100, {"max_tokens": 200}, "max_tokens"),
        ([1], {"max_tokens": 5000}, "max_tokens"),
        ([1], {"stop": ("x",)}, "stop"),
    ],
)
def test_what_cannot_be_served_is_refused(prompt: list[int], params: dict, param: str) -> None:
    with running() as engine:
        with pytest.raises(InvalidRequestError) as caught:
            engine.generate_batch([prompt], GenerationParams(**params))
        assert caught.value.param == param
        assert engine.generate_batch([[1]], GenerationParams(max_tokens=2))[0][0].tokens == continuation([1], 2)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"min_tokens": 3, "max_tokens": 2}, {"n": 0}, {"logprobs": 21}])
def test_parameters_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GenerationParams(**wrong)
    assert caught.value.param == next(iter(wrong))


def test_timeouts_end_a_request() -> None:
    outputs: list[Output] = []
    with running(model=MockModel(64, delay=0.01)) as engine:
        params = GenerationParams(max_tokens=200, n=3, ignore_eos=True)
        engine.submit(Request("slow", [1], params, timeout=0.1), outputs.append)
        wait_until(lambda: sum(o.finish_reason == "timeout" for o in outputs) == 3)
        assert engine.stats().pages_held == 0


def test_a_full_queue_refuses_quickly() -> None:
    with running(model=MockModel(64, delay=0.01), max_running=1, max_waiting=2) as engine:
        params = GenerationParams(max_tokens=100, ignore_eos=True)
        with pytest.raises(OverloadedError):
            for number in range(10):
                engine.submit(Request(str(number), [1], params), lambda output: None)


def test_taking_back_what_has_ended_does_not_touch_its_successor() -> None:
    with running() as engine:
        for _ in range(3):
            outputs: list[Output] = []
            engine.abort("again")
            engine.submit(Request("again", [1], GenerationParams(max_tokens=3, ignore_eos=True)), outputs.append)
            wait_until(lambda: engine.stats().requests == 0)
            assert outputs[-1].finish_reason == "length"


def test_a_reader_whose_loop_is_closed_harms_nobody() -> None:
    with running(model=MockModel(64, delay=0.01)) as engine:

        async def leave() -> None:
            stream = engine.generate(Request("a", [1], GenerationParams(max_tokens=50, ignore_eos=True)))
            await anext(stream)

        asyncio.run(leave())
        assert engine.generate_batch([[2]], GenerationParams(max_tokens=2))[0][0].tokens == continuation([2], 2)
        assert engine.alive


def test_ids_under_way_are_unique() -> None:
    with running(model=MockModel(64, delay=0.01)) as engine:
        engine.submit(Request("same", [1], GenerationParams(max_tokens=100)), lambda output: None)
        with pytest.raises(InvalidRequestError):
            engine.submit(Request("same", [1], GenerationParams(max_tokens=100)), lambda output: None)


def test_a_failing_model_fails_every_request_and_hangs_none() -> None:
    model = MockModel(64, delay=0.005)
    model.fail_at = 5
    with running(model=model) as engine:
        with pytest.raises(EngineStoppedError, match="the device is gone"):
            engine.generate_batch([[1], [2]], GenerationParams(max_tokens=50, ignore_eos=True))
        assert not engine.alive
        with pytest.raises(EngineStoppedError):
            engine.generate_batch([[1]], GenerationParams())


@pytest.mark.parametrize("drain", [True, False])
def test_shutdown_drains_or_gives_up(drain: bool) -> None:
    engine = make_engine(MockModel(64, delay=0.005), 64)
    outputs: list[Output] = []
    engine.submit(Request("a", [1], GenerationParams(max_tokens=20, ignore_eos=True)), outputs.append)
    engine.shutdown(drain=drain)
    assert outputs[-1].finish_reason == ("length" if drain else "abort")
    assert (outputs[-1].error is None) == drain
    with pytest.raises(EngineStoppedError):
        engine.submit(Request("b", [1]), outputs.append)


def test_shutdown_gives_up_after_its_timeout() -> None:
    engine = make_engine(MockModel(64, delay=0.01), 64)
    outputs: list[Output] = []
    engine.submit(Request("a", [1], GenerationParams(max_tokens=200, ignore_eos=True)), outputs.append)
    started = time.monotonic()
    engine.shutdown(drain=True, timeout=0.1)
    assert time.monotonic() - started < 1.5
    assert outputs[-1].finish_reason == "abort"
