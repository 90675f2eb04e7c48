"""Graphs compiled on one machine and run on another: ``mili compile --out DIR``, ``mili serve --compiled DIR``."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from max.engine import CompiledModel, read

from python_layer.model.compile_cache import GraphRequest, compile_apart, graph_code
from python_layer.model.device import ComputeDevice
from python_layer.model.kernels import kernel_package, source_hash
from python_layer.utils.errors import CompileError

MANIFEST = "compiled.json"


def export_graphs(folder: Path, requests: Sequence[GraphRequest], device: ComputeDevice) -> list[Path]:
    """Compiles graphs into a folder, with a manifest that says for what.

    Args:
        folder: Made if it is not there.
        requests: The graphs, one of each class.
        device: What they are compiled for.

    Returns:
        The graphs' files.

    Raises:
        CompileError: A graph does not compile, or the folder can't be written.
    """
    # Taken before the long compilation: should a source change meanwhile, the folder is refused later.
    facts: dict[str, Any] = _built_with(device) | {
        "graphs": {_name(request): _graph_facts(request) for request in requests}
    }
    kernels = kernel_package()
    files = [folder / f"{_name(request)}.mef" for request in requests]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # until everything is there
        for request, file in zip(requests, files, strict=True):
            compile_apart(request, kernels, file, device)
        (folder / MANIFEST).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    except OSError as error:
        raise CompileError(f"can't write compiled graphs to {folder}: {error.strerror}") from None
    return files


class CompiledFolder:
    """A folder that :func:`export_graphs` filled.

    Args:
        folder: The folder.
        device: What the graphs shall run on.

    Raises:
        CompileError: It is no such folder, or was made with another version or for another device; says which.
    """

    def __init__(self, folder: Path, device: ComputeDevice) -> None:
        self._folder = folder
        try:
            self._manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CompileError(
                f"{folder} holds no compiled model ({MANIFEST}: {error}); make one with `mili compile`"
            ) from None
        self._refuse_other(self._manifest, _built_with(device), "it")

    def get(self, request: GraphRequest) -> tuple[CompiledModel, bool]:
        """The compiled graph.

        Raises:
            CompileError: It is not in the folder, or is another model's, or damaged.
        """
        name = _name(request)
        graphs = self._manifest.get("graphs", {})
        if name not in graphs:
            raise CompileError(f"{self._folder} has no graph {name}; make it anew with `mili compile`")
        self._refuse_other(graphs[name], _graph_facts(request), f"its graph {name}")
        file = self._folder / f"{name}.mef"
        try:
            return read(file), True
        except (RuntimeError, ValueError, OSError) as error:
            raise CompileError(f"{file} can't be read: {error}") from None

    def _refuse_other(self, found: dict[str, Any], wanted: dict[str, str], what: str) -> None:
        for fact, value in wanted.items():
            if found.get(fact) != value:
                raise CompileError(
                    f"the compiled model in {self._folder} does not fit: {what} was made with {fact} "
                    f"{found.get(fact)}, but here {fact} is {value}; compile it anew with `mili compile`"
                )


def _name(request: GraphRequest) -> str:
    return type(request).__name__


def _built_with(device: ComputeDevice) -> dict[str, str]:
    return {
        "architecture": device.architecture or "cpu",
        "MAX version": version("max"),
        "kernel sources": source_hash()[:16],
    }


def _graph_facts(request: GraphRequest) -> dict[str, str]:
    return {"configuration": repr(request), "graph code": graph_code(request)[:16]}
