"""An op of MILI's or MAX's as a graph of its own."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from max.dtype import DType
from max.graph import DeviceRef, Graph, Type, Value

from tests.performance.gpu.sizes import Sizes

BF16, FLOAT = DType.bfloat16, DType.float32


def _code() -> str:
    """A digest of the code that builds graphs, for the key of compiled ones."""
    files = [Path(__file__).with_name(name) for name in ("max_ops.py", "op.py", "ours.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@dataclass(frozen=True)
class Op(ABC):
    """A graph that does the same work several times, each time on inputs of its own.

    Attributes:
        device: Where it runs.
        sizes: Of the work.
        architecture: Of a GPU, such as sm_90a; of a CPU, the instruction set of MILI's linear layers.
        copies: How many times.
    """

    device: DeviceRef
    sizes: Sizes
    architecture: str
    copies: int = 1
    code: str = field(default_factory=_code)

    @property
    def dtype(self) -> DType:
        """Of what is between two matrices, and of the matrices."""
        return FLOAT if self.device.is_cpu() else BF16

    @abstractmethod
    def types(self) -> list[Type[Any]]:
        """Of the inputs of one time."""

    @abstractmethod
    def apply(self, values: Sequence[Value[Any]]) -> Sequence[Value[Any]]:
        """Does it once; gives what is compared first."""

    def build(self, kernels: Path) -> Graph:
        """As a :class:`~python_layer.model.compile_cache.GraphRequest`."""
        types = self.types()
        with Graph(type(self).__name__, input_types=types * self.copies, custom_extensions=[kernels]) as graph:
            outputs: list[Value[Any]] = []
            for first in range(0, len(types) * self.copies, len(types)):
                outputs += self.apply(graph.inputs[first : first + len(types)])
            graph.output(*outputs)
        return graph
