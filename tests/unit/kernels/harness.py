"""Runs single ops through a MAX graph, with every size symbolic."""

from collections.abc import Callable, Sequence

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, Value

from python_layer.model.device import CPU_DEVICE, ComputeDevice
from python_layer.model.kernels import kernel_package

DEVICE = DeviceRef.CPU()
FLOAT, INT = DType.float32, DType.int32


def tensor(dtype: DType, *shape: int | str) -> TensorType:
    """A tensor type on the CPU; names are symbolic sizes."""
    return TensorType(dtype, list(shape), DEVICE)


class OpRunner:
    """A compiled graph made by ``build(inputs) -> outputs``, called with arrays or buffers, which go to its device."""

    def __init__(
        self,
        inputs: Sequence[object],
        build: Callable[[Sequence[Value]], Sequence[Value]],
        device: ComputeDevice = CPU_DEVICE,
    ) -> None:
        self._device = device.open()
        with Graph("ops", input_types=list(inputs), custom_extensions=[kernel_package()]) as graph:
            graph.output(*build(graph.inputs))
        self._model = InferenceSession(devices=[self._device]).load(graph)

    def __call__(self, *arguments: np.ndarray | Buffer) -> list[np.ndarray]:
        buffers = [a if isinstance(a, Buffer) else Buffer.from_numpy(np.array(a, order="C")) for a in arguments]
        outputs = self._model.execute(*(buffer.to(self._device) for buffer in buffers))
        return [from_bfloat16(o) if o.dtype == DType.bfloat16 else o.to_numpy() for o in outputs]


def to_dtype(values: np.ndarray, dtype: DType) -> tuple[Buffer, np.ndarray]:
    """The values rounded to ``dtype``: as a buffer of it, and as float64 for a reference."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == DType.bfloat16:
        bits = values.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        exact = (rounded.astype(np.uint32) << 16).view(np.float32)
        return Buffer.from_numpy(rounded).view(dtype, values.shape), exact.astype(np.float64)
    stored = values.astype(np.float16 if dtype == DType.float16 else np.float32)
    return Buffer.from_numpy(stored), stored.astype(np.float64)


def from_bfloat16(buffer: Buffer) -> np.ndarray:
    """A bfloat16 buffer's values as float32."""
    bits = buffer.to(CPU()).view(DType.uint16, buffer.shape).to_numpy().astype(np.uint32)
    return (bits << 16).view(np.float32)
