"""Rate limits, on virtual time."""

import math
from collections.abc import AsyncGenerator
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_layer.inference.request import Output, Request
from python_layer.server.errors import RateLimitedError
from python_layer.server.rate_limits import Caller, Metered, RateLimits, client_of
from python_layer.server.token_bucket import TokenBucket
from python_layer.utils.errors import OverloadedError


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_a_minutes_worth_at_once_and_then_as_it_fills() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    for left in range(60, 0, -1):
        assert (bucket.left, bucket.wait) == (left, 0)
        bucket.take(1)
    assert bucket.wait == pytest.approx(1)
    assert bucket.until_full == pytest.approx(60)
    clock.now += 0.5
    assert bucket.wait == pytest.approx(0.5)
    clock.now += 0.5
    assert (bucket.left, bucket.wait) == (1, 0)
    clock.now += 1e6
    assert bucket.left == 60


Steps = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), max_size=60)


@given(limit=st.integers(1, 10_000_000), steps=Steps, start=st.floats(0, 1e7))
def test_after_the_time_it_tells_a_bucket_can_be_taken_from(limit: int, steps: list, start: float) -> None:
    clock = Clock(start)
    bucket = TokenBucket(limit, clock)
    for pause, amount in steps:
        clock.now += pause
        if bucket.wait > 0:
            clock.now += math.ceil(bucket.wait)
        assert bucket.wait == 0
        assert bucket.left >= 1
        bucket.take(amount)


@given(limit=st.integers(1, 1000), steps=Steps)
def test_no_stretch_of_time_gives_more_than_it_brings(limit: int, steps: list) -> None:
    clock = Clock()
    bucket = TokenBucket(limit, clock)
    taken: list[tuple[float, int]] = []
    for pause, amount in steps:
        clock.now += pause
        if bucket.wait == 0:
            bucket.take(amount)
            taken.append((clock.now, amount))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            # The last one may overdraw, so it does not count.
            before = sum(amount for _, amount in taken[first:last])
            assert before <= limit * (1 + (taken[last][0] - taken[first][0]) / 60) + 0.01


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_what_is_given_back_was_never_taken(amounts: list[int]) -> None:
    bucket = TokenBucket(100, Clock())
    bucket.take(30)
    for amount in amounts:
        bucket.take(amount)
    for amount in amounts:
        bucket.give_back(amount)
    assert bucket.left == 70
    bucket.give_back(1000)
    assert bucket.left == 100


def caller(limits: RateLimits, client: str = "a") -> Caller:
    return Caller("", limits.of(client), set())


def test_clients_have_buckets_of_their_own_and_refusals_cost_nothing() -> None:
    clock = Clock()
    limits = RateLimits(2, None, clock)
    caller(limits).begin()
    caller(limits).begin()
    for _ in range(5):
        with pytest.raises(RateLimitedError, match="2 requests a minute") as caught:
            caller(limits).begin()
    assert caught.value.retry_after == 30
    caller(limits, "b").begin()
    clock.now += 30
    caller(limits).begin()
    assert caller(limits).headers()["x-ratelimit-remaining-requests"] == "0"


def test_headers_tell_what_is_limited() -> None:
    assert caller(RateLimits()).headers() == {}
    limits = RateLimits(10, 600, Clock())
    one = caller(limits)
    one.begin()
    one.take_prompt(610)
    assert one.headers() == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m1s",
    }


def test_an_overdrawn_client_waits_before_the_next_request_not_during_this_one() -> None:
    clock = Clock()
    limits = RateLimits(None, 60, clock)
    first, second = caller(limits), caller(limits)
    first.begin()
    second.begin()
    first.take_prompt(50)
    first.take_generated(40)
    with pytest.raises(RateLimitedError) as caught:
        second.take_prompt(1)
    assert caught.value.retry_after == 31
    with pytest.raises(RateLimitedError):
        caller(limits).begin()
    clock.now += 31
    caller(limits).begin()


def test_who_was_seen_longest_ago_is_forgotten() -> None:
    limits = RateLimits(1, None, Clock(), most_clients=3)
    for client in ("a", "b", "c"):
        caller(limits, client).begin()
    kept = limits.of("a")
    limits.of("d")
    assert limits.of("a") is kept
    assert limits.of("c")["requests"].left == 0
    assert limits.of("b")["requests"].left == 1  # as if never seen


def test_an_address_is_a_client_and_so_is_an_ipv6_network() -> None:
    assert client_of("10.0.0.1") == "10.0.0.1"
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("testclient") == "testclient"


class Script:
    """The engine's side: gives the outputs it is told to, or fails."""

    def __init__(self, *outputs: Output, error: Exception | None = None) -> None:
        self._outputs, self._error = outputs, error

    async def generate(self, *requests: Request) -> AsyncGenerator[Output, None]:
        for output in self._outputs:
            yield output
        if self._error is not None:
            raise self._error


def tokens_left(script: Script, leave_after: int = 1000) -> int:
    """Of 100, after a request with a prompt of 10 tokens."""
    limits = RateLimits(None, 100, Clock())
    entering: set[Caller] = set()
    one = Caller("", limits.of("a"), entering)
    one.enter()

    async def read() -> None:
        outputs = Metered(script, one).generate(Request("r", [1] * 10))
        try:
            for _ in range(leave_after):
                await anext(outputs)
        except (StopAsyncIteration, OverloadedError):
            pass
        await outputs.aclose()

    anyio.run(read)
    assert not entering
    return limits.of("a")["tokens"].left


def piece(count: int, reason: str | None = None) -> Output:
    return Output("r", 0, [1] * count, "", None, reason)  # type: ignore[arg-type]


def test_tokens_are_charged_as_they_come() -> None:
    assert tokens_left(Script(piece(1), piece(2, "stop"))) == 87
    assert tokens_left(Script(piece(1), piece(2), piece(9, "stop")), leave_after=2) == 87


def test_what_is_refused_or_waits_in_vain_costs_nothing() -> None:
    assert tokens_left(Script(error=OverloadedError("full"))) == 100
    assert tokens_left(Script(piece(0, "timeout"))) == 100
    assert tokens_left(Script(piece(1), piece(0, "timeout"))) == 89
    assert tokens_left(Script(piece(3), error=OverloadedError("full"))) == 87


def test_time_goes_on_by_itself() -> None:
    limits = RateLimits(1000)
    waits = []
    for _ in range(3):
        limits.of("a")["requests"].take(1)
        waits.append(limits.of("a")["requests"].until_full)
    assert all(earlier < later for earlier, later in pairwise(waits))
