"""A body that is wrong in a million places costs no more than one that is wrong in a few."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from python_layer.server.schemas import ChatCompletionRequest, CompletionRequest, DetokenizeRequest

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
