"""The pool has the threads that were asked for, they all compute, and bits do not depend on their number."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, os, re, sys
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.loading import load_model
from python_layer.utils.errors import ConfigError
from python_layer.utils.settings import load_settings

allowed = os.sched_getaffinity(0)
model = load_model(load_settings({"threads": int(sys.argv[1])}))
cache = model.layout.allocate(40)
rows = RequestRows(list(range(500)), 0, range(40))
for _ in range(5):
    logits = model.forward(RaggedBatch.of([rows]), cache)
pool = {}
for task in os.listdir("/proc/self/task"):
    if re.search(r"Thread\\d+$", open(f"/proc/self/task/{task}/comm").read().strip()):
        busy = int(open(f"/proc/self/task/{task}/schedstat").read().split()[0])
        pool[task] = busy * 1e-9 if os.sched_getaffinity(int(task)) == allowed else "bound to a CPU"
try:
    again = load_model(load_settings({"threads": 3 - model.threads})).threads
except ConfigError as error:
    again = str(error)
print(json.dumps({"threads": model.threads, "pool": pool, "logits": logits.tobytes().hex(), "again": again}))
"""


def run(threads: int, *cpus: int) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(threads)]
    bind = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    result = subprocess.run(command, preexec_fn=bind, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_the_number_of_threads() -> None:
    one, two = run(1), run(2)
    for count, answer in ((1, one), (2, two)):
        assert answer["threads"] == len(answer["pool"]) == count
        assert all(seconds > 0.01 for seconds in answer["pool"].values())
        assert f"computes with {count}" in answer["again"]
    assert one["logits"] == two["logits"]


def test_affinity_is_respected() -> None:
    answer = run(0, min(os.sched_getaffinity(0)))
    assert answer["threads"] == len(answer["pool"]) == 1
