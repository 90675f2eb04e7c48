"""Prompts through MILI's engine, without the HTTP server: when each token came."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request


@dataclass(frozen=True)
class Arrivals:
    """When the tokens of some requests came, in seconds since they were submitted.

    Attributes:
        tokens: For each request the time of each of its tokens.
        ended: When the last request had ended.
    """

    tokens: list[list[float]]
    ended: float

    @property
    def first(self) -> float:
        """When all requests had their first token."""
        return max(times[0] for times in self.tokens)

    @property
    def per_round(self) -> float:
        """Seconds for one token of each request, from the last one's first token to the first one's last token.

        In between all of them decode, and nothing else is done.
        """
        first, last = self.first, min(times[-1] for times in self.tokens)
        counts = [sum(first < at <= last for at in times) for times in self.tokens]
        if not sum(counts):
            raise ValueError("the first request ended before the last one's first token; ask for more tokens")
        return (last - first) * len(self.tokens) / sum(counts)


class EngineRuns:
    """Greedy answers of a given length.

    Args:
        engine: The engine; prompts should be new each time, or it finds them in its cache.
    """

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()

    def generate(self, prompts: Sequence[list[int]], tokens: int) -> Arrivals:
        """Generates so many tokens after each prompt, all at once.

        Raises:
            Exception: That of a request that failed.
        """
        arrived: list[list[float]] = [[] for _ in prompts]
        failures: list[Exception | None] = []
        done = threading.Semaphore(0)
        params = GenerationParams(max_tokens=tokens, ignore_eos=True)
        started = time.perf_counter()

        def submit(prompt: list[int], times: list[float]) -> None:
            def sink(output: Output) -> None:
                times.extend([time.perf_counter() - started] * len(output.tokens))
                if output.finish_reason:
                    failures.append(output.error)
                    done.release()

            self._engine.submit(Request(f"run-{next(self._numbers)}", prompt, params), sink)

        for prompt, times in zip(prompts, arrived, strict=True):
            submit(prompt, times)
        for _ in prompts:
            done.acquire()
        ended = time.perf_counter() - started
        for error in failures:
            if error is not None:
                raise error
        return Arrivals(arrived, ended)
