"""What is measured of each system, the same for all; needs nothing but Python, for it runs in the peers' environments.

- start: seconds from the start of the process to the first token after a prompt of 32 tokens, caches warm.
- prefill_N: tokens per second of a prompt of N tokens, to its first token.
- decode_B: tokens per second of B prompts of 32 tokens at once, 64 tokens each after their first ones, all together.

A program that stays in memory instead (--in-turn) measures prefill_N and decode_B each time that it reads one of these
names, until its input ends.
"""

import argparse
import json
import random
import sys
import time
from typing import Protocol

PROMPT = 32
NEW = 64
BATCHES = (1, 8, 16)
PREFILLS = (128, 512, 2048)
RATES = [*(f"prefill_{length}" for length in PREFILLS), *(f"decode_{count}" for count in BATCHES)]
ANSWER = "tokens per second: "
"""What a line begins with that answers the name of a rate, or, without a number, says that they may be asked for."""
VOCAB = 150_000
"""Prompts are random tokens below it: none is special."""


class System(Protocol):
    """A loaded model."""

    weight_bytes: int
    """What one step reads of the weights."""

    def first_token(self, prompt: list[int]) -> float:
        """Seconds from a prompt to its first token; nothing of an earlier prompt may be reused."""
        ...

    def decode(self, prompts: list[list[int]], tokens: int) -> float:
        """Seconds for so many tokens of each prompt, all prompts at once, after each one's first token; greedy."""
        ...

    def settle(self) -> None:
        """Waits for what a start leaves to be done beside the first requests, if anything."""
        ...


def options() -> argparse.Namespace:
    """The command line of a system's program: model, threads, when it was started (seconds since 1970), variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--started", type=float, required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--only-start", action="store_true", help="measure nothing else")
    parser.add_argument("--in-turn", action="store_true", help="measure what standard input asks for")
    return parser.parse_args()


def random_prompts(count: int, length: int) -> list[list[int]]:
    return [random.choices(range(VOCAB), k=length) for _ in range(count)]


def measure(system: System, given: argparse.Namespace) -> None:
    """Measures what the command line asks for, and prints one JSON object, or answers."""
    system.first_token(random_prompts(1, PROMPT)[0])
    figures: dict[str, float] = {"start": time.time() - given.started, "weight_bytes": system.weight_bytes}
    if given.only_start:
        print(json.dumps(figures), flush=True)
        return
    system.settle()
    system.decode(random_prompts(2, PROMPT), 4)  # warm up
    system.first_token(random_prompts(1, PREFILLS[1])[0])
    if given.in_turn:
        print(ANSWER, flush=True)
        for line in sys.stdin:
            print(f"{ANSWER}{measure_rate(system, line.strip())}", flush=True)
        return
    figures |= {name: measure_rate(system, name) for name in RATES}
    print(json.dumps(figures), flush=True)


def measure_rate(system: System, name: str) -> float:
    """One of RATES."""
    kind, _, number = name.partition("_")
    if kind == "prefill":
        return int(number) / system.first_token(random_prompts(1, int(number))[0])
    return int(number) * NEW / system.decode(random_prompts(int(number), PROMPT), NEW)
