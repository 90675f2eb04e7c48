"""What a server costs that has nothing to do: seconds of CPU and wake-ups per second, by thread (Linux).

Usage: python tests/performance/idle.py [--seconds 20] [--json]
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.server import free_port, mili_command, wait_for


def threads(pid: int) -> tuple[Counter[str], float]:
    """Wake-ups so far by name of thread, and seconds of CPU of the whole process."""
    wakeups: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line)
        wakeups[fields["Name"]] += int(fields["voluntary_ctxt_switches"])
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return wakeups, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main(
    seconds: Annotated[float, typer.Option(help="How long to look.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answers one request, then looks at the idle server."""
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [mili_command(), "serve", "--port", url.rpartition(":")[2], "--log-level", "error"], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(f"{url}/ready", process)
        body = json.dumps({"prompt": "Hello", "max_tokens": 4}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers)).close()
        time.sleep(1)
        before, used_before = threads(process.pid)
        time.sleep(seconds)
        after, used = threads(process.pid)
    finally:
        process.terminate()
        process.wait()
    share = (used - used_before) / seconds
    rates = {name: count / seconds for name, count in (after - before).most_common()}
    if as_json:
        print(json.dumps({"seconds": seconds, "cpu_share": share, "wakeups_per_second": rates}))
        return
    print(f"{100 * share:.1f}% of a core; wake-ups per second:")
    for name, rate in rates.items():
        print(f"  {name:16} {rate:8.1f}")


if __name__ == "__main__":
    typer.run(main)
