"""Hostile requests at the real server: it must answer or refuse each, leak nothing, and go on as before.

    python tests/performance/fuzz.py [--requests 20000] [--concurrent 32] [--seed 0] [--examples 100] [--json]

Then schemathesis sends what it makes of the server's own OpenAPI document. Ends with exit code 1 if any answer was a
5xx, had no proper shape or did not come, if pages are held afterwards, if the server no longer answers as before, or if
its log has a traceback.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.server import mili_command, running_server
from tests.performance.hostile import Attack, attack
from tests.performance.load_test import pages_are_whole

LIMITS = ("--max-tokens-limit", "16", "--max-n", "4", "--request-timeout", "20")
CONVERSATIONS = Path(__file__).resolve().parents[1] / "data" / "golden" / "conversations.json"
"""What the embedded model says, word for word."""
LONGEST_WAIT = 60
NOT_HTTP = b"Invalid HTTP request received."


async def exchange(url: str, attack: Attack) -> bytes:
    """Sends an attack; what came back."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    answer = b""
    try:
        with suppress(ConnectionError):
            for part in attack.parts:
                if isinstance(part, bytes):
                    writer.write(part)
                    await writer.drain()
                else:
                    await asyncio.sleep(part)
        if attack.cut:
            return b""
        if attack.ends:
            writer.write_eof()
        with suppress(ConnectionError):
            if attack.leave_after is not None:
                return await reader.read(attack.leave_after)
            async with asyncio.timeout(LONGEST_WAIT):
                answer = await reader.read()
        return answer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def problem(attack: Attack, answer: bytes) -> str | None:
    """What is wrong with an answer; None for nothing."""
    if attack.cut or attack.leave_after is not None or not answer:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if NOT_HTTP in body or b"HTTP/1.1 " in body:  # several answers on one connection
        return None if status < 500 else f"status {status}"
    code = None
    if status >= 400 and body:
        try:
            code = json.loads(body)["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return f"status {status} without an error's shape: {body[:200]!r}"
    return None if status < 500 or code == "model_not_loaded" else f"status {status}: {body[:200]!r}"


async def assault(url: str, requests: int, concurrent: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Sends the attacks; how many there were of each kind and status, and what went wrong."""
    seen: Counter[str] = Counter()
    problems: list[str] = []
    numbers = iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            each = attack(random.Random(f"{seed} {number}"))
            try:
                answer = await exchange(url, each)
                wrong = problem(each, answer)
                seen[f"{each.kind}: {answer[9:12].decode('latin-1') or 'no answer'}"] += 1
            except TimeoutError:
                wrong = "no answer"
            except OSError as error:
                wrong = f"no connection: {error}"
            if wrong is not None:
                problems.append(f"request {number} ({each.kind}): {wrong}; it began {str(each.parts)[:300]}")

    await asyncio.gather(*(worker() for _ in range(concurrent)))
    return seen, problems


def by_the_document(url: str, examples: int, seed: int) -> list[str]:
    """Lets schemathesis make requests of the server's OpenAPI document; its report if it found a 5xx."""
    command = [mili_command().with_name("schemathesis"), "run", f"{url}/openapi.json"]
    command += ["--checks", "not_a_server_error", "--continue-on-failure", "--max-examples", str(examples)]
    command += ["--seed", str(seed), "--phases", "examples,coverage,fuzzing", "--no-color", "--warnings", "off"]
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return [] if result.returncode == 0 else [f"schemathesis: {result.stdout[-4000:]}{result.stderr[-2000:]}"]


def still_itself(url: str) -> list[str]:
    """What a server does not do any more that it did."""
    problems = [] if pages_are_whole(url) else ["pages are held, or requests are under way, though nobody asks"]
    for conversation in json.loads(CONVERSATIONS.read_text(encoding="utf-8")):
        turn = conversation["turns"][0]
        opening = [{"role": "system", "content": conversation["system"]}] if conversation["system"] else []
        thinking = {} if conversation["thinking"] is None else {"enable_thinking": conversation["thinking"]}
        tools = {"tools": conversation["tools"]} if conversation["tools"] else {}
        body = {"messages": [*opening, turn["said"]], "chat_template_kwargs": thinking} | tools
        asked = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=LONGEST_WAIT) as response:
            message = json.load(response)["choices"][0]["message"]
        said = [message["content"] or "", message.get("reasoning_content", "")]
        said += [part for call in message.get("tool_calls", []) for part in call["function"].values()]
        if any(part not in turn["answer"] for part in said) or not any(said):
            problems.append(f"{conversation['name']}: it answers {said}, not {turn['answer']!r}")
    return problems


def main() -> None:
    """Attacks a server of its own; the exit code tells whether it withstood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis, for each route; 0 is none")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with running_server(*LIMITS, log=log) as url:
            seen, problems = asyncio.run(assault(url, args.requests, args.concurrent, args.seed))
            problems += by_the_document(url, args.examples, args.seed) if args.examples else []
            problems += still_itself(url)
        text = log.read_text(errors="replace")
    if "Traceback" in text:
        problems.append(f"the log has a traceback: {text[text.index('Traceback') :][:4000]}")
    if args.json:
        print(json.dumps({"requests": args.requests, "answers": dict(sorted(seen.items())), "problems": problems}))
    else:
        print(*(f"{count:7,} {what}" for what, count in sorted(seen.items())), *problems[:20], sep="\n")
        print(f"{args.requests:,} requests, {len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
