"""The parts of a chat answer are the same however its text is cut."""

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from python_layer.tokenizer.answer_parser import AnswerParser, Delta, thinks_at_end

FUNCTIONS = ("get_weather", "set_timer")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lisbon"}}\n</tool_call>'


def parts(text: str, cuts: list[int] = [], **options: object) -> dict[str, object]:  # noqa: B006
    """What an answer consists of when it comes in pieces."""
    parser = AnswerParser(**options)  # type: ignore[arg-type]
    deltas: list[Delta] = []
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for begin, end in itertools.pairwise(edges):
        deltas += parser.push(text[begin:end])
    deltas += parser.flush()
    calls: list[list[str]] = []
    for delta in deltas:
        if delta.kind == "call":
            assert delta.index == len(calls)
            calls.append([delta.text, ""])
        elif delta.kind == "arguments":
            assert delta.index == len(calls) - 1
            calls[-1][1] += delta.text
    joined = {kind: "".join(d.text for d in deltas if d.kind == kind) for kind in ("reasoning", "content")}
    return {**joined, "calls": calls, "malformed": parser.malformed}


def expected(
    content: str = "", reasoning: str = "", calls: list[list[str]] | None = None, malformed: int = 0
) -> object:
    return {"reasoning": reasoning, "content": content, "calls": calls or [], "malformed": malformed}


WEATHER = ["get_weather", '{"city": "Lisbon"}']
CASES = [
    ("plain", "Hello.\n", expected("Hello.\n")),
    ("thoughts", "<think>\nHm.\n</think>\n\nYes. \n", expected("Yes. \n", "Hm.")),
    ("empty thoughts", "<think>\n\n</think>\n\nYes.", expected("Yes.")),
    ("unfinished thoughts", "<think>\nHm. </thi", expected("", "Hm. </thi")),
    ("thoughts in the midst", "I <think> so </think>.", expected("I <think> so </think>.")),
    ("nearly thoughts", "\n<thin", expected("\n<thin")),
    ("call", CALL, expected(calls=[WEATHER])),
    ("thoughts and call", f"<think>\nHm.\n</think>\n\n{CALL}\n", expected("", "Hm.", [WEATHER])),
    ("text around calls", f"Let me see.\n{CALL}\n{CALL}\n\nDone. ", expected("Let me see.Done. ", calls=[WEATHER] * 2)),
    ("compact", '<tool_call>{"name":"set_timer","arguments":{}}</tool_call>', expected(calls=[["set_timer", "{}"]])),
    (
        "other order",
        '<tool_call>{ "arguments" : {"city":\n"Oslo"} , "name":"get_weather"}</tool_call>',
        expected(calls=[["get_weather", '{"city":\n"Oslo"}']]),
    ),
    ("no arguments", '<tool_call>{"name": "set_timer"}</tool_call>', expected(calls=[["set_timer", "{}"]])),
    (
        "tags and braces in strings",
        '<tool_call>{"name": "set_timer", "arguments": {"a": "}</tool_call>\\"{", "b": [{}]}}</tool_call>',
        expected(calls=[["set_timer", '{"a": "}</tool_call>\\"{", "b": [{}]}']]),
    ),
    ("no JSON", " <tool_call>oops</tool_call> so", expected(" <tool_call>oops</tool_call> so", malformed=1)),
    (
        "unknown function",
        'a\n<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        expected('a\n<tool_call>{"name": "rm", "arguments": {}}</tool_call>', malformed=1),
    ),
    (
        "arguments no object",
        '<tool_call>{"name": "set_timer", "arguments": [1]}</tool_call>',
        expected('<tool_call>{"name": "set_timer", "arguments": [1]}</tool_call>', malformed=1),
    ),
    ("cut before the name", '<tool_call>{"name": "se', expected('<tool_call>{"name": "se', malformed=1)),
    (
        "cut in the arguments",
        '<tool_call>{"name": "set_timer", "arguments": {"minutes": 1',
        expected(calls=[["set_timer", '{"minutes": 1']], malformed=1),
    ),
    (
        "broken arguments",
        '<tool_call>{"name": "set_timer", "arguments": {minutes}}</tool_call>',
        expected(calls=[["set_timer", "{minutes}"]], malformed=1),
    ),
    (
        "arguments end with the block",
        '<tool_call>{"name": "set_timer", "arguments": {"a": 1</tool_call>x',
        expected("x", calls=[["set_timer", '{"a": 1']], malformed=1),
    ),
]


@pytest.mark.parametrize(("text", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_parts(text: str, wanted: object) -> None:
    assert parts(text, functions=FUNCTIONS) == wanted
    assert parts(text, list(range(len(text))), functions=FUNCTIONS) == wanted


def test_prompts_that_end_in_thoughts() -> None:
    assert thinks_at_end("<|im_start|>assistant\n<think>\n")
    assert not thinks_at_end("<think>\n\n</think>\n\n")
    assert not thinks_at_end("<|im_start|>user\nWhat does <think> mean?<|im_end|>\n<|im_start|>assistant\n")
    assert parts("\nHm.\n</think>\n\nYes.", thinking=True) == expected("Yes.", "Hm.")


def test_tool_calls_are_text_without_functions() -> None:
    assert parts(f" {CALL} ") == expected(f" {CALL} ")


BITS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "</tool",
    "\n",
    " ",
    "\\",
    '"',
    "{",
    "}",
    "é",
    "text",
    ",",
]
BITS += ['{"name": "set_timer", "arguments": ', '{"name": "get_weather"', '{"a": "b"}', "<"]


@given(
    st.lists(st.sampled_from(BITS), max_size=14).map("".join),
    st.lists(st.integers(0, 300), max_size=12),
    st.booleans(),
    st.booleans(),
)
@example(CALL, [3, 30, 60], False, True)
def test_no_cut_changes_anything(text: str, cuts: list[int], thinking: bool, tools: bool) -> None:
    options = {"thinking": thinking, "functions": FUNCTIONS if tools else ()}
    whole = parts(text, **options)
    assert parts(text, cuts, **options) == whole
    assert parts(text, list(range(len(text))), **options) == whole


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers() | st.none(), max_size=4), st.booleans())
def test_arguments_stay_as_they_were_written(arguments: dict[str, object], ascii_only: bool) -> None:
    written = json.dumps(arguments, ensure_ascii=ascii_only, indent=1)
    block = f'<tool_call>\n{{"name": "set_timer", "arguments": {written}}}\n</tool_call>'
    assert parts(block, functions=FUNCTIONS) == expected(calls=[["set_timer", written]])
