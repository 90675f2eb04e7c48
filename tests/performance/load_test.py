"""A load on the server: throughput, TTFT, TPOT and end-to-end time, errors, and whether its pages are whole afterwards.

    python tests/performance/load_test.py --num-requests 1000 --concurrent 50 [--url U] [--leave 0.5] [--json]

Without --url it starts a server of its own.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from python_layer.bench.load import Load, at_server
from tests.integration.server import running_server


def pages_are_whole(url: str) -> bool:
    """Whether the engine falls idle soon, with no page held."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
            stats = json.load(response)["engine"]
        if stats["requests"] == 0 and stats["pages_held"] == 0:
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    """Runs the load; the exit code tells whether every request went well and every page came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-requests", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--ignore-eos", action="store_true", help="make every answer that long")
    parser.add_argument("--leave", type=float, default=0.0, help="share of the clients that leave before the end")
    parser.add_argument("--url", help="a MILI server that runs")
    parser.add_argument("--model", help="checkpoint of the server to start")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    load = Load(args.num_requests, args.concurrent, args.max_tokens, args.ignore_eos, args.leave)
    own = running_server(*(["--model", args.model] if args.model else []))
    with own if args.url is None else contextlib.nullcontext(args.url) as url:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("Requests", total=args.num_requests)
            report = asyncio.run(at_server(url, load, lambda: bar.advance(task)))
        whole = pages_are_whole(url)
    if args.json:
        print(json.dumps(report.figures() | {"pages_whole": whole}))
    else:
        Console(highlight=False).print(report.table(f"{args.concurrent} clients"))
        print(f"pages whole: {whole}", *report.errors.items(), sep="\n")
    sys.exit(bool(report.errors) or not whole)


if __name__ == "__main__":
    main()
