"""What the engine measures of requests, against what their readers saw."""

import random
import threading
from collections import Counter

import pytest

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.inference.request_stats import Histogram
from python_layer.utils.errors import EngineStoppedError
from tests.unit.inference.mock_model import PAGE, VOCAB, MockModel
from tests.unit.inference.test_engine import running, wait_until


class Reader:
    """Counts what comes out of the engine."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()
        self.ends: dict[tuple[str, int], str] = {}
        self.pieces: Counter[tuple[str, int]] = Counter()

    def sink(self, output: Output) -> None:
        self.tokens[output.request_id] += len(output.tokens)
        if output.tokens:
            self.pieces[output.request_id, output.index] += 1
        if output.finish_reason is not None:
            assert (output.request_id, output.index) not in self.ends
            self.ends[output.request_id, output.index] = "error" if output.error else output.finish_reason

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.ends.values())


def settled(engine: InferenceEngine, requests: int) -> None:
    """Waits until so many requests have ended and are accounted for."""
    wait_until(lambda: engine.request_stats.latency.count == requests and engine.stats().requests == 0, 120)
    # The step's own counts follow what its answers are told.
    wait_until(lambda: engine.stats().generated_tokens == engine.request_stats.generated.sum)


def check(engine: InferenceEngine, reader: Reader, requests: list[Request]) -> None:
    """Every figure against the readers' own count."""
    stats = engine.request_stats
    begun = [request for request in requests if reader.tokens[request.request_id]]
    assert {reason: count for reason, count in stats.reasons.items() if count} == reader.reasons
    assert stats.generated.sum == sum(reader.tokens.values())
    assert stats.generated.count == stats.prompt_lengths.count == stats.queue_time.count == len(requests)
    assert stats.prompt_lengths.sum == sum(len(request.prompt) for request in requests)
    assert stats.time_to_first_token.count == len(begun)
    assert stats.prompt_tokens == sum(len(request.prompt) for request in begun)
    # Each token but an answer's first has a time since the one before it.
    assert stats.inter_token_latency.count == sum(reader.tokens.values()) - len(reader.pieces)
    taken_back = {request_id for (request_id, _), reason in reader.ends.items() if reason == "abort"}
    assert stats.aborted == len(taken_back)
    assert stats.latency.sum >= stats.time_to_first_token.sum >= 0
    for request in requests:
        timeline = request.timeline
        assert timeline.generated == reader.tokens[request.request_id]
        assert len(timeline.reasons) == request.params.n
        times = [timeline.arrived, timeline.scheduled, timeline.first_token, timeline.ended]
        known = [time for time in times if time is not None]
        assert known == sorted(known)
        assert timeline.ended is not None
        assert (timeline.first_token is not None) == (timeline.generated > 0)


@pytest.mark.parametrize("way", [{"overlap": True}, {"speculation": 0}, {"speculation": 3}], ids=str)
def test_random_requests_with_aborts_forks_and_preemption(way: dict) -> None:
    rng = random.Random(7)
    reader, requests = Reader(), []
    prefixes = [[rng.randrange(VOCAB) for _ in range(12)] for _ in range(4)]
    sizes = {"token_budget": 48, "max_running": 24, "max_waiting": 100_000} | way
    with running(48, model=MockModel(48), **sizes) as engine:
        for number in range(600):
            prompt = [*rng.choice(prefixes)[: rng.randint(0, 12)], rng.randrange(VOCAB)]
            params = GenerationParams(max_tokens=rng.randint(1, 12), n=rng.choice([1, 1, 3]), ignore_eos=True)
            requests.append(Request(str(number), prompt, params))
            engine.submit(requests[-1], reader.sink)
            if rng.random() < 0.1:
                engine.abort(rng.choice(requests).request_id)
        settled(engine, 600)
        check(engine, reader, requests)
        assert engine.stats().preemptions > 10
        assert reader.reasons["abort"] > 5
        assert reader.reasons["length"] > 400


def test_tokens_that_were_guessed_right_share_their_steps_time() -> None:
    reader = Reader()
    model = MockModel(64, delay=0.01, next_token=lambda context: (context[-1] + 1) % 4)
    requests = [Request("guess", [0, 1, 2, 3] * 3, GenerationParams(max_tokens=60, ignore_eos=True))]
    with running(64, model=model, speculation=3) as engine:
        engine.submit(requests[0], reader.sink)
        settled(engine, 1)
        check(engine, reader, requests)
        stats, measured = engine.stats(), engine.request_stats
        assert stats.accepted_tokens > 20
        timeline = requests[0].timeline
        # All the time from the first token to the last, no more.
        assert measured.inter_token_latency.sum <= timeline.ended - timeline.first_token
        assert measured.inter_token_latency.sum >= 0.01 * (stats.steps - 1)


def test_timeouts_in_the_queue_and_under_way() -> None:
    reader = Reader()
    requests = [
        Request("runs", [1, 2], GenerationParams(max_tokens=1000, n=2, ignore_eos=True), timeout=0.3),
        Request("waits", [3, 4, 5], GenerationParams(max_tokens=1000, ignore_eos=True), timeout=0.2),
    ]
    with running(1000, model=MockModel(1000, delay=0.005), max_running=1) as engine:
        for request in requests:
            engine.submit(request, reader.sink)
        settled(engine, 2)
        check(engine, reader, requests)
        assert engine.request_stats.reasons["timeout"] == 3
        waited = requests[1].timeline
        assert waited.scheduled is None
        assert waited.ended - waited.arrived >= 0.2
        assert engine.request_stats.queue_time.sum >= 0.2


def test_the_queue_is_where_a_request_waits_for_another() -> None:
    reader = Reader()
    requests = [Request(name, [1], GenerationParams(max_tokens=20, ignore_eos=True)) for name in ("first", "second")]
    with running(64, model=MockModel(64, delay=0.005), max_running=1) as engine:
        for request in requests:
            engine.submit(request, reader.sink)
        settled(engine, 2)
        check(engine, reader, requests)
        first, second = (request.timeline for request in requests)
        # The clock is read as a step is planned, or later in that step.
        assert second.scheduled >= first.first_token + 18 * 0.005
        waited = sum(timeline.scheduled - timeline.arrived for timeline in (first, second))
        assert engine.request_stats.queue_time.sum == pytest.approx(waited)


def test_a_failure_ends_requests_with_an_error_and_nothing_runs_any_more() -> None:
    reader, model = Reader(), MockModel(64)
    model.fail_at = 5
    requests = [Request(str(i), [i], GenerationParams(max_tokens=50, n=2, ignore_eos=True)) for i in range(3)]
    with running(64, model=model, max_running=4) as engine:
        for request in requests:
            engine.submit(request, reader.sink)
        wait_until(lambda: not engine.alive)
        engine._thread.join()
        check(engine, reader, requests)
        stats = engine.stats()
    assert engine.request_stats.reasons["error"] == 6
    assert engine.request_stats.aborted == 0
    assert (stats.running, stats.waiting, stats.requests, stats.pages_held) == (0, 0, 0, 0)


def test_prefix_hits_and_a_request_that_is_submitted_again() -> None:
    request = Request("again", list(range(3 * PAGE)), GenerationParams(max_tokens=4, ignore_eos=True))
    reader = Reader()
    with running(64) as engine:
        engine.submit(request, reader.sink)
        settled(engine, 1)
        first = request.timeline.ended
        assert (request.timeline.cached, request.timeline.generated) == (0, 4)
        reader.ends.clear()
        engine.submit(request, reader.sink)
        settled(engine, 2)
        assert (request.timeline.cached, request.timeline.generated) == (2 * PAGE, 4)
        assert request.timeline.arrived > first
        stats = engine.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (6 * PAGE, 2 * PAGE)
    assert engine.request_stats.prompt_tokens == 6 * PAGE


def test_a_timeline_is_complete_when_the_last_output_comes() -> None:
    """Who has an answer may tell of it at once, while the engine is still busy with the step."""
    seen = []
    done = threading.Event()

    def sink(output: Output) -> None:
        if output.finish_reason is not None:
            timeline = request.timeline
            seen.append((timeline.generated, list(timeline.reasons), timeline.first_token is not None))
            done.set()

    request = Request("one", [1], GenerationParams(max_tokens=1, ignore_eos=True))
    with running(64) as engine:
        engine.submit(request, sink)
        assert done.wait(10)
    assert seen == [(1, ["length"], True)]


def test_an_engine_that_is_shut_down_counts_what_it_gives_up() -> None:
    reader = Reader()
    request = Request("open", [1], GenerationParams(max_tokens=4000, ignore_eos=True))
    with running(2000, model=MockModel(2000, delay=0.001)) as engine:
        engine.submit(request, reader.sink)
        wait_until(lambda: reader.tokens["open"] > 0)
        engine.shutdown(drain=False)
        check(engine, reader, [request])
        with pytest.raises(EngineStoppedError):
            engine.submit(request, reader.sink)
    assert engine.request_stats.reasons["error"] == 1


def test_a_value_on_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram([1.0, 2.0, 5.0])
    for value in (0.5, 1.0, 1.5, 5.0, 5.1):
        histogram.observe(value)
    histogram.observe(2.0, 3)
    assert histogram.counts == [2, 4, 1, 1]
    assert (histogram.count, histogram.sum) == (8, pytest.approx(19.1))
