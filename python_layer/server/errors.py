"""Errors as HTTP answers, in OpenAI's shape with a stable ``code``."""

import json
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from python_layer.inference.request import Output
from python_layer.utils.errors import (
    ContextLengthError,
    EngineStoppedError,
    InvalidRequestError,
    MiliError,
    OutOfMemoryError,
    OverloadedError,
    RequestTimeoutError,
)


class ModelNotFoundError(InvalidRequestError):
    """The request names a model that is not served."""


class ModelNotLoadedError(MiliError):
    """The model is still loading, could not be loaded, or the server is on its way out."""


class InvalidApiKeyError(MiliError):
    """The request has no API key, or one that is not known."""


class BodyTooLargeError(MiliError):
    """The body has more bytes than are read."""


class BodyTimeoutError(RequestTimeoutError):
    """The body was not there in time; its connection is of no more use."""


class RateLimitedError(MiliError):
    """The client has used up its requests or tokens for now.

    Args:
        message: which limit it was, and when to come back.
        retry_after: whole seconds until then.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


LONGEST_MESSAGE = 2000
"""What a client sent may be part of a message, but not the whole of a large body."""
RETRY_AFTER = 1
"""Seconds, where nothing better is known."""

# The first that fits counts.
STATUS: dict[type[Exception], tuple[int, str]] = {
    ModelNotFoundError: (404, "model_not_found"),
    ModelNotLoadedError: (503, "model_not_loaded"),
    ContextLengthError: (400, "context_length_exceeded"),
    OutOfMemoryError: (400, "out_of_memory"),
    InvalidApiKeyError: (401, "invalid_api_key"),
    BodyTooLargeError: (413, "body_too_large"),
    RateLimitedError: (429, "rate_limited"),
    RequestTimeoutError: (408, "timeout"),
    OverloadedError: (429, "overloaded"),
    EngineStoppedError: (503, "internal_error"),
    MiliError: (400, "invalid_request"),
    Exception: (500, "internal_error"),
}


def check_in_time(output: Output) -> None:
    """Refuses an output that ends a request before its time.

    Raises:
        RequestTimeoutError: It waited or ran too long.
    """
    if output.finish_reason == "timeout":
        raise RequestTimeoutError("the request waited or ran longer than allowed and was given up")


def _answer_to(error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
    """An error's HTTP status and body; the message of one that is not meant for users stays here."""
    status, code = next(answer for kind, answer in STATUS.items() if isinstance(error, kind))
    message = str(error) if isinstance(error, MiliError) else "the server failed; its log says why"
    param = error.param if isinstance(error, InvalidRequestError) else None
    return status, _body(message, status, code, param, request_id)


def error_event(error: Exception, request_id: str) -> str:
    """The data of an event that ends a stream."""
    return json.dumps(_answer_to(error, request_id)[1])


def error_response(error: Exception, request_id: str) -> JSONResponse:
    """The answer to a request that failed with an error."""
    status, body = _answer_to(error, request_id)
    headers = {"X-Request-ID": request_id}
    if status in (429, 503):
        headers["Retry-After"] = str(error.retry_after if isinstance(error, RateLimitedError) else RETRY_AFTER)
    if isinstance(error, BodyTimeoutError):
        headers["Connection"] = "close"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def http_error_response(error: HTTPException, request_id: str) -> JSONResponse:
    """The answer to a route or method that does not exist."""
    body = _body(str(error.detail), error.status_code, "invalid_request", None, request_id)
    return JSONResponse(body, error.status_code, error.headers)


def validation_response(error: RequestValidationError, request_id: str) -> JSONResponse:
    """The answer to a body that is not what the route takes: names the first field that is wrong."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return JSONResponse(
            _body(f"the body is no JSON: {first['ctx']['error']}", 400, "invalid_request", None, request_id), 400
        )
    param = ".".join(path) or None
    message = (
        "is not a field this server knows"
        if first["type"] == "extra_forbidden"
        else first["msg"].removeprefix("Value error, ")
    )
    return JSONResponse(
        _body(f"{param or 'the body'}: {message}", 400, "invalid_request", path[0] if path else None, request_id), 400
    )


def _body(message: str, status: int, code: str, param: str | None, request_id: str) -> dict[str, Any]:
    kind = {404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    # What a client sent may hold lone surrogates, which are no JSON.
    message = _shortened(message.encode(errors="replace").decode())
    param = None if param is None else _shortened(param.encode(errors="replace").decode())
    return {"error": {"message": message, "type": kind, "param": param, "code": code, "request_id": request_id}}


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
