"""Instruction sets that the CPU lacks, so that what is written for them can be tested anywhere on x86-64."""

import platform
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, ops

from python_layer.model.kernels import mojo_compiler
from python_layer.utils.cpu import ISAS, cpu_flags, supported_isas

SOURCES = Path(__file__).with_name("x86_emulator")
BESIDE = {"amx": "avx512_bf16", "avx2_vnni": "avx2"}
"""The instruction sets that are emulated, and which one the CPU must have, whose instructions kernels use beside."""


def can_emulate(isa: str) -> bool:
    """Whether an instruction set works here once it is emulated."""
    return platform.machine() == "x86_64" and ISAS[BESIDE[isa]] <= cpu_flags()


def emulate(isa: str) -> None:
    """Lets this process do an instruction set's instructions, in whatever thread; skips the test where that can't be.

    Nothing is done where the CPU has them.
    """
    if isa in supported_isas():
        return
    if not can_emulate(isa):
        pytest.skip(f"the emulator of {isa} needs {BESIDE[isa]}")
    _handle_signals()


@lru_cache(maxsize=1)
def _handle_signals() -> object:
    """Does unknown instructions in a handler of the signal that they raise; returns what its code belongs to."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "x86_emulator.mojoc"
        subprocess.run([mojo_compiler(), "precompile", SOURCES, "-o", package], check=True)
        with Graph("emulator", input_types=[], custom_extensions=[package]) as graph:
            device = DeviceRef.CPU()
            result = ops.custom("tests.emulate", device, [], [TensorType(DType.int32, [1], device)])
            graph.output(result[0])
        model = InferenceSession(devices=[CPU()]).load(graph)
    (done,) = model.execute()
    assert done.to_numpy()[0], "the handler could not be installed"
    return model
