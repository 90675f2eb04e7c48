"""Compiled graphs on disk, so that a model is compiled once per machine and version."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from max.engine import CompiledModel, InferenceSession, read
from max.graph import Graph

from python_layer.model import graph as graph_module
from python_layer.model.kernels import source_hash
from python_layer.utils.cpu import cpu_fingerprint


class CompileCache:
    """A folder of compiled graphs named by everything their code depends on.

    Args:
        folder: Where the files lie; made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def compile(
        self, session: InferenceSession, description: str, build: Callable[[], Graph]
    ) -> tuple[CompiledModel, bool]:
        """The compiled graph, read from disk or else compiled and written there.

        Args:
            session: Compiles and later runs the graph.
            description: Every argument of ``build`` that shapes the graph (configuration, types).
            build: Makes the graph; called only on a miss.

        Returns:
            The compiled graph, and whether it came from the cache.
        """
        file = self._folder / f"{_key(description)}.mef"
        if file.exists():
            try:
                return read(file), True
            except Exception:
                # A damaged file only costs a compilation.
                file.unlink(missing_ok=True)
        compiled = session.compile(build())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Two processes may compile the same graph: each writes its own file, the last rename wins.
            partial = file.with_suffix(f".{os.getpid()}")
            compiled.export_mef(str(partial))
            partial.replace(file)
        except OSError:
            pass  # An unwritable cache folder makes the next start slow, not this one wrong.
        return compiled, False


def _key(description: str) -> str:
    builder = Path(graph_module.__file__).read_bytes()
    parts = [source_hash(), hashlib.sha256(builder).hexdigest(), cpu_fingerprint(), description]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
