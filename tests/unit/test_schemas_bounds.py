"""A body that is wrong in a million places costs no more than one that is wrong in a few."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel, ValidationError

from python_layer.server.api import create_app
from python_layer.server.schemas import (
    MOST_MESSAGES,
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TemplateRequest,
)
from python_layer.server.service import Service

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CompletionRequest, {"prompt": [1.5] * 1000}),
        (CompletionRequest, {"prompt": [[1.5] * 1000] * 1000}),
        (CompletionRequest, {"prompt": "x", "stop": [1] * 1000}),
        (CompletionRequest, {"prompt": "x", "stop_token_ids": ["x"] * 1000}),
        (ChatCompletionRequest, {"messages": [{}] * 1000}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": [{}] * 1000}] * 1000}),
        (ChatCompletionRequest, {"messages": HELLO, "tools": [{}] * 1000}),
        (DetokenizeRequest, {"tokens": ["x"] * 1000}),
    ],
)
def test_errors_are_few(model: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        model(**body)
    assert 0 < caught.value.error_count() < 10


@pytest.mark.parametrize("request_type", [ChatCompletionRequest, TemplateRequest])
def test_what_comes_after_too_many_messages_is_not_looked_at(request_type: type[BaseModel]) -> None:
    assert request_type(messages=HELLO * MOST_MESSAGES)
    with pytest.raises(ValidationError) as caught:
        request_type(messages=[*HELLO * MOST_MESSAGES, *HELLO, "no message"])
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("too_long", ("messages",))


@pytest.mark.parametrize(
    ("prompt", "status", "message"),
    [
        ([[1]] * 10 + [["no token"]], 400, "11 prompts are more than the 10 that may wait"),
        (["x"] * 10 + [1.5], 400, "11 prompts are more than the 10 that may wait"),
        ([[1]] * 9 + [["no token"]], 400, "prompt.str"),
        ([[1]] * 10, 503, "the model is loading"),
        (["x"] * 10, 503, "the model is loading"),
        ([1] * 11, 503, "the model is loading"),
        ("x" * 11, 503, "the model is loading"),
    ],
)
def test_what_comes_after_too_many_prompts_is_not_looked_at(prompt: Any, status: int, message: str) -> None:
    def load(report: object) -> Any:
        raise AssertionError("no model is needed")

    answer = TestClient(create_app(Service(load, 10))).post("/v1/completions", json={"prompt": prompt})
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == ("prompt" if status == 400 else None)


def test_an_empty_body_is_told_what_it_lacks() -> None:
    def load(report: object) -> Any:
        raise AssertionError("no model is needed")

    headers = {"Content-Type": "application/json"}
    answer = TestClient(create_app(Service(load, 10))).post("/v1/completions", content=b"", headers=headers)
    assert answer.status_code == 400
    assert "required" in answer.json()["error"]["message"]
