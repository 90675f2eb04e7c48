"""Continuous batching (Orca, Yu et al. 2022, section 4) with chunked prefill: which tokens each step computes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.policies import POLICIES, Key, Load, PolicyName
from python_layer.inference.sequence import Sequence, Status
from python_layer.inference.swap_space import SwapSpace
from python_layer.utils.errors import OutOfMemoryError, OverloadedError

SCORED_ROWS = 64


@dataclass(frozen=True)
class SchedulerConfig:
    """Limits of the scheduler.

    Attributes:
        token_budget: Most tokens of a step, prompts' chunks and decodes together.
        max_running: Most sequences that hold pages at once.
        max_waiting: Most sequences in the queue; more are refused.
        queue_timeout: Seconds after which a sequence that was never scheduled is given up; None is never.
        policy: Who goes first.
    """

    token_budget: int = 512
    max_running: int = 256
    max_waiting: int = 4096
    queue_timeout: float | None = None
    policy: PolicyName = "fcfs"


@dataclass(frozen=True)
class StepPlan:
    """What a step computes.

    Attributes:
        rows: (sequence, tokens) in the order of the batch; they follow its ``computed`` ones and, once those
            are all known tokens, are of its draft.
        swap_out: Copies (page, swap slot) to make first.
        copies: Page copies (from, to) to make next.
        swap_in: Copies (swap slot, page) to make after those.
    """

    rows: list[tuple[Sequence, int]]
    copies: list[tuple[int, int]]
    swap_out: list[tuple[int, int]] = field(default_factory=list)
    swap_in: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class SchedulerStats:
    """Counts since the start."""

    admitted: int = 0
    preemptions: int = 0


@dataclass
class ContinuousBatchScheduler:
    """Holds the sequences that wait and run, and plans each step within the token budget and the pages.

    Running sequences go before waiting ones, each in the policy's order. When pages run out, the running
    sequence that the policy puts last gives up its pages and waits, to be recomputed or, where the swap space had room,
    copied back; the first one always goes on, and it fits alone, so every admitted sequence finishes.

    Args:
        config: Limits and policy.
        cache: The pages.
        clock: Seconds; injected, so that a simulator can run on virtual time.
        swap: Where pages of preempted sequences are kept.
    """

    config: SchedulerConfig
    cache: CacheManager
    clock: Callable[[], float]
    swap: SwapSpace = field(default_factory=lambda: SwapSpace(0))
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    stats: SchedulerStats = field(default_factory=SchedulerStats)
    served: dict[str, int] = field(default_factory=dict)
    """Tokens computed for each user who has sequences here."""

    def check(self, prompt_length: int, max_tokens: int, arriving: int = 0) -> None:
        """Refuses what can't be admitted. May be called from any thread.

        Args:
            prompt_length: Tokens of the prompt.
            max_tokens: Most tokens of the answer.
            arriving: Sequences admitted elsewhere that will be added soon.

        Raises:
            OutOfMemoryError: It can never fit into the cache.
            OverloadedError: The queue is full.
        """
        most = prompt_length + max_tokens - 1  # the last token is never computed
        if self.cache.pages_for(most) > self.cache.total_pages:
            capacity = self.cache.total_pages * self.cache.page_size
            raise OutOfMemoryError(
                f"{prompt_length} prompt tokens and {max_tokens} new ones need room for {most} tokens in the KV "
                f"cache, which holds {capacity}; shorten the prompt or lower max_tokens",
                "max_tokens",
            )
        self.check_room(arriving)

    def check_room(self, arriving: int) -> None:
        """Refuses what would find the queue full though all that may run did; may be called from any thread.

        Args:
            arriving: Sequences that will be added soon.

        Raises:
            OverloadedError: It is.
        """
        idle = max(0, self.config.max_running - len(self.running))
        if len(self.waiting) + arriving >= self.config.max_waiting + idle:
            raise OverloadedError(f"{self.config.max_waiting} requests are waiting, the most allowed; try again later")

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence that passed :meth:`check` into the queue."""
        self._admit(sequence)
        self.waiting.append(sequence)

    def add_fork(self, parent: Sequence, child: Sequence) -> None:
        """Adds a sequence that shares all of a running one's pages; it waits if too many run, or if they are gone."""
        self._admit(child)
        if parent.status is Status.RUNNING and len(self.running) < self.config.max_running:
            self.cache.fork(parent, child)
            child.status = Status.RUNNING
            self.running.append(child)
        else:
            self.waiting.append(child)

    def plan(self) -> StepPlan:
        """Chooses the tokens of the next step and makes room for them; empty when there is nothing to do."""
        load = Load(self.clock(), self.served)

        def key(sequence: Sequence) -> Key:
            return POLICIES[self.config.policy](sequence, load)

        budget = self.config.token_budget
        planned: dict[Sequence, int] = {}
        preempted: set[Sequence] = set()
        for sequence in sorted(self.running, key=key):
            if budget == 0 or sequence.status is not Status.RUNNING or sequence.remaining == 0:
                continue
            count = min(sequence.remaining + len(sequence.draft), self._most(sequence, budget))
            if count > sequence.remaining and not self.cache.reserve(sequence, sequence.computed + count):
                count = sequence.remaining  # a draft is not worth another's pages
            while not self.cache.reserve(sequence, sequence.computed + count):
                # One that is planned already keeps its pages: it goes before this one.
                victim = max((s for s in self.running if s not in planned), key=key)
                self._preempt(victim)
                preempted.add(victim)
                if victim is sequence:
                    break
            else:
                planned[sequence] = count
                budget -= count
        for sequence in sorted(self.waiting, key=key):
            if budget == 0 or len(self.running) >= self.config.max_running:
                break
            if sequence in preempted or (sequence.preemptions and len(planned) < len(self.running)):
                break  # the pages it lost are still short, and its last step may still be running
            if not sequence.scores_prompt:  # its log-probabilities need every token's logits
                self.cache.adopt_prefix(sequence)
            known = max(sequence.computed, sequence.kept)
            count = min(len(sequence.tokens) - known, self._most(sequence, budget))
            if not self.cache.reserve(sequence, known + count):
                self.cache.free(sequence)
                break
            self.swap.restore(sequence, self.cache.page_size)
            if not sequence.preemptions and not sequence.generated:
                sequence.prefix_hit = sequence.computed
                sequence.timeline.scheduled = load.now
                self.cache.count_prefix(sequence)
            sequence.status = Status.RUNNING
            self.waiting.remove(sequence)
            self.running.append(sequence)
            planned[sequence] = count
            budget -= count
        swap_out, swap_in = self.swap.take_copies()
        return StepPlan(list(planned.items()), self.cache.take_copies(), swap_out, swap_in)

    def computed(self, sequence: Sequence, count: int) -> None:
        """Records that ``count`` more tokens of a sequence are in the cache, or will be for the next step."""
        sequence.computed += count
        self.served[sequence.user] += count
        self.cache.commit(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it is, and frees its pages; nothing happens to a finished one."""
        if sequence.status is Status.FINISHED:
            return
        (self.running if sequence.status is Status.RUNNING else self.waiting).remove(sequence)
        self.cache.free(sequence)
        self.swap.drop(sequence)
        sequence.status = Status.FINISHED
        if not any(other.user == sequence.user for other in [*self.running, *self.waiting]):
            del self.served[sequence.user]

    def expired(self) -> list[Sequence]:
        """Sequences whose deadline has passed, or that waited too long to begin with."""
        now, limit = self.clock(), self.config.queue_timeout
        late = [s for s in [*self.running, *self.waiting] if s.deadline is not None and now >= s.deadline]
        if limit is not None:
            never_ran = (s for s in self.waiting if not s.preemptions and not s.generated and s not in late)
            late += [s for s in never_ran if now - s.arrival >= limit]
        return late

    @staticmethod
    def _most(sequence: Sequence, budget: int) -> int:
        """Tokens of a sequence that a step takes: few where each brings a row of logits, as long as the vocabulary."""
        return min(budget, SCORED_ROWS) if sequence.scores_prompt else budget

    def _admit(self, sequence: Sequence) -> None:
        self.stats.admitted += 1
        # A user who comes back has no claim to what the others were served meanwhile.
        self.served.setdefault(sequence.user, min(self.served.values(), default=0))

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue; its tokens, those of the answer too, are computed again or copied back later."""
        self.swap.keep(sequence, self.cache.page_size)
        self.cache.free(sequence)
        self.running.remove(sequence)
        sequence.draft = []
        sequence.status = Status.WAITING
        sequence.preemptions += 1
        self.stats.preemptions += 1
        self.waiting.append(sequence)
