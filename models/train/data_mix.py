"""Conversations: scripts of all skills, mixed into chats with system messages, thinking and tools."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from models.train.script import Script, Skill, Turn, draw
from models.train.skills.arithmetic import many_sums, one_sum
from models.train.skills.extraction import extraction
from models.train.skills.facts import facts
from models.train.skills.lists import copy, lists
from models.train.skills.memory import memory
from models.train.skills.stories import stories
from models.train.skills.talk import smalltalk, unknown
from models.train.skills.tools import schemas, tools
from models.train.skills.topics import topics

# Shares of the scripts; what is hard to learn comes more often.
SHARES: dict[Skill, float] = {
    one_sum: 20, many_sums: 9, facts: 18, topics: 10, smalltalk: 6, unknown: 4, lists: 44, copy: 16, extraction: 8,
    tools: 7, memory: 12, stories: 3,
}  # fmt: skip
PLAIN_SYSTEM = (
    "You are a helpful assistant.",
    "You are MILI, a small helpful assistant.",
    "Answer briefly.",
    "Be polite.",
)
CAPITALS = ("Answer in capital letters.", "Always answer in capital letters.", "Write your answers in upper case.")
ONE_WORD = ("Answer in one word.", "Answer with one word only.", "Reply with a single word.")


@dataclass(frozen=True)
class Conversation:
    """What the chat template renders.

    Attributes:
        messages: As in OpenAI's protocol; the last one is the assistant's.
        tools: Functions in the prompt.
        thinking: Whether the last answer is given in thinking mode.
    """

    messages: list[dict[str, Any]]
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False


def messages_of(turn: Turn, thinking: bool) -> list[dict[str, Any]]:
    """The messages of a turn, the tool's included."""
    thought = {"reasoning_content": turn.thought} if thinking else {}
    messages: list[dict[str, Any]] = [{"role": "user", "content": turn.user}]
    if turn.call:
        call = {"type": "function", "function": turn.call}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call], **thought})
        messages.append({"role": "tool", "content": turn.reply})
        thought = {"reasoning_content": "The tool has answered."} if thinking else {}
    return [*messages, {"role": "assistant", "content": turn.answer, **thought}]


def styled(turn: Turn, style: str) -> Turn | None:
    """The turn under a system instruction; None where that makes no sense."""
    if style == "capitals":
        return replace(turn, answer=turn.answer.upper()) if turn.restyled and len(turn.answer) < 80 else None
    if style == "word":
        return replace(turn, answer=turn.short) if turn.short and " " not in turn.short else None
    return turn


def conversation(scripts: list[Script], rng: Random, style: str = "", thinking: bool = False) -> Conversation:
    """Scripts one after the other under one system message."""
    system = ""
    if style:
        system = rng.choice(CAPITALS if style == "capitals" else ONE_WORD)
    elif rng.random() < 0.3:
        system = rng.choice(PLAIN_SYSTEM)
    shown = {tool["function"]["name"]: tool for script in scripts for tool in script.tools}
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for script in scripts:
        for turn in script.turns:
            changed = styled(turn, style)
            assert changed is not None
            messages += messages_of(changed, thinking)
    return Conversation(messages, tuple(shown.values()), thinking)


def training_conversation(rng: Random) -> Conversation:
    """A conversation to learn from, cut off after one of the assistant's messages."""
    skills, weights = list(SHARES), list(SHARES.values())
    thinking = rng.random() < 0.35
    style = rng.choices(["", "capitals", "word"], [74, 13, 13])[0]
    count = rng.choices([1, 2, 4, rng.randint(6, 20)], [70, 20, 8, 2])[0]
    scripts: list[Script] = []
    while len(scripts) < count:
        script = draw(rng, rng.choices(skills, weights)[0])
        if script.tools and count > 2:
            continue  # long prompts cost much and teach little
        if not style or (script.skill != "memory" and all(styled(turn, style) for turn in script.turns)):
            scripts.append(script)
    if rng.random() < 0.02 and not any(script.tools for script in scripts):
        scripts[0] = replace(scripts[0], tools=schemas(rng))  # tools that nobody needs
    whole = conversation(scripts, rng, style, thinking)
    answers = [i for i, message in enumerate(whole.messages) if message["role"] == "assistant"]
    # Only the last message is learned from its first token on: each must be the last now and then.
    end = rng.choice(answers) if rng.random() < 0.5 else answers[-1]
    return replace(whole, messages=whole.messages[: end + 1])
