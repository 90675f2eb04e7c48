"""AMX for CPUs without it, so that what is written for it can be tested anywhere on x86-64."""

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

SOURCES = Path(__file__).with_name("amx_emulator")


@lru_cache(maxsize=1)
def emulate_amx() -> object:
    """Lets this process do AMX's instructions, in whatever thread, by a handler of the signal that they raise.

    Where the CPU has AMX nothing is done; where it lacks AVX512-BF16, which the kernels need beside AMX, the test
    that asks is skipped.

    Returns:
        What the handler's code belongs to.
    """
    if "amx" in supported_isas():
        return None
    if platform.machine() != "x86_64" or not ISAS["avx512_bf16"] <= cpu_flags():
        pytest.skip("the emulator needs AVX512-BF16")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "amx_emulator.mojoc"
        subprocess.run([mojo_compiler(), "precompile", SOURCES, "-o", package], check=True)
        with Graph("emulator", input_types=[], custom_extensions=[package]) as graph:
            device = DeviceRef.CPU()
            result = ops.custom("tests.emulate_amx", device, [], [TensorType(DType.int32, [1], device)])
            graph.output(result[0])
        model = InferenceSession(devices=[CPU()]).load(graph)
    (done,) = model.execute()
    assert done.to_numpy()[0], "the handler could not be installed"
    return model
