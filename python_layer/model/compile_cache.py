"""Compiled graphs on disk, so that a model is compiled once per machine and version.

Compiling takes about a gigabyte that would never come back to the system, so it happens in a process of its
own: ``python -m python_layer.model.compile_cache``, with a pickled :class:`GraphRequest` as standard input.
"""

import hashlib
import inspect
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from max.driver import (
    set_virtual_cpu_target,
    set_virtual_device_api,
    set_virtual_device_count,
    set_virtual_device_target_arch,
)
from max.engine import CompiledModel, InferenceSession, read
from max.graph import Graph

from python_layer.model.device import CPU_DEVICE, ComputeDevice
from python_layer.model.kernels import assembly_error, kernel_package, source_hash
from python_layer.utils.cpu import cpu_fingerprint
from python_layer.utils.errors import CompileError
from python_layer.utils.file_lock import file_lock

PORTABLE_CPU = "x86-64-v3"
"""The host code of graphs for another machine."""

GRAPH_PARTS = (
    "cpu_layers.py",
    "gpu_layers.py",
    "gpu_linear.py",
    "graph_ops.py",
    "linear.py",
    "quantization.py",
    "rope.py",
    "sample_graph.py",
    "sampling.py",
    "weight_spec.py",
    "weights.py",
)
"""Beside the file that builds a graph, those whose code shapes it."""


class GraphRequest(Protocol):
    """A graph that can be built anywhere; its ``repr`` tells everything that shapes it, and it can be pickled."""

    def build(self, kernels: Path) -> Graph:
        """Builds the graph on a compiled kernel package."""


class CompiledGraphs(Protocol):
    """Where compiled graphs come from."""

    def get(self, request: GraphRequest) -> tuple[CompiledModel, bool]:
        """The compiled graph and whether it was compiled before.

        Raises:
            CompileError: There is none and it can't be compiled here.
        """


def graph_code(request: GraphRequest) -> str:
    """A digest of the Python code that shapes a graph."""
    digest = hashlib.sha256(Path(inspect.getfile(type(request))).read_bytes())
    for name in GRAPH_PARTS:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


def cache_key(request: GraphRequest, device: ComputeDevice = CPU_DEVICE) -> str:
    """A digest of everything that a compiled graph depends on."""
    parts = [source_hash(), graph_code(request), cpu_fingerprint(), repr(request)]
    if device != CPU_DEVICE:
        parts.append(repr(device))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class CompileCache:
    """A folder of compiled kernels and graphs.

    Args:
        folder: Made when first needed.
        device: What graphs are compiled for.
    """

    def __init__(self, folder: Path, device: ComputeDevice = CPU_DEVICE) -> None:
        self._folder = folder
        self._device = device

    def get(self, request: GraphRequest) -> tuple[CompiledModel, bool]:
        """The compiled graph and whether it was in the cache; compiled and kept there if not.

        Raises:
            CompileError: The kernels or the graph can't be compiled here, or the folder can't be written.
        """
        file = self._folder / "models" / f"{cache_key(request, self._device)}.mef"
        kept = _read(file)
        if kept is not None:
            return kept, True
        kernels = kernel_package(self._folder)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Who wants what another process is compiling waits for it.
            with file_lock(file.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
                kept = _read(file)
                if kept is not None:
                    return kept, True
                made = Path(scratch) / file.name
                compile_apart(request, kernels, made, self._device)
                made.replace(file)
        except OSError as error:
            raise CompileError(
                f"can't write the compiled model to {file.parent}: {error.strerror}; "
                "set MILI_CACHE_DIR to a writable folder"
            ) from None
        return read(file), False


def _read(file: Path) -> CompiledModel | None:
    """A compiled graph; None where there is none, or a damaged one, which costs a compilation."""
    if not file.exists():
        return None
    try:
        return read(file)
    except (RuntimeError, ValueError, OSError):
        file.unlink(missing_ok=True)
        return None


def compile_apart(
    request: GraphRequest, kernels: Path, output: Path, device: ComputeDevice, *, assembly: bool = False
) -> None:
    """Compiles a graph in a process of its own.

    Args:
        request: The graph.
        kernels: The compiled kernel package.
        output: The file to write.
        device: What it is compiled for.
        assembly: Put the assembly of its GPU kernels into the file too, for checks.

    Raises:
        CompileError: With what the compiler said.
    """
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-m", "python_layer.model.compile_cache"],
        input=pickle.dumps((device, assembly, pickle.dumps((request, kernels, output)))),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    said = result.stderr.decode(errors="replace").strip()
    unassembled = assembly_error(said, "" if device.is_gpu else getattr(request, "isa", ""))
    if unassembled:
        raise unassembled
    if result.returncode != 0:
        raise CompileError(f"the model's graph does not compile:\n{said}")


def _main() -> None:
    device, assembly, rest = pickle.load(sys.stdin.buffer)
    if device.virtual:  # before anything asks the driver for devices
        set_virtual_cpu_target(PORTABLE_CPU)
        set_virtual_device_api("cuda")
        set_virtual_device_target_arch(device.architecture)
        set_virtual_device_count(device.gpu + 1)
    request, kernels, output = pickle.loads(rest)
    built = request.build(kernels)
    session = InferenceSession(devices=[device.open()])  # must outlive what it compiles
    if assembly:
        session._dump_gpu_asm(True)
    compiled = session.compile(built)
    compiled.export_mef(str(output))
    # The engine's threads may abort the process when Python shuts down; the work is done and on disk.
    os._exit(0)


if __name__ == "__main__":
    _main()
