"""Ways to use the engine: as an async iterator, and for a whole batch of prompts."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Protocol

from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request, Sink, TokenLogprobs


class Submitter(Protocol):
    """The engine's side of it."""

    def submit(self, request: Request, sink: Sink) -> None:
        """Admits a request whose outputs go to ``sink``."""

    def abort(self, request_id: str) -> None:
        """Takes a request back."""


class Generates(Protocol):
    """What the engine is to those who read its outputs."""

    def generate(self, *requests: Request) -> AsyncGenerator[Output, None]:
        """The outputs of requests as they come."""


async def generate(engine: Submitter, *requests: Request) -> AsyncGenerator[Output, None]:
    """The outputs of one request or several as they come; leaving the iteration takes the requests back.

    Raises:
        MiliError: As :meth:`~python_layer.inference.engine.InferenceEngine.submit`.
        EngineStoppedError: The engine stopped meanwhile.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Output]()

    def sink(output: Output) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody listens any more
            loop.call_soon_threadsafe(queue.put_nowait, output)

    left: dict[str, int] = {}
    try:
        for request in requests:
            engine.submit(request, sink)
            left[request.request_id] = request.params.n
        while any(left.values()):
            output = await queue.get()
            if output.error is not None:
                raise output.error
            left[output.request_id] -= output.finish_reason is not None
            yield output
    finally:
        for request_id, answers in left.items():
            if answers:
                engine.abort(request_id)


def generate_batch(
    engine: Submitter,
    prompts: Iterable[list[int]],
    params: GenerationParams,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Output]]:
    """Answers many prompts and waits for all of them.

    Args:
        engine: Does the work.
        prompts: Token ids each.
        params: The same for all.
        progress: Told (answers finished, answers in all), on the engine's thread.

    Returns:
        For each prompt its answers, one :class:`~python_layer.inference.request.Output` with all tokens and the
        whole text each.

    Raises:
        MiliError: As :meth:`~python_layer.inference.engine.InferenceEngine.submit`, for the first prompt that is
            refused; the others are taken back.
        EngineStoppedError: The engine stopped meanwhile.
    """
    name = uuid.uuid4().hex
    requests = [Request(f"{name}-{i}", list(prompt), params) for i, prompt in enumerate(prompts)]
    collector = _Collector(len(requests) * params.n, progress)
    try:
        for request in requests:
            engine.submit(request, collector.sink)
        collector.wait()
    except BaseException:
        for request in requests:
            engine.abort(request.request_id)
        raise
    return [[collector.joined(request.request_id, i) for i in range(params.n)] for request in requests]


class _Collector:
    """Puts the pieces of many answers together."""

    def __init__(self, answers: int, progress: Callable[[int, int], None] | None) -> None:
        self._answers = answers
        self._progress = progress
        self._parts: dict[tuple[str, int], list[Output]] = {}
        self._finished = 0
        self._error: Exception | None = None
        self._all = threading.Event()
        if not answers:
            self._all.set()

    def sink(self, output: Output) -> None:
        self._parts.setdefault((output.request_id, output.index), []).append(output)
        if output.finish_reason is not None:
            self._finished += 1
            self._error = self._error or output.error
            if self._progress:
                self._progress(self._finished, self._answers)
            if self._finished == self._answers or self._error:
                self._all.set()

    def wait(self) -> None:
        self._all.wait()
        if self._error is not None:
            raise self._error

    def joined(self, request_id: str, index: int) -> Output:
        parts = self._parts[request_id, index]
        logprobs: list[TokenLogprobs] | None = None
        if parts[0].logprobs is not None:
            logprobs = [entry for part in parts for entry in part.logprobs or []]
        tokens = [token for part in parts for token in part.tokens]
        text, first, last = "".join(part.text for part in parts), parts[0], parts[-1]
        return Output(
            request_id,
            index,
            tokens,
            text,
            logprobs,
            last.finish_reason,
            last.cached_tokens,
            None,
            first.prompt_logprobs,
        )
