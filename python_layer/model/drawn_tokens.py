"""Tokens that are drawn on the device and needed there by the next step, before the host knows them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, ops
from numpy.typing import NDArray

from python_layer.model.compile_cache import CompiledGraphs
from python_layer.model.device import ComputeDevice
from python_layer.model.device_arrays import on_device


@dataclass(frozen=True)
class DrawnTokens:
    """Where a batch gets token ids that the host does not know yet.

    Attributes:
        tokens: int32 [D], on the device: what the sampler drew in the step before.
        rows: int32 [T]: for each of the batch's tokens its index in ``tokens``, or -1 where the batch has the id.
    """

    tokens: Buffer
    rows: NDArray[np.int32]


@dataclass(frozen=True)
class TokenGraph:
    """The graph that puts drawn tokens into a batch: one for every model, all sizes symbolic."""

    device: DeviceRef = field(default_factory=DeviceRef.CPU)

    def build(self, kernels: Path) -> Graph:
        """Inputs token_ids [T], rows [T] and tokens [D], output token_ids [T], all int32."""
        types = [TensorType(DType.int32, [size], self.device) for size in ("T", "T", "D")]
        with Graph("drawn_tokens", input_types=types, custom_extensions=[kernels]) as graph:
            token_ids, rows, tokens = (value.tensor for value in graph.inputs)
            none = ops.constant(0, DType.int32, self.device)
            taken = ops.gather(tokens, ops.max(rows, none), axis=0)
            graph.output(ops.where(rows >= none, taken, token_ids))
        return graph


class TokenGatherer:
    """Puts drawn tokens into batches, on the device.

    Args:
        cache: Holds the compiled graph.
        device: Where the tokens are.

    Raises:
        CompileError: The graph can't be compiled here.
    """

    def __init__(self, cache: CompiledGraphs, device: ComputeDevice) -> None:
        compiled, _ = cache.get(TokenGraph(device.ref))
        self._device = device.open()
        self._model = InferenceSession(devices=[self._device]).init(compiled)

    def token_ids(self, given: NDArray[np.int32], drawn: DrawnTokens) -> Buffer:
        """The token ids [T] of a batch, on the device; ``given`` has those that are not drawn."""
        (token_ids,) = self._model.execute(*on_device([given, drawn.rows], self._device), drawn.tokens)
        return token_ids
