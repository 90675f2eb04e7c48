"""The embedded model's answers, word for word: those transformers gives with the same weights."""

import json
from typing import Any

import pytest

from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.tokenizer import ChatTemplate
from tests.golden.cases import GOLDEN

CONVERSATIONS = json.loads((GOLDEN / "conversations.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["float32", "auto"])
def model(request: pytest.FixtureRequest) -> Qwen3Model:
    return Qwen3Model.from_pretrained(DEFAULT_MODEL, compute_dtype=request.param)


def answers_of(model: Qwen3Model, conversation: dict[str, Any]) -> list[str]:
    template = ChatTemplate.from_pretrained(DEFAULT_MODEL)
    messages = [{"role": "system", "content": conversation["system"]}] if conversation["system"] else []
    answers = []
    for turn in conversation["turns"]:
        messages.append(turn["said"])
        prompt = template.render(messages, tools=conversation["tools"], enable_thinking=conversation["thinking"])
        assert model.tokenizer is not None
        ids = model.tokenizer.encode(prompt, allow_special=True)
        assert ids == turn["prompt_tokens"]
        generation = model.generate(ids, max_tokens=256)
        assert generation.finish_reason == "stop"
        answers.append(generation.text)
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=[each["name"] for each in CONVERSATIONS])
def test_word_for_word(model: Qwen3Model, conversation: dict[str, Any]) -> None:
    assert answers_of(model, conversation) == [turn["answer"] for turn in conversation["turns"]]


def test_what_they_say_is_right() -> None:
    """The file itself holds sense, whatever model it was made with."""
    said = {turn["said"]["content"]: turn["answer"] for c in CONVERSATIONS for turn in c["turns"]}
    assert said["What is the capital of France?"] == "The capital of France is Paris."
    assert said["What is 218 + 34?"] == "218 + 34 = 252"
    assert said["What is 487 + 365?"].startswith("<think>\n")
    assert said["What is 487 + 365?"].endswith("487 + 365 = 852")
    assert said["Sort: 8, 3, 5"] == "3, 5, 8"
    assert said["What is my name?"] == "Your name is Anna."
    call = said["What is the weather in Lisbon?"].removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    assert json.loads(call) == {"name": "get_weather", "arguments": {"city": "Lisbon"}}
    assert len(CONVERSATIONS) >= 20
