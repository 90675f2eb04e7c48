"""Loads: many requests at a server over HTTP, or at an engine in this process."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from python_layer.bench.report import Measured, Report
from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Output, Request
from python_layer.utils.errors import ConfigError

QUESTIONS = (
    "What is the capital of {}?", "Repeat after me: {}", "What is {}?", "Tell me about {}.", "Hello, I am {}.",
    "Go on: There once was a brave fox named {}.",
)  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Attributes:
        requests: How many requests.
        concurrent: Most of them at once.
        max_tokens: Most tokens of an answer.
        ignore_eos: Make every answer that long.
        leave: Share of the requests that the client leaves before the end, at a random moment.
        seed: Decides the questions and who leaves.
    """

    requests: int
    concurrent: int
    max_tokens: int = 64
    ignore_eos: bool = False
    leave: float = 0.0
    seed: int = 0

    def question(self, number: int) -> str:
        """A short question, different for each request."""
        rng = random.Random(self.seed * 1_000_003 + number)
        name = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 12)))
        return rng.choice(QUESTIONS).format(name)


async def at_server(url: str, load: Load, progress: Callable[[], None], model: str | None = None) -> Report:
    """Sends the load to an OpenAI-compatible server, as streamed chat completions.

    Raises:
        ConfigError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError:
        raise ConfigError("a load over HTTP needs httpx: pip install 'mili[bench]'") from None
    limits = httpx.Limits(max_connections=load.concurrent, max_keepalive_connections=load.concurrent)
    async with httpx.AsyncClient(base_url=url.rstrip("/").removesuffix("/v1"), limits=limits, timeout=600) as client:

        async def ask(number: int) -> Measured | None:
            rng = random.Random(f"{load.seed} {number}")
            leaving = rng.randint(0, load.max_tokens // 2) if rng.random() < load.leave else None
            return await _ask(client, load, number, leaving, model)

        return await _all(load, ask, progress)


async def _ask(client: Any, load: Load, number: int, leaving: int | None, model: str | None) -> Measured | None:
    """One request; None when it was left after ``leaving`` chunks."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": load.question(number)}],
        "max_tokens": load.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {"ignore_eos": True} if load.ignore_eos else {}
    body |= {"model": model} if model else {}
    began = time.perf_counter()
    first, chunks, tokens = 0.0, 0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            await response.aread()
            raise ConfigError(f"{response.status_code}: {response.text[:200]}")
        async for line in response.aiter_lines():
            if leaving is not None and chunks >= leaving:
                return None
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise ConfigError(event["error"]["message"])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter() - began
                chunks += 1
    ended = time.perf_counter() - began
    return Measured(first or ended, ended, tokens)


async def at_engine(
    engine: InferenceEngine, encode: Callable[[str], list[int]], load: Load, progress: Callable[[], None]
) -> Report:
    """Gives the load to an engine.

    Args:
        engine: Does the work.
        encode: A question to token ids.
        load: What is asked for.
        progress: Told of every answer.
    """
    params = GenerationParams(max_tokens=load.max_tokens, ignore_eos=load.ignore_eos)

    async def ask(number: int) -> Measured | None:
        request = Request(f"bench-{number}", encode(load.question(number)), params)
        began = time.perf_counter()
        first, tokens = 0.0, 0
        output: Output
        async for output in engine.generate(request):
            if output.finish_reason in ("timeout", "abort"):
                raise ConfigError(f"the request ended by {output.finish_reason}")
            first = first or time.perf_counter() - began
            tokens += len(output.tokens)
        return Measured(first, time.perf_counter() - began, tokens)

    return await _all(load, ask, progress)


async def _all(load: Load, ask: Callable[[int], Any], progress: Callable[[], None]) -> Report:
    """Runs every request, ``concurrent`` at once."""
    numbers = iter(range(load.requests))
    measured: list[Measured] = []
    errors: Counter[str] = Counter()
    left = 0

    async def worker() -> None:
        nonlocal left
        for number in numbers:
            try:
                result = await ask(number)
                if result is None:
                    left += 1
                else:
                    measured.append(result)
            except Exception as error:  # whatever it was, it is counted and shown
                errors[str(error) or type(error).__name__] += 1
            progress()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(load.concurrent)))
    return Report(time.perf_counter() - began, measured, dict(errors), left)
