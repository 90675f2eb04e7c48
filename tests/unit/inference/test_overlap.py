"""Steps that are launched before the tokens of the one before are known: the same answers, and nothing is lost.

The model does as late as it may what it was asked for, so that what must not depend on the device does not.
"""

import random
import threading
from dataclasses import replace

import pytest

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.guide import Calls, Guide, Thoughts
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.model.batch import RaggedBatch
from python_layer.model.drawn_tokens import DrawnTokens
from python_layer.model.sampler import SampledToken, SamplingRow
from python_layer.model.sampling import SamplingParams
from tests.unit.inference.mock_model import EOS, PAGE, VOCAB, MockDraws, MockModel, continuation, make_engine
from tests.unit.inference.test_engine import wait_until

Streams = dict[tuple[str, int], list[Output]]


def late_engine(pages: int, uniform: bool = False, overlap: bool = True, **config: object) -> InferenceEngine:
    model = MockModel(pages, uniform, late=overlap)
    return make_engine(model, pages, overlap=overlap, **config)


def random_params(rng: random.Random) -> GenerationParams:
    """All that may end an answer, and all whose draws depend on the tokens before."""
    sampling = SamplingParams(
        temperature=rng.choice([0.0, 0.9]),
        top_p=rng.choice([1.0, 0.8]),
        seed=rng.randrange(100),
        repetition_penalty=rng.choice([1.0, 1.5]),
        frequency_penalty=rng.choice([0.0, 0.0, 1.0]),
        logit_bias=rng.choice([{}, {EOS: 3.0}, {7: 30.0}]),
    )
    thoughts = Thoughts(start=1, end=2, open=True, cut=(5, 2), gap=(), budget=rng.randint(0, 4))
    guide = rng.choice(
        [None, None, Guide(VOCAB, (EOS,), thoughts=thoughts), Guide(VOCAB, (EOS,), calls=Calls(7, most=1))]
    )
    most = rng.choice([1, 2, rng.randint(3, 30)])
    return GenerationParams(
        sampling,
        max_tokens=most,
        min_tokens=rng.choice([0, rng.randint(0, most)]),
        n=rng.choice([1, 1, 1, 3]),
        stop_token_ids=tuple(rng.sample(range(VOCAB), rng.choice([0, 1, 5]))),
        ignore_eos=rng.random() < 0.3,
        logprobs=rng.choice([None, 0, 2]),
        prompt_logprobs=rng.choice([None, None, None, 1]),
        guide=guide,
    )


def random_requests(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    beginnings = [[rng.randrange(VOCAB) for _ in range(3 * PAGE)] for _ in range(4)]
    requests = []
    for number in range(count):
        beginning = rng.choice(beginnings)[: rng.randint(0, 3 * PAGE)]
        prompt = [*beginning, *(rng.randrange(VOCAB) for _ in range(rng.randint(1, 20)))]
        requests.append(Request(str(number), prompt, random_params(rng), priority=rng.randrange(2)))
    return requests


def served(engine: InferenceEngine, requests: list[Request]) -> Streams:
    """Every output, in its stream's order."""
    streams: Streams = {}

    def sink(output: Output) -> None:
        streams.setdefault((output.request_id, output.index), []).append(replace(output, cached_tokens=0))

    for request in requests:
        engine.submit(request, sink)
    wait_until(lambda: engine.stats().requests == 0 or not engine.alive, 120)
    assert engine.failure is None
    return streams


CONDITIONS = {
    "room for all": {"pages": 4000, "max_running": 30},
    "small chunks": {"pages": 4000, "token_budget": 9, "max_running": 8},
    "few pages": {"pages": 26, "token_budget": 30, "max_running": 12, "policy": "priority"},
    "few pages and a swap space": {"pages": 26, "token_budget": 30, "max_running": 12, "swap_slots": 20},
    "no prefix cache": {"pages": 26, "max_running": 12, "prefix_caching": False},
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("uniform", [True, False])
def test_every_stream_is_the_same(uniform: bool, condition: str) -> None:
    sizes, seed = CONDITIONS[condition], list(CONDITIONS).index(condition)
    both = []
    for overlap in (False, True):
        engine = late_engine(uniform=uniform, overlap=overlap, **sizes)
        both.append(served(engine, random_requests(150, seed)))
        engine.shutdown()
        stats = engine.stats()
        assert (stats.preemptions > 0) == (sizes["pages"] < 100)
        assert stats.pages_held == 0
        assert stats.generated_tokens == sum(len(o.tokens) for stream in both[-1].values() for o in stream)
    assert both[0] == both[1]
    assert {stream[-1].finish_reason for stream in both[0].values()} == {"stop", "length"}


def test_the_prefix_cache_holds_what_was_computed_and_is_right() -> None:
    requests = random_requests(120, 9)
    requests = [r for r in requests if r.params.n == 1 and r.params.prompt_logprobs is None]
    engine = late_engine(4000, uniform=True)
    streams = served(engine, requests)
    known = [r.prompt + [t for o in streams[r.request_id, 0] for t in o.tokens] for r in requests]
    # The last token of an answer is never needed, though a step may have computed it.
    paths = {tuple(tokens[:end]) for tokens in known for end in range(PAGE, len(tokens), PAGE)}
    assert engine.stats().pages_cached == len(paths)
    for tokens in known:
        [[again]] = engine.generate_batch([tokens], GenerationParams(max_tokens=1))
        assert again.cached_tokens == (len(tokens) - 1) // PAGE * PAGE
    engine.shutdown()


def test_random_requests_that_are_taken_back() -> None:
    rng, lock = random.Random(4), threading.Lock()
    streams: Streams = {}

    def sink(output: Output) -> None:
        with lock:
            streams.setdefault((output.request_id, output.index), []).append(output)
        if rng.random() < 0.02:  # in the middle of a step's bookkeeping
            taken_back.add(output.request_id)
            engine.abort(output.request_id)

    taken_back: set[str] = set()
    requests = [
        Request(
            str(number),
            [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))],
            GenerationParams(max_tokens=rng.randint(1, 12), n=rng.choice([1, 1, 3]), ignore_eos=True),
            priority=rng.randrange(3),
        )
        for number in range(1000)
    ]
    engine = late_engine(40, policy="priority", token_budget=30, max_running=20, max_waiting=10_000, swap_slots=10)
    for request in requests:
        engine.submit(request, sink)
        if rng.random() < 0.1:
            taken_back.add(victim := str(rng.randrange(len(requests))))
            engine.abort(victim)
    wait_until(lambda: engine.stats().requests == 0 or not engine.alive, 120)
    engine.shutdown()
    assert engine.failure is None
    stats = engine.stats()
    assert stats.preemptions > 20
    assert stats.pages_held == 0
    for request in requests:
        whole = continuation(request.prompt, request.params.max_tokens)
        for index in range(request.params.n):
            stream = streams[request.request_id, index]
            assert [output.finish_reason is not None for output in stream].index(True) == len(stream) - 1
            tokens = [token for output in stream for token in output.tokens]
            assert tokens == whole[: len(tokens)]
            assert tokens == whole or request.request_id in taken_back


class Recorded(MockModel):
    """Notes in which order it is asked."""

    def __init__(self) -> None:
        super().__init__(64)
        self.calls: list[str] = []

    def forward(self, batch: RaggedBatch, drawn: DrawnTokens | None = None) -> object:
        self.calls.append("forward" if drawn is None else "forward with drawn tokens")
        return super().forward(batch, drawn)

    def draw(self, logits: object, rows: list[SamplingRow]) -> "RecordedDraws":
        self.calls.append("draw")
        return RecordedDraws(super().draw(logits, rows), self.calls)


class RecordedDraws:
    def __init__(self, draws: MockDraws, calls: list[str]) -> None:
        self._draws, self._calls, self.tokens = draws, calls, draws.tokens

    def read(self) -> list[SampledToken]:
        self._calls.append("read")
        return self._draws.read()


def test_the_next_step_is_launched_before_the_tokens_are_read() -> None:
    calls = {}
    for overlap in (False, True):
        model = Recorded()
        engine = make_engine(model, 64, overlap=overlap)
        engine.generate_batch([[1, 2]], GenerationParams(max_tokens=3, ignore_eos=True))
        engine.shutdown()
        calls[overlap] = model.calls
    assert calls[False] == ["forward", "draw", "read"] * 3
    ahead = ["forward with drawn tokens", "read", "draw"]
    # The last token's end is foreseen: no step is launched after it.
    assert calls[True] == ["forward", "draw", *ahead, *ahead, "read"]


def test_a_token_too_many_is_nobodys() -> None:
    prompt = [7, 1, 4, 2, 9]
    answer = continuation(prompt, 10)
    stop = answer[4]
    for overlap in (False, True):
        model = MockModel(64, late=overlap)
        engine = make_engine(model, 64, overlap=overlap)
        params = GenerationParams(max_tokens=10, stop_token_ids=(stop,), ignore_eos=True)
        [[output]] = engine.generate_batch([prompt], params)
        assert (output.tokens, output.finish_reason) == (answer[: answer.index(stop) + 1], "stop")
        steps = len(output.tokens) + overlap
        wait_until(lambda engine=engine, steps=steps: engine.stats().steps == steps)
        engine.shutdown()
        stats = engine.stats()
        assert model.steps == steps
        assert stats.generated_tokens == len(output.tokens)
        assert stats.prompt_tokens == len(prompt) - 1
        assert stats.pages_held == 0


def test_guesses_need_the_tokens() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        make_engine(MockModel(8), 8, speculation=2, overlap=True)
