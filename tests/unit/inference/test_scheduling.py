"""Scheduler and cache under random load, on a pretended model: only the tokens it would have seen count."""

import random
from dataclasses import replace

import pytest

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.params import GenerationParams
from python_layer.inference.policies import POLICIES
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig
from python_layer.inference.sequence import Sequence, Status
from python_layer.utils.errors import InvalidRequestError, OverloadedError

PAGE = 4


def sequence(name: str, prompt: list[int], max_tokens: int = 4, **fields: object) -> Sequence:
    return Sequence(name, 0, GenerationParams(max_tokens=max_tokens), list(prompt), len(prompt), **fields)


class Machine:
    """Runs steps as the engine does, on memory that remembers which token each slot of each page holds."""

    def __init__(self, pages: int, prefix_caching: bool = True, **config: object) -> None:
        self.now = 0.0
        self.cache = CacheManager(pages, PAGE, prefix_caching=prefix_caching)
        settings = replace(SchedulerConfig(token_budget=16, max_running=8), **config)
        self.scheduler = ContinuousBatchScheduler(settings, self.cache, lambda: self.now)
        self.memory: list[list[int | None]] = [[None] * PAGE for _ in range(pages)]
        self.finished: list[Sequence] = []

    def step(self) -> list[Sequence]:
        """One step; returns the sequences that got a token."""
        self.now += 1
        plan = self.scheduler.plan()
        for source, target in plan.copies:
            self.memory[target] = list(self.memory[source])
        for s, count in plan.rows:
            for position in range(s.computed, s.computed + count):
                self.memory[s.pages[position // PAGE]][position % PAGE] = s.tokens[position]
        for s, count in plan.rows:
            context = [self.memory[s.pages[p // PAGE]][p % PAGE] for p in range(s.computed + count)]
            assert context == s.tokens[: s.computed + count], "a sequence read keys and values that are not its own"
        assert sum(count for _, count in plan.rows) <= self.scheduler.config.token_budget
        for s, count in plan.rows:
            self.scheduler.computed(s, count)
        advanced = []
        for s, _ in plan.rows:
            if s.remaining == 0:
                s.tokens.append(self.next_token(s))
                advanced.append(s)
                if s.generated == s.params.max_tokens:
                    self.scheduler.finish(s)
                    self.finished.append(s)
        self.cache.check_integrity(self.scheduler.running)
        return advanced

    @staticmethod
    def next_token(s: Sequence) -> int:
        """Depends on all tokens before, as a model's does."""
        return hash((s.index, *s.tokens)) % 50

    def run(self, limit: int = 100_000) -> None:
        steps = 0
        while self.scheduler.waiting or self.scheduler.running:
            self.step()
            steps += 1
            assert steps < limit, "something starves"


def alone(s: Sequence) -> list[int]:
    """What a sequence generates when nothing is beside it."""
    tokens = s.tokens[: s.prompt_length]
    single = Sequence("alone", s.index, s.params, tokens, s.prompt_length)
    while single.generated < s.params.max_tokens:
        single.tokens.append(Machine.next_token(single))
    return single.tokens


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_random_load_finishes_rightly_and_loses_no_page(policy: str, prefix_caching: bool) -> None:
    rng = random.Random(f"{policy} {prefix_caching}")
    machine = Machine(24, prefix_caching, policy=policy)
    prefixes = [[rng.randrange(50) for _ in range(rng.randint(1, 30))] for _ in range(4)]
    admitted: list[Sequence] = []
    aborted: set[Sequence] = set()
    for number in range(1200):
        prompt = rng.choice(prefixes)[: rng.randint(1, 30)] + [rng.randrange(50) for _ in range(rng.randint(1, 12))]
        fields = {"arrival": machine.now, "priority": rng.randrange(3), "user": rng.choice("abc")}
        s = sequence(str(number), prompt, rng.randint(1, 40), **fields)
        machine.scheduler.add(s)
        admitted.append(s)
        for _ in range(rng.choice([0, 0, 1, 5, 20])):
            for advanced in machine.step():
                if advanced.generated == 1 and rng.random() < 0.1 and advanced.status is Status.RUNNING:
                    # A fork joins after the first token, with an index and so a continuation of its own.
                    tokens = [*advanced.tokens[: advanced.prompt_length], rng.randrange(50)]
                    child = Sequence(
                        f"{advanced.request_id}+", 1, advanced.params, tokens, len(tokens) - 1, arrival=machine.now
                    )
                    if child.params.max_tokens > 1:
                        machine.scheduler.add_fork(advanced, child)
                        admitted.append(child)
        if rng.random() < 0.1:
            victim = rng.choice(admitted)
            if victim.status is not Status.FINISHED:
                machine.scheduler.finish(victim)
                aborted.add(victim)
    machine.run()
    assert len(machine.finished) == len(set(machine.finished))
    assert set(machine.finished) == set(admitted) - aborted
    for s in machine.finished:
        if s.index == 0:
            assert s.tokens == alone(s)
    assert machine.scheduler.stats.preemptions > 50
    counts = machine.cache.counts
    assert counts.held == 0
    assert counts.free + counts.cached == 24
    assert (counts.cached > 0) == prefix_caching


def test_a_prefix_is_computed_once() -> None:
    machine = Machine(40)
    prompt = list(range(20))
    machine.scheduler.add(sequence("first", prompt))
    machine.run()
    second = sequence("second", [*prompt, 99])
    machine.scheduler.add(second)
    machine.step()
    assert second.prefix_hit == 20
    machine.run()
    assert machine.cache.prefix_stats.hit == 20
    assert machine.cache.prefix_stats.queried == 41


def test_a_prompt_that_is_wholly_cached_still_computes_its_last_token() -> None:
    machine = Machine(40)
    for name in ("first", "second"):
        machine.scheduler.add(sequence(name, list(range(16))))
        machine.run()
    assert machine.finished[1].prefix_hit == 12
    assert machine.finished[0].tokens == machine.finished[1].tokens


def test_requests_at_once_share_pages_they_both_computed() -> None:
    machine = Machine(40, token_budget=64)
    for name in ("a", "b"):
        machine.scheduler.add(sequence(name, list(range(17)), 8))
    machine.step()
    a, b = machine.scheduler.running
    assert a.pages[:4] == b.pages[:4]
    assert a.pages[4] != b.pages[4]


def test_forks_copy_a_page_when_they_write_to_it() -> None:
    machine = Machine(10)
    parent = sequence("p", list(range(6)), 8)
    machine.scheduler.add(parent)
    machine.step()
    child = Sequence("p", 1, parent.params, [*range(6), 42], 6)
    machine.scheduler.add_fork(parent, child)
    assert child.pages == parent.pages
    machine.cache.check_integrity(machine.scheduler.running)
    machine.step()
    assert child.pages[0] == parent.pages[0]
    assert child.pages[1] != parent.pages[1]
    machine.run()


def test_the_least_recently_used_prefix_goes_first() -> None:
    machine = Machine(8)
    for start in (0, 100, 200):
        machine.scheduler.add(sequence(str(start), list(range(start, start + 8)), 1))
        machine.run()
    machine.scheduler.add(sequence("again", [*range(8), 1], 1))  # makes the first the most recent
    machine.run()
    machine.scheduler.add(sequence("big", list(range(300, 317)), 1))
    machine.run()
    found = {start: Sequence("x", 0, GenerationParams(), [*range(start, start + 8), 1], 9) for start in (0, 100)}
    for s in found.values():
        machine.cache.adopt_prefix(s)
    assert len(found[0].pages) > len(found[100].pages)


def test_what_never_fits_is_refused_with_both_numbers() -> None:
    machine = Machine(5)
    machine.scheduler.check(10, 11)
    machine.scheduler.add(sequence("fits", [1] * 10, 11))
    with pytest.raises(InvalidRequestError, match=r"21 tokens .* holds 20"):
        machine.scheduler.check(10, 12)
    machine.run()


def test_a_full_queue_refuses() -> None:
    machine = Machine(5, max_waiting=2, max_running=1)
    machine.scheduler.add(sequence("a", [1]))  # goes on at once: only two more will wait
    machine.scheduler.check(1, 1, arriving=1)
    with pytest.raises(OverloadedError):
        machine.scheduler.check(1, 1, arriving=2)
    machine.scheduler.plan()
    machine.scheduler.check_room(1)
    with pytest.raises(OverloadedError):
        machine.scheduler.check_room(2)


def finishing_order(policy: str, sequences: list[Sequence], **config: object) -> list[str]:
    machine = Machine(60, policy=policy, max_running=1, **config)
    for s in sequences:
        machine.scheduler.add(s)
    machine.run()
    return [s.request_id for s in machine.finished]


def test_policies_order_as_they_say() -> None:
    def load() -> list[Sequence]:
        return [
            sequence("a1", [1] * 12, user="a", arrival=0.0, priority=2),
            sequence("a2", [2] * 6, user="a", arrival=0.01, priority=1),
            sequence("a3", [3] * 3, user="a", arrival=0.02, priority=1),
            sequence("b1", [4] * 8, user="b", arrival=0.03, priority=0),
        ]

    assert finishing_order("fcfs", load()) == ["a1", "a2", "a3", "b1"]
    assert finishing_order("priority", load()) == ["b1", "a2", "a3", "a1"]
    assert finishing_order("fair", load()) == ["a1", "b1", "a2", "a3"]
    assert finishing_order("latency", load()) == ["a3", "a2", "b1", "a1"]


def test_latency_starves_nobody() -> None:
    machine = Machine(60, policy="latency", max_running=1)
    long = sequence("long", [7] * 200, 1)
    machine.scheduler.add(long)
    for number in range(200):
        machine.scheduler.add(sequence(str(number), [number] * 3, 2, arrival=machine.now))
        machine.step()
        if long.status is Status.FINISHED:
            break
    assert long.status is Status.FINISHED


def test_deadlines_and_queue_timeouts() -> None:
    machine = Machine(60, max_running=1, queue_timeout=5.0)
    running = sequence("running", [1], 50)
    late = sequence("late", [1], deadline=3.0)
    waiting = sequence("waiting", [2])
    for s in (running, late, waiting):
        machine.scheduler.add(s)
    machine.step()
    assert machine.scheduler.expired() == []
    machine.now = 3.0
    assert machine.scheduler.expired() == [late]
    machine.now = 5.0
    assert set(machine.scheduler.expired()) == {late, waiting}


def test_finishing_twice_is_harmless() -> None:
    machine = Machine(10)
    s = sequence("a", [1, 2, 3])
    machine.scheduler.add(s)
    machine.step()
    machine.scheduler.finish(s)
    machine.scheduler.finish(s)
    machine.cache.check_integrity([])
