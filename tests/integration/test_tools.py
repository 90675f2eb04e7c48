"""Thoughts, tool calls and structured output, as OpenAI's client sees them."""

import asyncio
import json
import random
import urllib.request
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel

from tests.integration.server import running_server

MODEL = "mili-tiny"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIMER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "set_timer", "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}}},
}
LISBON = {"role": "user", "content": "What is the weather in Lisbon?"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server() as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: OpenAI, question: str | list[Any], **fields: Any) -> Any:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return client.chat.completions.create(model=MODEL, messages=messages, **fields).choices[0]


def collected(chunks: Any) -> dict[str, Any]:
    """The message that a stream's deltas make, without ids."""
    made: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "reason": None}
    for chunk in chunks:
        for choice in chunk.choices:
            made["content"] += choice.delta.content or ""
            made["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
            made["reason"] = choice.finish_reason or made["reason"]
            for call in choice.delta.tool_calls or []:
                if call.index == len(made["calls"]):
                    assert call.id
                    made["calls"].append([call.function.name, ""])
                made["calls"][call.index][1] += call.function.arguments
    return made


def parts(choice: Any) -> dict[str, Any]:
    """The same of a whole answer."""
    message = choice.message
    return {
        "content": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "calls": [[call.function.name, call.function.arguments] for call in message.tool_calls or []],
        "reason": choice.finish_reason,
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_round_trip(client: OpenAI, stream: bool) -> None:
    def answer(messages: list[Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": MODEL, "messages": messages, "tools": [WEATHER], "stream": stream}
        made = client.chat.completions.create(**fields)
        return collected(made) if stream else parts(made.choices[0])

    first = answer([LISBON])
    assert first == {
        "content": "",
        "reasoning": "",
        "calls": [["get_weather", '{"city": "Lisbon"}']],
        "reason": "tool_calls",
    }
    [[name, arguments]] = first["calls"]
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [
        LISBON,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 21, "sky": "sunny"}'},
    ]
    second = answer(turns)
    assert second["reason"] == "stop"
    assert "21" in second["content"]
    assert not second["calls"]


def test_the_clients_own_message_goes_back(client: OpenAI) -> None:
    message = ask(client, [LISBON], tools=[WEATHER]).message
    tool = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"temperature": 21, "sky": "sunny"}'}
    for sent in (message, message.model_dump(), message.model_dump(exclude_none=True)):
        assert "21" in ask(client, [LISBON, sent, tool], tools=[WEATHER]).message.content


def test_tool_choice(client: OpenAI) -> None:
    question, tools = "What is the capital of France?", [WEATHER, TIMER]
    assert parts(ask(client, question, tools=tools))["content"] == "The capital of France is Paris."
    assert not ask(client, [LISBON], tools=tools, tool_choice="none").message.tool_calls

    forced = ask(client, question, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=100)
    assert forced.finish_reason == "tool_calls"
    [call] = forced.message.tool_calls
    assert isinstance(json.loads(call.function.arguments), dict)

    named = {"type": "function", "function": {"name": "set_timer"}}
    choice = ask(client, question, tools=tools, tool_choice=named, max_tokens=200, temperature=1, seed=3)
    assert choice.message.tool_calls[0].function.name == "set_timer"
    assert choice.finish_reason in ("stop", "length")


def test_strict_arguments_follow_their_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Porto", "Faro"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    strict = {"type": "function", "function": WEATHER["function"] | {"strict": True, "parameters": schema}}
    [call] = ask(client, [LISBON], tools=[strict]).message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Porto", "Faro")
    assert parts(ask(client, "What is the capital of France?", tools=[strict]))["reason"] == "stop"


def test_what_is_no_call_stays_content(client: OpenAI, url: str) -> None:
    block = "<tool_call>\n{oops}\n</tool_call>"
    extra = {"structured_outputs": {"choice": [block]}}
    choice = ask(client, [LISBON], tools=[WEATHER], extra_body=extra)
    assert parts(choice) == {"content": block, "reasoning": "", "calls": [], "reason": "stop"}
    counted = urllib.request.urlopen(f"{url}/metrics").read().decode()
    assert 'mili:tool_calls_malformed_total{model_name="mili-tiny"} 1.0' in counted


def test_thoughts_are_apart(client: OpenAI) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": True}}
    question = "What is 487 + 365?"
    whole = parts(ask(client, question, extra_body=extra))
    assert whole["content"] == "487 + 365 = 852"
    assert whole["reasoning"].startswith("ones: 7 + 5 = 12, carry 1\n")
    assert whole == collected(
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], stream=True, extra_body=extra
        )
    )
    short = parts(ask(client, question, extra_body=extra | {"thinking_budget": 5}))
    assert whole["reasoning"].startswith(short["reasoning"])
    assert len(short["reasoning"]) < len(whole["reasoning"])
    assert short["content"]
    assert parts(ask(client, question, extra_body=extra | {"thinking_budget": 0}))["reasoning"] == ""


class Event(BaseModel):
    event: str
    day: Literal["Monday", "Friday"]
    time: str


def test_parsed_output(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "Extract event, day and time as JSON: The concert is on Friday at 19:30."}
    ]
    parsed = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Event).choices[0]
    assert parsed.message.parsed == Event(event="concert", day="Friday", time="19:30")
    thinking: Any = {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget": 30}
    after = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Event, extra_body=thinking)
    assert after.choices[0].message.parsed == parsed.message.parsed
    assert parts(after.choices[0])["reasoning"] == "The fields are event, day and time."


def test_a_schema_leaves_tools_to_call(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": ["yes", "no"]}}}
    assert parts(ask(client, [LISBON], tools=[WEATHER], response_format=form))["calls"] == [
        ["get_weather", '{"city": "Lisbon"}']
    ]
    plain = parts(ask(client, "What is the capital of France?", tools=[WEATHER], response_format=form))
    assert plain["calls"] or plain["content"] in ('"yes"', '"no"')
    none = ask(client, [LISBON], tools=[WEATHER], response_format=form, tool_choice="none")
    assert none.message.content in ('"yes"', '"no"')


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ({"choice": ["Paris", "Rome"]}, ["Paris"]),
        ({"regex": "[A-Z]{3}"}, None),
        ({"grammar": 'start: "a" "b" | "c"'}, ["ab", "c"]),
        ({"json": '{"enum": [1, 2]}'}, ["1", "2"]),
        ({"json": {"const": "x"}}, ['"x"']),
    ],
    ids=lambda value: str(value),
)
def test_structured_outputs(client: OpenAI, wanted: dict[str, Any], allowed: list[str] | None) -> None:
    question = "What is the capital of France?"
    answer = ask(client, question, extra_body={"structured_outputs": wanted}).message.content
    assert answer in allowed if allowed else answer.isupper()
    completion = client.completions.create(
        model=MODEL, prompt=question, max_tokens=20, extra_body={"structured_outputs": wanted}
    )
    assert len(completion.choices[0].text) in (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tool_choice": "required"}, "tool_choice", "tool_choice needs tools"),
        (
            {"tools": [TIMER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "names 'x', which is not in tools",
        ),
        ({"tools": [TIMER, TIMER]}, None, "two functions named 'set_timer'"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools", "pattern"),
        ({"tools": [{"type": "retrieval"}]}, "tools", "function"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format", "schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "text"}}}},
            "response_format",
            "the grammar can't be used",
        ),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"structured_outputs": {"regex": "a"}}},
            "structured_outputs",
            "give one of",
        ),
        (
            {"tools": [TIMER], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "tool_choice",
            "no other form",
        ),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs", "the grammar can't be used"),
        ({"extra_body": {"structured_outputs": {"json": "{"}}}, "structured_outputs", "json is no JSON"),
        ({"extra_body": {"structured_outputs": {}}}, "structured_outputs", "give just one of"),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"min_tokens": 5}},
            "min_tokens",
            "can't be combined with a grammar",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused(client: OpenAI, fields: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, "Hello", **fields)
    assert caught.value.param == param
    assert caught.value.code == "invalid_request"
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "tool", "content": "5"}, "tool_call_id"),
        ({"role": "user", "content": "a", "tool_call_id": "1"}, "tool_call_id"),
        ({"role": "user", "content": "a", "reasoning_content": "b"}, "belong into an assistant's message"),
        ({"role": "assistant"}, "content is missing"),
    ],
)
def test_messages_that_make_no_sense(client: OpenAI, turn: dict[str, str], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        ask(client, [LISBON, turn])


QUESTIONS = ["What is the weather in Oslo?", "Set a timer for 15 minutes.", "What is 12 + 30?", "Tell me a story."]


def test_streams_say_what_whole_answers_say(url: str) -> None:
    """500 random generations: thoughts, calls and content cut at any token."""
    rng = random.Random(4)
    requests = [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": rng.choice(QUESTIONS)}],
            "temperature": rng.choice([0.7, 1.0, 1.4]),
            "seed": number,
            "max_tokens": rng.randint(1, 60),
            "tools": rng.choice([[WEATHER, TIMER], [WEATHER], None]),
            "extra_body": {"chat_template_kwargs": {"enable_thinking": rng.random() < 0.5}},
        }
        for number in range(500)
    ]

    async def both(client: AsyncOpenAI, gate: asyncio.Semaphore, fields: Any) -> tuple[Any, Any]:
        fields = {name: value for name, value in fields.items() if value is not None}
        async with gate:
            whole = await client.chat.completions.create(**fields)
            stream = await client.chat.completions.create(**fields, stream=True)
            return parts(whole.choices[0]), collected([chunk async for chunk in stream])

    async def everything() -> list[tuple[Any, Any]]:
        gate = asyncio.Semaphore(32)
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(both(client, gate, fields) for fields in requests))

    answers = asyncio.run(everything())
    for whole, streamed in answers:
        assert streamed == whole
    assert sum(bool(whole["calls"]) for whole, _ in answers) > 50
    assert sum(bool(whole["reasoning"]) for whole, _ in answers) > 50
