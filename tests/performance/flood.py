"""Ten times as many requests at once as the server has room for: how long refusals take, and what accepted ones lose.

    python tests/performance/flood.py [--running 8] [--waiting 8] [--times 10] [--rounds 5] [--max-tokens 64] [--json]

The baseline is as many requests at once as the server has room for, and nothing else. Connections are open before the
clock starts; it stops when the head of the answer is there for refused ones, and at the end of the answer for others.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.server import running_server
from tests.performance.hostile import request
from tests.performance.load_test import pages_are_whole


@dataclass(frozen=True)
class Answer:
    """One answer: its status, its header lines, and the seconds until it was known or whole."""

    status: int
    head: bytes
    seconds: float


async def flood(url: str, requests: int, max_tokens: int, length: int) -> list[Answer]:
    """Sends requests at once, each on a connection of its own that is open already."""
    address = urlsplit(url)
    connections = [await asyncio.open_connection(address.hostname, address.port) for _ in range(requests)]

    def body(number: int) -> bytes:
        message = {"role": "user", "content": f"{number} " + "word " * length}
        return json.dumps({"messages": [message], "max_tokens": max_tokens, "ignore_eos": True}).encode()

    sent = [request("/v1/chat/completions", body(number)) for number in range(requests)]

    async def ask(number: int) -> Answer:
        reader, writer = connections[number]
        began = time.perf_counter()
        writer.write(sent[number])
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        known = time.perf_counter() - began
        await reader.read()
        writer.close()
        return Answer(status, head.lower(), known if status == 429 else time.perf_counter() - began)

    return await asyncio.gather(*(ask(number) for number in range(requests)))


def spread(answers: list[Answer]) -> dict[str, float]:
    """How long some answers took, in milliseconds."""
    seconds = [1e3 * answer.seconds for answer in answers] or [float("nan")]
    values = {"p50_ms": np.percentile(seconds, 50), "p95_ms": np.percentile(seconds, 95), "max_ms": max(seconds)}
    return {"count": len(answers)} | {name: round(float(value), 2) for name, value in values.items()}


def measure(url: str, room: int, times: int, rounds: int, max_tokens: int, length: int) -> dict[str, object]:
    """The baseline, then the floods; each round begins when the one before has ended."""

    def repeated(requests: int) -> list[Answer]:
        return [each for _ in range(rounds) for each in asyncio.run(flood(url, requests, max_tokens, length))]

    repeated(room)  # warms up
    baseline = repeated(room)
    answers = repeated(room * times)
    refused = [answer for answer in answers if answer.status == 429]
    odd = [answer.status for answer in [*baseline, *answers] if answer.status not in (200, 429)]
    return {
        "room": room,
        "at_once": room * times,
        "baseline": spread([answer for answer in baseline if answer.status == 200]),
        "accepted": spread([answer for answer in answers if answer.status == 200]),
        "refused": spread(refused),
        "refused_without_retry_after": sum(b"\r\nretry-after: " not in answer.head for answer in refused),
        "other_answers": len(odd),
        "pages_whole": pages_are_whole(url),
    }


def main() -> None:
    """Floods a server of its own; the exit code tells whether each request was served or refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, default=8, help="answers generated at once")
    parser.add_argument("--waiting", type=int, default=8, help="places in the queue")
    parser.add_argument("--times", type=int, default=10, help="requests at once, as a multiple of the two together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--length", type=int, default=200, help="words of a prompt")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    limits = ("--max-running", str(args.running), "--max-waiting", str(args.waiting))
    with running_server(*limits) as url:
        room = args.running + args.waiting
        figures = measure(url, room, args.times, args.rounds, args.max_tokens, args.length)
    if args.json:
        print(json.dumps(figures))
    else:
        print(*(f"{name:28} {value}" for name, value in figures.items()), sep="\n")
    well = figures["pages_whole"] and not figures["other_answers"] and not figures["refused_without_retry_after"]
    sys.exit(not well)


if __name__ == "__main__":
    main()
