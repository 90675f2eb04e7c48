"""What a skill makes: scripts of turns, and the rule that keeps some of them out of training."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

HELD_OUT_SHARE = 16


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    Attributes:
        user: The question.
        answer: The right answer.
        thought: The reasoning of thinking mode.
        short: The answer in one word; empty where there is none.
        restyled: Whether a system instruction may ask for the answer in capital letters.
        call: The tool call that comes first, as its name and arguments; None without one.
        reply: What the tool sends back.
    """

    user: str
    answer: str
    thought: str = ""
    short: str = ""
    restyled: bool = True
    call: dict[str, Any] | None = None
    reply: str = ""


@dataclass(frozen=True)
class Script:
    """Turns that belong together.

    Attributes:
        skill: The name under which accuracy is counted.
        turns: One, or several that refer back.
        key: Decides whether the script is held out: scripts that ask for the same thing share it.
        tools: Functions the model may call, as JSON schemas.
        system: A system message the answer depends on.
    """

    skill: str
    turns: tuple[Turn, ...]
    key: str
    tools: tuple[dict[str, Any], ...] = ()
    system: str = ""

    @property
    def held_out(self) -> bool:
        """Whether the script is kept for the evaluation: one in 16, by a hash of its key."""
        return hashlib.blake2b(self.key.lower().encode()).digest()[0] % HELD_OUT_SHARE == 0


Skill = Callable[[Random], Script]


def single(skill: str, turn: Turn, key: str = "") -> Script:
    """A script of one turn, keyed by its question unless told otherwise."""
    return Script(skill, (turn,), key or turn.user)


def draw(rng: Random, skill: Skill, *, held_out: bool = False) -> Script:
    """A script of a skill: one for training, or one that training never sees."""
    while True:
        script = skill(rng)
        if script.held_out == held_out:
            return script


def typed(rng: Random, question: str) -> str:
    """A question as people type it: now and then in lower case, without its mark, or with a please."""
    if rng.random() < 0.1:
        question = rng.choice(["Please tell me: ", "Tell me, ", "Hi! ", "Quick question: "]) + question
    if rng.random() < 0.25 and question[-1] in "?.":
        question = question[:-1]
    if rng.random() < 0.07:
        question = question.lower()
    elif rng.random() < 0.15 and not question.startswith("I "):
        question = question[0].lower() + question[1:]
    return question
