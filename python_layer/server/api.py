"""The HTTP side: routes, errors in OpenAI's shape, and the server's start."""

import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sse_starlette.sse import EventSourceResponse

from python_layer.inference.build import build_engine, memory_summary
from python_layer.inference.engine import InferenceEngine
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.server.handlers import Handlers, ModelNotFoundError
from python_layer.server.responses import Response as Answers
from python_layer.server.schemas import ChatCompletionRequest, CompletionRequest
from python_layer.utils.errors import EngineStoppedError, InvalidRequestError, MiliError, OverloadedError
from python_layer.utils.settings import Settings

# The first that fits counts.
STATUS: dict[type[MiliError], tuple[int, str]] = {
    ModelNotFoundError: (404, "model_not_found"),
    OverloadedError: (429, "overloaded"),
    EngineStoppedError: (503, "internal_error"),
    MiliError: (400, "invalid_request"),
}


def create_app(model: Qwen3Model, engine: InferenceEngine, settings: Settings) -> FastAPI:
    """The application for a loaded model and its engine."""
    app = FastAPI(title="MILI", summary="An OpenAI-compatible API for Qwen3 models.")
    handlers = Handlers(model, engine, settings)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether requests are served, the model, and the state of the engine; 503 if they are not."""
        state = {"status": "healthy" if engine.alive else "unhealthy", "model": handlers.model_name}
        return JSONResponse(state | {"engine": asdict(engine.stats())}, 200 if engine.alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [{"id": handlers.model_name, "object": "model", "owned_by": "mili"}]}

    @app.post("/v1/completions")
    async def completions(request: CompletionRequest) -> Response:
        """Continue a prompt."""
        return await _respond(await handlers.complete(request), request.stream)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: ChatCompletionRequest) -> Response:
        """Answer a conversation."""
        return await _respond(await handlers.chat(request), request.stream)

    app.add_exception_handler(MiliError, _mili_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    return app


def run_server(model: Qwen3Model, settings: Settings) -> None:
    """Serves until interrupted; tells on standard error where, and what to try."""
    url = f"http://{settings.host}:{settings.port}"
    body = '{"messages": [{"role": "user", "content": "Hello"}], "stream": true}'
    print(
        f"{memory_summary(model, settings)}\n\nServing {model.name} on {url} (API: {url}/docs). Try:\n\n"
        f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n",
        file=sys.stderr,
    )
    engine = build_engine(model, settings)
    try:
        app = create_app(model, engine, settings)
        uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=30)
    finally:
        engine.shutdown(drain=False)


async def _respond(answers: Answers, stream: bool) -> Response:
    if not stream:
        return JSONResponse(await answers.whole())
    events = answers.events()
    # What is refused is refused with a status of its own, before the stream begins.
    first = await anext(events)
    return EventSourceResponse(_chained(first, events), sep="\n")


async def _chained(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in rest:
        yield event


async def _mili_error(request: Request, error: Exception) -> JSONResponse:
    status, code = next(answer for kind, answer in STATUS.items() if isinstance(error, kind))
    return _error(status, str(error), code, error.param if isinstance(error, InvalidRequestError) else None)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    message = "is not a field this server knows" if first["type"] == "extra_forbidden" else first["msg"]
    return _error(400, f"{param or 'the body'}: {message}", "invalid_request", param)


def _error(status: int, message: str, code: str, param: str | None) -> JSONResponse:
    kind = "invalid_request_error" if status < 429 else "server_error"
    body = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": body}, status)
