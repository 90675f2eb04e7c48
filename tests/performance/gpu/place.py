"""Where MILI's and MAX's ops run: a device, its memory, and the graphs that are compiled for it."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from numpy.typing import NDArray

from python_layer.model.compile_cache import CompiledGraphs
from python_layer.model.device import ComputeDevice
from python_layer.utils.errors import MiliError
from tests.performance.gpu.contest import Contender, bursts
from tests.performance.gpu.numbers import widened
from tests.performance.gpu.op import BF16, Op


class Place:
    """A device with its memory.

    Args:
        device: The device.
        graphs: Compiles for it.
    """

    def __init__(self, device: ComputeDevice, graphs: CompiledGraphs) -> None:
        self.device = device
        self._graphs = graphs
        self._refused: dict[Op, MiliError] = {}
        self._driver = device.open()
        self._session = InferenceSession(devices=[self._driver])

    def compile(self, ops: Mapping[str, Op], note: Callable[[str], None]) -> None:
        """Compiles graphs, half as many at once as there are cores, and keeps them; a failure shows at its use."""

        def make(name: str) -> None:
            try:
                _, cached = self._graphs.get(ops[name])
            except MiliError as error:
                self._refused[ops[name]] = error
                note(f"{name} does not compile")
            else:
                note(f"{name}: {'was compiled before' if cached else 'compiled'}")

        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
            list(pool.map(make, ops))

    def contender(
        self,
        op: Op,
        inputs: Callable[[], Sequence[Buffer]],
        shape: Sequence[int],
    ) -> Contender:
        """MILI or MAX, with an op.

        Args:
            op: The op.
            inputs: Makes those of one time; the first time's results are compared.
            shape: Of the first result.

        Raises:
            CompileError: The op's graph does not compile.
        """
        if op in self._refused:
            raise self._refused[op]
        executable, _ = self._graphs.get(op)
        model = self._session.init(executable)
        given = list(itertools.chain.from_iterable(inputs() for _ in range(op.copies)))
        last: list[Buffer] = []

        def run() -> None:
            last[:] = model.execute(*given)

        def result() -> NDArray[np.float32]:
            return values(last[0]).reshape(shape)

        burst = bursts(run, self.synchronize)
        return Contender(lambda: burst() / op.copies, result, partial(_clear, given, last))

    def synchronize(self) -> None:
        """Waits until the device has done all it was given."""
        self._driver.synchronize()

    def copy(self, size: int) -> Contender:
        """A copy of so many bytes by the driver."""
        source, target = (Buffer.zeros([size], DType.uint8, self._driver) for _ in range(2))
        return Contender(bursts(lambda: target.inplace_copy_from(source), self.synchronize))

    def numbers(self, bits: NDArray[np.uint16]) -> Buffer:
        """bfloat16 numbers on the device; on a CPU as float32."""
        if not self.device.is_gpu:
            return Buffer.from_numpy(widened(bits))
        return Buffer.from_numpy(bits).view(BF16, bits.shape).to(self._driver)

    def array(self, array: NDArray[Any]) -> Buffer:
        """An array on the device."""
        return Buffer.from_numpy(np.ascontiguousarray(array)).to(self._driver)

    def zeros(self, dtype: DType, *shape: int) -> Buffer:
        """Memory of the device."""
        return Buffer.zeros(list(shape), dtype, self._driver)


def values(buffer: Buffer) -> NDArray[np.float32]:
    """A buffer's numbers, float32 or bfloat16."""
    host = buffer.to(CPU())
    if host.dtype == BF16:
        return widened(host.view(DType.uint16, host.shape).to_numpy())
    return np.asarray(host.to_numpy(), np.float32)


def _clear(*lists: list[Buffer]) -> None:
    for each in lists:
        each.clear()
