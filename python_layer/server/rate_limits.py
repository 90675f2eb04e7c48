"""How many requests and tokens a client may use in a minute."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from python_layer.inference.fronts import Generates
from python_layer.inference.request import Output, Request
from python_layer.server.errors import RateLimitedError
from python_layer.server.token_bucket import TokenBucket
from python_layer.utils.errors import MiliError

MOST_CLIENTS = 10_000
NETWORK_OF_ONE = 64
"""Bits of an IPv6 address that tell clients apart: whoever has one address has all that begin alike."""


class RateLimits:
    """The buckets of every client that was seen lately.

    Args:
        requests_per_minute: None is no limit.
        tokens_per_minute: Of prompts and answers together; None is no limit.
        clock: Seconds.
        most_clients: Those that are remembered; who was seen longest ago is forgotten first.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._clock = clock
        self._most = most_clients
        self._clients: OrderedDict[str, dict[str, TokenBucket]] = OrderedDict()

    def of(self, client: str) -> dict[str, TokenBucket]:
        """A client's buckets, ``requests`` and ``tokens``, where these are limited."""
        buckets = self._clients.get(client)
        if buckets is None:
            limits = self._limits.items()
            buckets = {name: TokenBucket(limit, self._clock) for name, limit in limits if limit is not None}
            self._clients[client] = buckets
            if len(self._clients) > self._most:
                self._clients.popitem(last=False)
        self._clients.move_to_end(client)
        return buckets


class Caller:
    """Who sent a request, and what it costs them.

    Args:
        user: The name of their key; "" where there are no keys.
        buckets: What they may use; empty is as much as they like.
        entering: Requests on their way to the engine, this one among them; shared by all.
    """

    def __init__(self, user: str, buckets: dict[str, TokenBucket], entering: set["Caller"]) -> None:
        self.user = user
        self._buckets = buckets
        self._entering = entering
        self._prompt = 0

    def begin(self) -> None:
        """Counts the request.

        Raises:
            RateLimitedError: Too many requests or tokens; nothing was taken.
        """
        self._check()
        if "requests" in self._buckets:
            self._buckets["requests"].take(1)

    def refused(self) -> None:
        """The request was turned away for lack of room: it does not count."""
        if "requests" in self._buckets:
            self._buckets["requests"].give_back(1)

    def take_prompt(self, tokens: int) -> None:
        """Counts the tokens of its prompts.

        Raises:
            RateLimitedError: Others of the same client have used up what there was; nothing was taken.
        """
        if "tokens" in self._buckets:
            self._check("tokens")
            self._buckets["tokens"].take(tokens)
            self._prompt += tokens

    def take_generated(self, tokens: int) -> None:
        """Counts generated tokens as they come; from here on, nothing is given back."""
        self._prompt = 0
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(tokens)

    def give_back_prompt(self) -> None:
        """The prompt was not served."""
        if "tokens" in self._buckets:
            self._buckets["tokens"].give_back(self._prompt)
        self._prompt = 0

    def enter(self) -> None:
        """Its body is there; it is on its way to the engine."""
        self._entering.add(self)

    def entered(self) -> None:
        """It is in the engine, or it won't be."""
        self._entering.discard(self)

    def headers(self) -> dict[str, str]:
        """What is limited, what is left of it and when it will be whole again, as OpenAI tells it."""
        told = {}
        for name, bucket in self._buckets.items():
            told[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
            told[f"x-ratelimit-remaining-{name}"] = str(bucket.left)
            told[f"x-ratelimit-reset-{name}"] = _duration(bucket.until_full)
        return told

    def _check(self, *names: str) -> None:
        empty = {name: b for name, b in self._buckets.items() if b.wait > 0 and name in (names or self._buckets)}
        if empty:
            name, bucket = max(empty.items(), key=lambda each: each[1].wait)
            seconds = math.ceil(bucket.wait)
            raise RateLimitedError(
                f"the limit of {bucket.per_minute} {name} a minute is reached; try again in {seconds} s", seconds
            )


class Metered:
    """The engine, at a caller's cost.

    Args:
        engine: Does the work.
        caller: Whose work it is.
    """

    def __init__(self, engine: Generates, caller: Caller) -> None:
        self._engine, self._caller = engine, caller

    async def generate(self, *requests: Request) -> AsyncGenerator[Output, None]:
        """As the engine's; what it refuses, and what waited in vain, costs nothing.

        Raises:
            RateLimitedError: The caller has used up what there was.
            MiliError: As the engine.
        """
        self._caller.take_prompt(sum(len(request.prompt) for request in requests))
        self._caller.entered()  # nothing else runs between this and the engine's own count
        try:
            async with aclosing(self._engine.generate(*requests)) as outputs:
                async for output in outputs:
                    if output.tokens:
                        self._caller.take_generated(len(output.tokens))
                    elif output.finish_reason == "timeout":
                        self._caller.give_back_prompt()
                    yield output
        except MiliError:
            self._caller.give_back_prompt()
            raise


def client_of(address: str) -> str:
    """What an address is remembered as: itself, or the network of one user."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a socket's path, or a test's
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((int(parsed), NETWORK_OF_ONE), strict=False))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds - 1e-3), 60)
    return f"{minutes}m{rest}s" if minutes else f"{max(0, rest)}s"
