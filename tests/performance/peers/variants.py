"""The systems that are compared, each in the precisions it has, and how one run of each is made."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from python_layer.utils.cpu import cpu_flags
from tests.performance.peers.llama import measure_llama
from tests.performance.peers.process import run_watched
from tests.performance.peers.setup import GGUF_TYPES, OPENVINO_TYPES, PeerSetup

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

NOT_MEASURED = {
    "MAX's own pipeline": "its Qwen3 refuses bfloat16 on a CPU, and in float32 it asks for a GPU for its all-reduce"
}
"""Systems that one may look for in the table, and why they are not there."""


class UnavailableError(Exception):
    """A system has no such variant; says why."""


@dataclass(frozen=True)
class Variant:
    """A system in a precision.

    Attributes:
        name: As in the table.
        arithmetic: What its matrices are multiplied in, "bf16" or "int8": whose limit it is held against.
        prepare: Makes what it needs; may take long the first time.
        run: Measures once, with so many threads, or only the start: the figures of workload.py, and the peak of memory
            in bytes.
    """

    name: str
    arithmetic: str
    prepare: Callable[[], object]
    run: Callable[[int, bool], dict[str, float]]


def variants(setup: PeerSetup) -> list[Variant]:
    """All of them; nothing is set up yet."""
    return [
        *(_mili(setup, quantization) for quantization in ("none", "int8", "int4")),
        *(_llama(setup, kind) for kind in GGUF_TYPES),
        *(_openvino(setup, kind) for kind in OPENVINO_TYPES),
        _transformers(setup),
    ]


def _mili(setup: PeerSetup, quantization: str) -> Variant:
    def run(threads: int, only_start: bool) -> dict[str, float]:
        program = HERE / "run_mili.py"
        return _run_program(Path(sys.executable), program, setup.checkpoint(), threads, quantization, only_start)

    name = "MILI bf16" if quantization == "none" else f"MILI {quantization}"
    return Variant(name, _arithmetic(quantization), setup.checkpoint, run)


def _llama(setup: PeerSetup, kind: str) -> Variant:
    def run(threads: int, only_start: bool) -> dict[str, float]:
        bench, batched = setup.llama_program("llama-bench"), setup.llama_program("llama-batched-bench")
        return measure_llama(bench, batched, setup.gguf(kind), threads, only_start)

    return Variant(f"llama.cpp {kind}", _arithmetic(kind), partial(setup.gguf, kind), run)


def _openvino(setup: PeerSetup, kind: str) -> Variant:
    def run(threads: int, only_start: bool) -> dict[str, float]:
        python, program = setup.python("openvino"), HERE / "run_openvino.py"
        # Where a CPU has no bfloat16, OpenVINO would imitate it at a crawl.
        precision = "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "f32"
        return _run_program(python, program, setup.openvino_model(kind), threads, precision, only_start)

    name = "OpenVINO bf16" if kind == "fp16" else f"OpenVINO {kind}"
    return Variant(name, _arithmetic(kind), partial(setup.openvino_model, kind), run)


def _transformers(setup: PeerSetup) -> Variant:
    def prepare() -> None:
        setup.checkpoint()
        setup.python("torch")

    def run(threads: int, only_start: bool) -> dict[str, float]:
        program = HERE / "run_transformers.py"
        return _run_program(setup.python("torch"), program, setup.checkpoint(), threads, "bfloat16", only_start)

    return Variant("transformers bf16", "bf16", prepare, run)


def _arithmetic(kind: str) -> str:
    return "bf16" if kind in ("none", "BF16", "fp16") else "int8"


def _run_program(
    python: Path, program: Path, model: Path, threads: int, variant: str, only_start: bool
) -> dict[str, float]:
    """Runs a program that measures itself.

    Raises:
        UnavailableError: It has no such variant.
        ProgramError: It failed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    options = ["--threads", threads, "--variant", variant, "--started", time.time()]
    out, peak = run_watched([python, program, model, *options, *["--only-start"] * only_start], environment)
    figures: dict[str, float] = json.loads(out.strip().splitlines()[-1])
    if "unavailable" in figures:
        raise UnavailableError(str(figures["unavailable"]))
    return figures | {"peak": peak}
