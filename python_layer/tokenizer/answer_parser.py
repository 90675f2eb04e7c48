"""A chat answer's parts: thoughts, content and tool calls, as they come, in Qwen3's way of writing them.

<think>
thoughts
</think>

content
<tool_call>
{"name": "get_weather", "arguments": {"city": "Lisbon"}}
</tool_call>
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

THINK, END_THINK = "<think>", "</think>"
TOOL_CALL, END_TOOL_CALL = "<tool_call>", "</tool_call>"
HEADER = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*', re.DOTALL)
"""What comes before the arguments, which can then be passed on as they come."""


@dataclass(frozen=True)
class Delta:
    """A piece of an answer.

    Attributes:
        kind: What ``text`` is more of; with "call", a tool call begins and ``text`` is the function's name.
        text: The piece; arguments are JSON just as the model wrote it.
        index: Of the tool call.
    """

    kind: Literal["reasoning", "content", "call", "arguments"]
    text: str
    index: int = 0


def thinks_at_end(prompt: str) -> bool:
    """Whether a rendered prompt ends within thoughts, which the answer then goes on with."""
    return prompt.rstrip().endswith(THINK)  # further up, somebody may just speak of it


class AnswerParser:
    """Splits one answer; however its text is cut into pieces, the parts add up to the same.

    Thoughts are what stands in a ``<think>`` block at the beginning; white space around them is dropped. What can't
    be read as a call of an offered function stays content, as it is.

    Args:
        thinking: The prompt ends within a ``<think>`` block.
        functions: Names of the functions that may be called; without any, ``<tool_call>`` is plain text.
    """

    def __init__(self, *, thinking: bool = False, functions: Iterable[str] = ()) -> None:
        self._functions = frozenset(functions)
        self._state: Literal["start", "thinking", "content", "call"] = "thinking" if thinking else "start"
        self._pending = ""
        self._fresh = thinking
        """Whether white space that comes now stands between two parts."""
        self._call = _Call(self._functions)
        self.calls = 0
        """Tool calls that have begun."""
        self.malformed = 0
        """Blocks that were no call, or whose arguments were no JSON object."""

    def push(self, text: str) -> list[Delta]:
        """The parts that are final with some more text."""
        self._pending += text
        deltas: list[Delta] = []
        while self._advance(deltas):
            pass
        return _merged(deltas)

    def flush(self) -> list[Delta]:
        """The rest, when nothing follows."""
        deltas: list[Delta] = []
        if self._state == "call":
            self._end_call(deltas, complete=False)
        elif self._state == "thinking":
            deltas.append(Delta("reasoning", self._pending.rstrip()))
        elif not self._fresh:
            deltas.append(Delta("content", self._pending))
        self._pending = ""
        return _merged(deltas)

    def _advance(self, deltas: list[Delta]) -> bool:
        """Takes what it can from the pending text; whether there may be more to take."""
        return {
            "start": self._start,
            "thinking": self._think,
            "content": self._say,
            "call": self._read_call,
        }[self._state](deltas)

    def _start(self, deltas: list[Delta]) -> bool:
        begun = self._pending.lstrip()
        if begun.startswith(THINK):
            self._pending = begun.removeprefix(THINK)
            self._state, self._fresh = "thinking", True
            return True
        if THINK.startswith(begun):
            return False
        self._state = "content"
        return True

    def _think(self, deltas: list[Delta]) -> bool:
        if self._fresh:
            self._pending = self._pending.lstrip()
        thoughts, tag, rest = self._pending.partition(END_THINK)
        kept = thoughts.rstrip() if tag else _without_start_of(END_THINK, thoughts).rstrip()
        self._fresh = self._fresh and not kept
        deltas.append(Delta("reasoning", kept))
        self._pending = rest if tag else self._pending[len(kept) :]
        if tag:
            self._state, self._fresh = "content", True
        return bool(tag)

    def _say(self, deltas: list[Delta]) -> bool:
        if self._fresh:
            self._pending = self._pending.lstrip()
            self._fresh = not self._pending
        if not self._functions:
            deltas.append(Delta("content", self._pending))
            self._pending = ""
            return False
        said, tag, rest = self._pending.partition(TOOL_CALL)
        if tag:
            deltas.append(Delta("content", said.rstrip()))
            # The white space is dropped with the block, unless that turns out to be content.
            self._call = _Call(self._functions, said[len(said.rstrip()) :])
            self._pending, self._state = rest, "call"
            return True
        kept = _without_start_of(TOOL_CALL, said).rstrip()
        deltas.append(Delta("content", kept))
        self._pending = said[len(kept) :]
        return False

    def _read_call(self, deltas: list[Delta]) -> bool:
        for place, character in enumerate(self._pending):
            arguments = self._call.push(character)
            if self._call.begins:
                deltas.append(Delta("call", self._call.name, self.calls))
                self.calls += 1
            if arguments:
                deltas.append(Delta("arguments", arguments, self.calls - 1))
            if self._call.closed:
                self._pending = self._pending[place + 1 :]
                self._state = "content"
                self._end_call(deltas, complete=True)
                return True
        self._pending = ""
        return False

    def _end_call(self, deltas: list[Delta], complete: bool) -> None:
        call = self._call
        self._fresh = True
        if call.begun:
            self.malformed += not (complete and call.well_formed)
            return
        whole = call.read_whole() if complete else None
        if whole is None:
            self.malformed += 1
            self._fresh = False
            deltas.append(Delta("content", f"{call.space}{TOOL_CALL}{call.raw}"))
            return
        name, arguments = whole
        deltas += [Delta("call", name, self.calls), Delta("arguments", arguments, self.calls)]
        self.calls += 1


class _Call:
    """The inside of a ``<tool_call>`` block, read one character at a time.

    Args:
        functions: Names of the functions that may be called.
        space: White space in front of the block.
    """

    def __init__(self, functions: frozenset[str], space: str = "") -> None:
        self._functions = functions
        self.space = space
        self.raw = ""
        """All that was read, with the closing tag."""
        self.name = ""
        self.begins = False
        """Whether the last character made it a call, whose arguments follow."""
        self.begun = False
        self._arguments: int | None = None  # how deep they lie in braces
        self._held = ""  # may be the start of the closing tag
        self._depth = 0
        self._in_string = self._escaped = False

    @property
    def closed(self) -> bool:
        """Whether the closing tag was read."""
        return not self._in_string and self.raw.endswith(END_TOOL_CALL)

    @property
    def well_formed(self) -> bool:
        """Of a call that was passed on as it came: whether it was JSON to its end."""
        try:
            json.loads(self.raw.removesuffix(END_TOOL_CALL))
        except ValueError:
            return False
        return True

    def push(self, character: str) -> str:
        """Reads on; returns what is more of the arguments."""
        header = self.raw if character == "{" and self._arguments is None else None
        self.raw += character
        self.begins = False
        inside = self._scan(character)
        match = None if header is None else HEADER.fullmatch(header)
        if match is not None:
            self.name = json.loads(match[1], strict=False)
            self.begins = self.begun = inside = self.name in self._functions
            self._arguments = self._depth
        if not (self.begun and inside):
            return ""
        self._held += character
        if not self._in_string and END_TOOL_CALL.startswith(self._held):
            return ""
        arguments, self._held = self._held, ""
        return arguments

    def read_whole(self) -> tuple[str, str] | None:
        """(name, arguments as they were written) of a block whose parts stand in another order; None if it is none."""
        block = self.raw.removesuffix(END_TOOL_CALL)
        try:
            members = _members(block)
            name = json.loads(members["name"], strict=False)
            arguments = members.get("arguments", "{}")
            fits = isinstance(json.loads(arguments), dict) and name in self._functions
        except (ValueError, KeyError, TypeError):
            return None
        return (name, arguments) if fits else None

    def _scan(self, character: str) -> bool:
        """Follows strings and braces; whether the character belongs to the arguments, once those have begun."""
        inside = self._arguments is not None and self._depth >= self._arguments
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return inside


def _members(block: str) -> dict[str, str]:
    """The members of a JSON object, each value as it is written.

    Raises:
        ValueError: It is no JSON object.
    """
    decoder, members = json.JSONDecoder(strict=False), dict[str, str]()
    if not isinstance(decoder.decode(block), dict):
        raise ValueError("no object")
    place = _skip(block, block.index("{") + 1)
    while block[place] != "}":
        key, place = decoder.raw_decode(block, place)
        start = _skip(block, place)
        _, place = decoder.raw_decode(block, start)
        members[key] = block[start:place]
        place = _skip(block, place)
    return members


def _skip(block: str, place: int) -> int:
    """The next place that holds neither white space nor a colon or comma."""
    while block[place] in " \t\r\n:,":
        place += 1
    return place


def _without_start_of(tag: str, text: str) -> str:
    """The text without an end that may become the tag."""
    length = next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0)
    return text[: len(text) - length]


def _merged(deltas: list[Delta]) -> list[Delta]:
    """Without empty pieces, and neighbours of one kind in one piece."""
    merged: list[Delta] = []
    for delta in deltas:
        if delta.text == "" and delta.kind != "call":
            continue
        last = merged[-1] if merged else None
        if last and delta.kind != "call" and (last.kind, last.index) == (delta.kind, delta.index):
            merged[-1] = Delta(last.kind, last.text + delta.text, last.index)
        else:
            merged.append(delta)
    return merged
