"""The HTTP side: routes, errors in OpenAI's shape, and the server's start."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sse_starlette.sse import EventSourceResponse

from python_layer.model.qwen3_model import Qwen3Model
from python_layer.server.handlers import Answer, Handlers, ModelNotFoundError
from python_layer.server.schemas import ChatCompletionRequest, CompletionRequest
from python_layer.utils.errors import InvalidRequestError, MiliError
from python_layer.utils.settings import Settings


def create_app(model: Qwen3Model, settings: Settings) -> FastAPI:
    """The application for a loaded model."""
    app = FastAPI(title="MILI", summary="An OpenAI-compatible API for Qwen3 models.")
    handlers = Handlers(model, settings)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers, and with which model."""
        return {"status": "healthy", "model": handlers.model_name}

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
        f"\nServing {model.name} on {url} (API: {url}/docs). Try:\n\n"
        f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n",
        file=sys.stderr,
    )
    uvicorn.run(create_app(model, settings), host=settings.host, port=settings.port, log_level="warning")


async def _respond(answer: Answer, stream: bool) -> Response:
    if stream:
        return EventSourceResponse(answer.events(), sep="\n")
    return JSONResponse(await answer.whole())


async def _mili_error(request: Request, error: Exception) -> JSONResponse:
    missing = isinstance(error, ModelNotFoundError)
    param = error.param if isinstance(error, InvalidRequestError) else None
    return _error(404 if missing else 400, str(error), "model_not_found" if missing else "invalid_request", param)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body") or None
    message = "is not a field this server knows" if first["type"] == "extra_forbidden" else first["msg"]
    return _error(400, f"{param or 'the body'}: {message}", "invalid_request", param)


def _error(status: int, message: str, code: str, param: str | None) -> JSONResponse:
    body = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return JSONResponse({"error": body}, status)
