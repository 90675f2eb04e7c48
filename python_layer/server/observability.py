"""What is told of each HTTP request: a count, a line in the log and, where traces are on, a span."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from python_layer.inference.request import Request
from python_layer.server.metrics import Metrics, Served

if TYPE_CHECKING:  # its packages are needed only where traces are on
    from python_layer.server.tracing import RequestTracer

ACCESS = logging.getLogger("mili.access")
UNKNOWN_ROUTE = "unknown"
"""The route of a path that is none: the path itself could be anything."""


@dataclass
class Exchange:
    """An HTTP request and its answer, once both are over.

    Attributes:
        method: GET or POST, say.
        request_id: Its id.
        route: The route as it is declared, without the values of its parameters.
        status: The answer's.
        seconds: From the request's head to the answer's end.
        requests: What the engine was asked for.
        asked: The request's body, where bodies are kept.
        answered: Likewise the answer's.
    """

    method: str
    request_id: str
    route: str = UNKNOWN_ROUTE
    status: int = 500
    seconds: float = 0.0
    requests: list[Request] = field(default_factory=list)
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt) for request in self.requests)

    @property
    def generated_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(request.timeline.generated for request in self.requests)

    @property
    def finish_reasons(self) -> list[str]:
        """Why the answers ended; "abort" for those that go on although nobody waits for them any more."""
        reasons: list[str] = [reason for request in self.requests for reason in request.timeline.reasons]
        return reasons + ["abort"] * (sum(request.params.n for request in self.requests) - len(reasons))


class Observed:
    """Watches each request from outside; needs its id, so it goes inside of what gives that.

    Args:
        app: What is watched. It puts the requests it makes to the engine into the state, as ``engine_requests``.
        metrics: Count it.
        routes: What can be asked for.
        served: Names the model.
        tracer: Makes spans; None for no traces.
        log_bodies: Whether what was asked and answered goes into the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        routes: Iterable[BaseRoute],
        served: Callable[[], Served | None],
        tracer: "RequestTracer | None",
        log_bodies: bool,
    ) -> None:
        self._app, self._metrics, self._routes, self._served = app, metrics, routes, served
        self._tracer, self._log_bodies = tracer, log_bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        exchange = Exchange(scope["method"], scope["state"]["request_id"])
        # Every request is a task of its own, so nothing has to be unbound; what the server logs of a failure
        # afterwards still has the id.
        bind_contextvars(request_id=exchange.request_id)
        span = None if self._tracer is None else self._tracer.begin(scope)

        async def watched_receive() -> Message:
            message = await receive()
            if self._log_bodies:
                exchange.asked += message.get("body", b"")
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            elif self._log_bodies:
                exchange.answered += message.get("body", b"")
            await send(message)

        try:
            await self._app(scope, watched_receive, watched_send)
        finally:
            exchange.seconds = time.perf_counter() - began
            exchange.route = _route(scope, self._routes)
            made = scope["state"].get("engine_requests", [])
            exchange.requests = [request for request in made if request.timeline.submitted]
            self._metrics.count_http(exchange.route, exchange.status)
            ACCESS.info("request", extra=_line(exchange, self._log_bodies))
            if self._tracer is not None and span is not None:
                served = self._served()
                self._tracer.end(span, exchange, None if served is None else served.model_name)


def _route(scope: Scope, routes: Iterable[BaseRoute]) -> str:
    """The route of a request, also of one that was refused before it came there."""
    route = scope.get("route") or next((each for each in routes if each.matches(scope)[0] != Match.NONE), None)
    return getattr(route, "path", UNKNOWN_ROUTE)


def _line(exchange: Exchange, bodies: bool) -> dict[str, Any]:
    """What the log says of a request."""
    line: dict[str, Any] = {
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "seconds": round(exchange.seconds, 6),
    }
    if exchange.requests:
        line["prompt_tokens"] = exchange.prompt_tokens
        line["generated_tokens"] = exchange.generated_tokens
        line["finish_reason"] = ",".join(sorted(set(exchange.finish_reasons)))
    if bodies and exchange.asked:
        line["asked"] = exchange.asked.decode(errors="replace")
        line["answered"] = exchange.answered.decode(errors="replace")
    return line
