"""The systems that are compared, each in the precisions it has, and how one run of each is made."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from python_layer.utils.cpu import cpu_flags
from tests.performance.peers.llama import Llama
from tests.performance.peers.process import Program, run_watched
from tests.performance.peers.setup import GGUF_TYPES, OPENVINO_TYPES, PeerSetup

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

NOT_MEASURED = {
    "MAX's own pipeline": "its Qwen3 refuses bfloat16 on a CPU, and in float32 it asks for a GPU for its all-reduce"
}
"""Systems that one may look for in the table, and why they are not there."""


class UnavailableError(Exception):
    """A system has no such variant; says why."""


class Loaded(Protocol):
    """A system that stays while others are measured."""

    def rate(self, name: str) -> float:
        """Measures one of RATES. ProgramError if it failed."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


@dataclass(frozen=True)
class Variant:
    """A system in a precision.

    Attributes:
        name: As in the table.
        arithmetic: What its matrices are multiplied in, "bf16" or "int8": whose limit it is held against.
        prepare: Makes what it needs; may take long the first time.
        run: Measures once, with so many threads, or only the start: the figures of workload.py, and the peak of memory
            in bytes.
        open: Loads it, with so many threads, to measure rates one by one.
    """

    name: str
    arithmetic: str
    prepare: Callable[[], object]
    run: Callable[[int, bool], dict[str, float]]
    open: Callable[[int], Loaded]


def variants(setup: PeerSetup) -> list[Variant]:
    """All of them; nothing is set up yet."""
    return [
        *(_mili(setup, quantization) for quantization in ("none", "int8", "int4")),
        *(_llama(setup, kind) for kind in GGUF_TYPES),
        *(_openvino(setup, kind) for kind in OPENVINO_TYPES),
        _transformers(setup),
    ]


def _mili(setup: PeerSetup, quantization: str) -> Variant:
    def program() -> PeerProgram:
        return PeerProgram(Path(sys.executable), HERE / "run_mili.py", setup.checkpoint(), quantization)

    name = "MILI bf16" if quantization == "none" else f"MILI {quantization}"
    return _of_program(name, _arithmetic(quantization), setup.checkpoint, program)


def _llama(setup: PeerSetup, kind: str) -> Variant:
    def load(threads: int) -> Llama:
        bench, batched_bench = setup.llama_program("llama-bench"), setup.llama_program("llama-batched-bench")
        return Llama(bench, batched_bench, setup.gguf(kind), threads)

    def run(threads: int, only_start: bool) -> dict[str, float]:
        return load(threads).measure(only_start)

    return Variant(f"llama.cpp {kind}", _arithmetic(kind), partial(setup.gguf, kind), run, load)


def _openvino(setup: PeerSetup, kind: str) -> Variant:
    def program() -> PeerProgram:
        # Where a CPU has no bfloat16, OpenVINO would imitate it at a crawl.
        precision = "bf16" if {"avx512_bf16", "amx_bf16"} & cpu_flags() else "f32"
        model = setup.openvino_model(kind)
        return PeerProgram(setup.python("openvino"), HERE / "run_openvino.py", model, precision)

    name = "OpenVINO bf16" if kind == "fp16" else f"OpenVINO {kind}"
    return _of_program(name, _arithmetic(kind), partial(setup.openvino_model, kind), program)


def _transformers(setup: PeerSetup) -> Variant:
    def program() -> PeerProgram:
        return PeerProgram(setup.python("torch"), HERE / "run_transformers.py", setup.checkpoint(), "bfloat16")

    return _of_program("transformers bf16", "bf16", program, program)


def _arithmetic(kind: str) -> str:
    return "bf16" if kind in ("none", "BF16", "fp16") else "int8"


@dataclass(frozen=True)
class PeerProgram:
    """A program that measures itself, as workload.py says."""

    python: Path
    program: Path
    model: Path
    variant: str

    def run(self, threads: int, only_start: bool) -> dict[str, float]:
        """Its figures and its peak of memory. UnavailableError: it has no such variant. ProgramError: it failed."""
        out, peak = run_watched(self._command(threads, *["--only-start"] * only_start), self._environment(threads))
        figures: dict[str, float] = json.loads(out.strip().splitlines()[-1])
        if "unavailable" in figures:
            raise UnavailableError(str(figures["unavailable"]))
        return figures | {"peak": peak}

    def load(self, threads: int) -> Program:
        """Keeps it. ProgramError: it failed."""
        return Program(self._command(threads, "--in-turn"), self._environment(threads))

    def _command(self, threads: int, *more: str) -> list[object]:
        options = ["--threads", threads, "--variant", self.variant, "--started", time.time(), *more]
        return [self.python, self.program, self.model, *options]

    def _environment(self, threads: int) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}


def _of_program(
    name: str, arithmetic: str, prepare: Callable[[], object], program: Callable[[], PeerProgram]
) -> Variant:
    def run(threads: int, only_start: bool) -> dict[str, float]:
        return program().run(threads, only_start)

    def load(threads: int) -> Loaded:
        return program().load(threads)

    return Variant(name, arithmetic, prepare, run, load)
