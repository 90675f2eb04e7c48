"""The engine: a loop on its own thread that advances every request by one step of the model at a time."""

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import asdict, dataclass

from python_layer.inference import fronts
from python_layer.inference.answers import Answers
from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import FinishReason, Output, Request, Sink
from python_layer.inference.request_stats import RequestStats
from python_layer.inference.scheduler import ContinuousBatchScheduler
from python_layer.inference.sequence import Sequence
from python_layer.inference.stats import EngineStats
from python_layer.inference.steps import EngineModel, InFlight, Steps
from python_layer.inference.turn import Turn
from python_layer.model.generation import check_prompt, check_token_ids
from python_layer.tokenizer import QwenTokenizer
from python_layer.utils.errors import EngineStoppedError, InvalidRequestError

LOG = logging.getLogger(__name__)


@dataclass
class _Totals:
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    model_seconds: float = 0.0
    overhead_seconds: float = 0.0


class InferenceEngine:
    """Serves requests, as many at once as the scheduler allows.

    Args:
        model: Computes the steps. The engine's thread is the only one that calls it.
        scheduler: Plans the steps.
        cache: The scheduler's pages.
        tokenizer: Makes the answers' text; None for token ids only.
        speculation: Most tokens to guess ahead by prompt lookup in each step; 0 is off. The answers stay the same.
        overlap: Launch a step before the tokens of the one before are known here; a device that computes beside this
            process then need not wait for it. The answers stay the same. Not together with speculation, which
            needs those tokens.
        debug: Check the pages after every step, not only when the engine falls idle.
    """

    def __init__(
        self,
        model: EngineModel,
        scheduler: ContinuousBatchScheduler,
        cache: CacheManager,
        tokenizer: QwenTokenizer | None,
        *,
        speculation: int = 0,
        overlap: bool = False,
        debug: bool = False,
    ) -> None:
        if overlap and speculation:
            raise ValueError("overlap and speculation exclude each other")
        self._config = model.config
        self._steps = Steps(model)
        self._scheduler = scheduler
        self._cache = cache
        self._speculation = speculation
        self._overlap = overlap
        self._in_flight: InFlight | None = None
        self._debug = debug
        self._answers = Answers(tokenizer, model.config.eos_token_ids)
        self._totals = _Totals()
        self.request_stats = RequestStats()
        self._wake = threading.Condition()
        # Shared with the threads that ask, under the lock of _wake:
        self._arriving: list[tuple[Request, Sink]] = []
        self._leaving: set[str] = set()
        self._open: dict[str, int] = {}  # answers of each request that have not ended
        self._closed = False
        self._stopping = False
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._loop, name="mili-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are served."""
        return self._thread.is_alive() and self.failure is None

    def submit(self, request: Request, sink: Sink) -> None:
        """Admits a request; its outputs go to ``sink`` on the engine's thread, the last with a finish reason.

        Raises:
            InvalidRequestError: It can't be served as asked; names the parameter.
            OverloadedError: Too many are waiting.
            EngineStoppedError: The engine is shut down or has failed.
        """
        self._check(request)
        with self._wake:
            if self._closed:
                why = f"has failed: {self.failure!r}" if self.failure else "is shutting down and takes no new requests"
                raise EngineStoppedError(f"the engine {why}")
            if request.request_id in self._open:
                raise InvalidRequestError(f"request_id {request.request_id!r} is under way already", "request_id")
            self._scheduler.check(len(request.prompt), request.params.max_tokens, len(self._arriving))
            self._open[request.request_id] = request.params.n
            request.timeline.begin(self._scheduler.clock())
            self._arriving.append((request, sink))
            self._wake.notify()

    def check_room(self, entering: int) -> None:
        """Refuses one more request before anything is done for it; may be called from any thread.

        Args:
            entering: Requests that will be submitted soon.

        Raises:
            OverloadedError: Even if everything that can run did, the queue would be full.
        """
        self._scheduler.check_room(len(self._arriving) + entering)

    def generate(self, *requests: Request) -> AsyncGenerator[Output, None]:
        """The outputs of requests as they come; see :func:`~python_layer.inference.fronts.generate`."""
        return fronts.generate(self, *requests)

    def generate_batch(
        self,
        prompts: Iterable[list[int]],
        params: GenerationParams,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Output]]:
        """Answers many prompts and waits; see :func:`~python_layer.inference.fronts.generate_batch`."""
        return fronts.generate_batch(self, prompts, params, progress)

    def abort(self, request_id: str) -> None:
        """Takes a request back before the next step and frees its pages; nothing happens if it has ended."""
        with self._wake:
            if request_id in self._open:
                self._leaving.add(request_id)

    def stats(self) -> EngineStats:
        """Counts and state, taken between two steps or during one."""
        scheduler, prefix, counts = self._scheduler, self._cache.prefix_stats, self._cache.counts
        return EngineStats(
            requests=len(self._open),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            preemptions=scheduler.stats.preemptions,
            prefix_queries=prefix.queried,
            prefix_hits=prefix.hit,
            pages_free=counts.free,
            pages_cached=counts.cached,
            pages_held=counts.held,
            **asdict(self._totals),
        )

    def shutdown(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Refuses new requests and ends the thread.

        Args:
            drain: Finish what is under way first; otherwise, and after ``timeout``, it is given up.
            timeout: Most seconds to wait for that.
        """
        with self._wake:
            self._closed = True
            self._stopping = not drain
            self._wake.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._wake:
                self._stopping = True
            self._thread.join()

    def _check(self, request: Request) -> None:
        config, params = self._config, request.params
        check_prompt(config, request.prompt, params.max_tokens)
        check_token_ids(config, "stop_token_ids", params.stop_token_ids)
        check_token_ids(config, "logit_bias", params.sampling.logit_bias)
        if params.stop and self._answers.tokenizer is None:
            raise InvalidRequestError("stop strings need a tokenizer, which the checkpoint lacks", "stop")

    def _loop(self) -> None:
        try:
            while self._take_arrivals():
                self._step()
        except Exception as error:
            LOG.exception("the engine failed")
            self.failure = error
        with self._wake:
            self._closed = True
        self._admit_arrivals()
        why = f"the engine has failed: {self.failure!r}" if self.failure else "the engine was shut down"
        left = list(self._answers.values())
        for answer in left:
            answer.give_up("abort", EngineStoppedError(why))
            self._close(answer.sequence)
        for answer in left:  # when all have been told, for what failed may fail again
            self._scheduler.finish(answer.sequence)

    def _take_arrivals(self) -> bool:
        """Takes in what was asked for, and waits for it when there is no other work; False to end."""
        if not (self._answers or self._in_flight or self._arriving or self._closed):
            self._idle()
        with self._wake:
            if not (self._answers or self._in_flight):
                self._wake.wait_for(lambda: self._arriving or self._closed)
            if self._stopping or (self._closed and not self._answers and not self._arriving):
                return False
        self._admit_arrivals()
        return True

    def _idle(self) -> None:
        """Does what must not make a request wait."""
        self._cache.check_integrity([])
        self._scheduler.swap.check_integrity([])
        while not (self._arriving or self._closed) and self._steps.ready_page(self._cache.reached):
            pass

    def _admit_arrivals(self) -> None:
        with self._wake:
            arriving, self._arriving = self._arriving, []
            leaving, self._leaving = self._leaving, set()
        for request, sink in arriving:
            self._scheduler.add(self._answers.begin(request, sink))
            LOG.debug("admitted", extra={"request": request.request_id, "prompt_tokens": len(request.prompt)})
        if leaving:
            self._give_up([s for s in self._answers if s.request_id in leaving], "abort")

    def _step(self) -> None:
        """Launches a step; with overlap, takes the tokens of the one before while the device is busy with it."""
        began, waited = time.perf_counter(), self._steps.model_seconds
        self._give_up(self._scheduler.expired(), "timeout")
        if self._speculation:
            self._answers.draft(self._scheduler.running, self._speculation)
        before, self._in_flight = self._in_flight, None
        step = self._launch(before)
        if before is not None:
            self._collect(before)
        if step is not None:
            self._steps.draw(step)
            if self._overlap:
                self._in_flight = step
            else:
                self._collect(step)
        if self._debug:
            self._cache.check_integrity(self._scheduler.running)
            self._scheduler.swap.check_integrity(self._scheduler.waiting)
        waited = self._steps.model_seconds - waited
        self._totals.model_seconds += waited
        self._totals.overhead_seconds += time.perf_counter() - began - waited

    def _launch(self, before: InFlight | None) -> InFlight | None:
        """Plans and begins the next step; None if there is nothing to do."""
        plan = self._scheduler.plan()
        if not plan.rows:
            return None
        step = self._steps.launch(plan, [self._answers.turn(*row) for row in plan.rows], before)
        for turn in step.turns:
            self._scheduler.computed(turn.sequence, turn.known)
        return step

    def _collect(self, step: InFlight) -> None:
        """Gives the answers of a step their tokens."""
        results, now = self._steps.collect(step), self._scheduler.clock()
        taken = [turn for turn, _ in results if not turn.dropped]
        for turn, drawn in results:
            if turn.dropped:
                continue
            if turn.answers:
                self.request_stats.sampled(turn.sequence, now)
            accepted = turn.take(drawn)
            if accepted or not turn.ended:  # else the last token's keys and values, if there are any, are nobody's
                self._scheduler.computed(turn.sequence, accepted)
            self._totals.accepted_tokens += accepted
            for answer in turn.answers:  # several get one token each, a lone one also those of its draft
                self.request_stats.took(answer.sequence, turn.taken // len(turn.answers), now)
        for turn in taken:
            self._part(turn)
        totals = self._totals
        totals.steps += 1
        totals.prompt_tokens += sum(turn.known - bool(turn.answers) for turn in step.turns)
        totals.generated_tokens += sum(turn.taken for turn in taken)
        totals.drafted_tokens += sum(turn.drafted for turn in taken)

    def _part(self, turn: Turn) -> None:
        """After a step: new answers go on by themselves, with the first one's pages, and ended ones leave."""
        for answer in turn.answers[1:]:
            self._answers[answer.sequence] = answer
            if answer.reason is None:
                self._scheduler.add_fork(turn.sequence, answer.sequence)
            else:
                self._close(answer.sequence)
        if turn.ended:
            self._scheduler.finish(turn.sequence)
            self._close(turn.sequence)

    def _give_up(self, sequences: list[Sequence], reason: FinishReason) -> None:
        for sequence in sequences:
            self._scheduler.finish(sequence)
            self._answers[sequence].give_up(reason)
            self._close(sequence)

    def _close(self, sequence: Sequence) -> None:
        """Forgets an answer that has ended, and its request with the last one."""
        answer = self._answers.pop(sequence)
        said = {"request": sequence.request_id, "reason": answer.reason, "answer_tokens": sequence.generated}
        LOG.debug("answered", extra=said)
        with self._wake:
            self._open[sequence.request_id] -= answer.ended
            if self._open[sequence.request_id] == 0:
                del self._open[sequence.request_id]
                self.request_stats.ended(sequence.timeline, sequence.prompt_length, self._scheduler.clock())
