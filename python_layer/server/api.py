"""The HTTP side: routes, request ids, and errors in OpenAI's shape."""

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import AsyncIterator, Coroutine
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from python_layer.server.access import Access
from python_layer.server.chat_page import add_chat_page
from python_layer.server.errors import (
    ModelNotFoundError,
    error_event,
    error_response,
    http_error_response,
    validation_response,
)
from python_layer.server.guard import Guard
from python_layer.server.json_route import JsonRoute
from python_layer.server.metrics import CONTENT_TYPE, Metrics
from python_layer.server.observability import Observed
from python_layer.server.plain import PlainResponse
from python_layer.server.prompts import check_number
from python_layer.server.rate_limits import Caller
from python_layer.server.responses import Response as Answers
from python_layer.server.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    TemplateRequest,
    TokenizeRequest,
)
from python_layer.server.service import Service
from python_layer.utils.errors import MiliError

if TYPE_CHECKING:  # its packages are needed only where traces are on
    from python_layer.server.tracing import RequestTracer

LOG = logging.getLogger(__name__)
LONGEST_REQUEST_ID = 128
SHOWN_HEADERS = ["X-Request-ID", "Retry-After"] + [
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]
"""What pages of other origins may read of an answer's head."""
NOBODY_READS = 499
"""The status of an answer to a client that has left; it is in logs only."""

T = TypeVar("T")


def create_app(
    service: Service,
    access: Access | None = None,
    *,
    tracer: "RequestTracer | None" = None,
    log_prompts: bool = False,
) -> FastAPI:
    """The application of a service, which it starts and stops.

    Args:
        service: Serves the requests.
        access: Who may send them, and how much; None is anybody, as much as they like.
        tracer: Makes their traces; None for none.
        log_prompts: Whether what is asked and answered goes into the log.
    """
    access = access or Access()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Streams that are under way when the server is told to end are finished, not cut.
        AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
        # More threads that make tokens would only keep this one from answering; two are for what large prompts hold up.
        to_thread.current_default_thread_limiter().total_tokens = (os.cpu_count() or 1) + 2
        service.start()
        yield
        await asyncio.to_thread(service.stop)
        if tracer is not None:
            await asyncio.to_thread(tracer.shutdown)

    app = FastAPI(
        title="MILI",
        version=version("mili"),
        summary="An OpenAI-compatible API for Qwen3 models.",
        lifespan=lifespan,
    )
    metrics = Metrics(service.served)
    app.router.route_class = JsonRoute
    # Each goes around those before it.
    app.add_middleware(Guard, access=access, check_room=service.check_room)
    if access.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=SHOWN_HEADERS,
        )
    app.add_middleware(
        Observed, metrics=metrics, routes=app.routes, served=service.served, tracer=tracer, log_bodies=log_prompts
    )
    app.add_middleware(RequestIds)
    _add_state_routes(app, service)
    _add_metrics_route(app, metrics)
    _add_model_routes(app, service)
    add_chat_page(app)

    async def mili_error(request: Request, error: Exception) -> JSONResponse:
        return error_response(error, _id(request))

    async def validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return validation_response(error, _id(request))

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return http_error_response(error, _id(request))

    app.add_exception_handler(MiliError, mili_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, mili_error)
    return app


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        """The state of device, model, tokenizer, memory and queue; 503 when requests can't be served."""
        report = service.health()
        return JSONResponse(report, 503 if report["status"] == "unhealthy" else 200)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """200 once a request would be served, 503 before and after."""
        return JSONResponse({"state": service.state}, 200 if service.state == "ready" else 503)

    @app.get("/version")
    async def release() -> dict[str, str]:
        """The versions of MILI and of the compiler below it."""
        return {"version": version("mili"), "max": version("max")}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [_model(service.handlers.model_name)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """The model of that name."""
        if name != service.handlers.model_name:
            raise ModelNotFoundError(f"model {name!r} is not served; this is {service.handlers.model_name!r}", "model")
        return _model(name)


def _add_metrics_route(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics")
    def exposition() -> Response:
        """Everything that is counted and measured, for Prometheus."""
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


def _add_model_routes(app: FastAPI, service: Service) -> None:
    async def few_prompts(request: Request) -> None:
        if await request.body():  # an empty one has another error
            check_number(await request.json(), service.max_waiting)

    @app.post("/v1/completions", dependencies=[Depends(few_prompts)])
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue a prompt or several."""
        return await _respond(
            request, await service.handlers.complete(body, _id(request), _caller(request)), body.stream
        )

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await _respond(request, await service.handlers.chat(body, _id(request), _caller(request)), body.stream)

    @app.post("/generate")
    async def generate(body: GenerateRequest, request: Request) -> Response:
        """Continue a prompt; the plain protocol, with the tokens and the time it took."""
        return await _respond(
            request, await service.handlers.generate(body, _id(request), _caller(request)), body.stream
        )

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        """The tokens of a text."""
        return await service.handlers.tokenize(body)

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        """The text of tokens."""
        return await service.handlers.detokenize(body)

    @app.post("/apply-template")
    async def apply_template(body: TemplateRequest) -> dict[str, str]:
        """The prompt that a conversation becomes."""
        return await service.handlers.apply_template(body)


class RequestIds:
    """Gives each request an id, its own X-Request-ID if it is a good one, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        good = given.isascii() and given.isprintable() and 0 < len(given) <= LONGEST_REQUEST_ID
        request_id = given if good else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def _id(request: Request) -> str:
    return str(request.state.request_id)


def _caller(request: Request) -> Caller:
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "mili"}


async def _respond(request: Request, answers: Answers | PlainResponse, stream: bool) -> Response:
    request.state.engine_requests = answers.requests
    if not stream:
        whole = await _unless_gone(request, answers.whole())
        return Response(status_code=NOBODY_READS) if whole is None else JSONResponse(whole)
    events = answers.events()
    # What is refused is refused with a status of its own, before the stream begins.
    first = await _unless_gone(request, _first(events))
    if first is None:
        return Response(status_code=NOBODY_READS)
    return EventSourceResponse(_with_rest(first, events, _id(request)), sep="\n")


async def _first(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Does the work, or leaves it as soon as the client has left, with None."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _with_rest(first: str, rest: AsyncIterator[str], request_id: str) -> AsyncIterator[str]:
    """All events; what goes wrong on the way is told by the last one."""
    yield first
    try:
        async for event in rest:
            yield event
    except Exception as error:
        if not isinstance(error, MiliError):
            LOG.exception("request %s failed", request_id)
        yield error_event(error, request_id)


def __getattr__(name: str) -> FastAPI:
    """``app``, for ``uvicorn python_layer.server.api:app``: made of config/ and the environment when asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from python_layer.server.run import app_of
    from python_layer.utils.settings import load_settings

    return app_of(load_settings({}))
