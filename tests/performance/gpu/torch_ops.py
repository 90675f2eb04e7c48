"""PyTorch's functions for the same work, one call after the other as a model in PyTorch makes them.

PyTorch is no part of the project: where it is not installed, or can't use the device, its columns say so.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from python_layer.model.device import ComputeDevice
from tests.performance.gpu.contest import Contender, UnavailableError, bursts
from tests.performance.gpu.numbers import bfloat16_bits, floats
from tests.performance.gpu.sizes import Sizes
from tests.performance.gpu.work import EPS, AttentionWork, LinearWork

INSTALL = "not installed: pip install torch transformers"
BACKENDS = {"flash": "FLASH_ATTENTION", "cuDNN": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
"""Of scaled_dot_product_attention, with torch's names for them."""


def import_torch() -> Any:
    """PyTorch.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UnavailableError(INSTALL) from None
    return torch


class TorchPlace:
    """PyTorch's view of a device.

    Args:
        device: The device.

    Raises:
        UnavailableError: PyTorch is not installed, or was built without CUDA.
    """

    def __init__(self, device: ComputeDevice) -> None:
        self.torch = import_torch()
        if device.is_gpu and not self.torch.cuda.is_available():
            raise UnavailableError(f"torch {self.torch.__version__} can't use this GPU: a build with CUDA is needed")
        self.device = self.torch.device("cpu" if device.gpu is None else f"cuda:{device.gpu}")

    def synchronize(self) -> None:
        """Waits until the device has done all it was given."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def numbers(self, bits: NDArray[np.uint16]) -> Any:
        """bfloat16 numbers; on a CPU, whose other contenders compute in float32, as float32."""
        tensor = self.torch.from_numpy(bits.view(np.int16)).view(self.torch.bfloat16).to(self.device)
        return tensor if self.device.type == "cuda" else tensor.float()

    def array(self, array: NDArray[np.float32]) -> Any:
        """An array on the device."""
        return self.torch.from_numpy(array).to(self.device)

    def contender(self, inputs: Callable[[], tuple[Any, ...]], run: Callable[..., Any], copies: int) -> Contender:
        """PyTorch, with a function of some inputs that gives a matrix of which rows are compared."""
        given = [inputs() for _ in range(copies)]
        last: list[Any] = []

        def launch() -> None:
            with self.torch.inference_mode():
                last[:] = [run(*each) for each in given]

        def result() -> NDArray[np.float32]:
            array: NDArray[np.float32] = last[0].float().cpu().numpy()
            return array

        def close() -> None:
            given.clear()
            last.clear()
            if self.device.type == "cuda":
                self.torch.cuda.empty_cache()

        burst = bursts(launch, self.synchronize)
        return Contender(lambda: burst() / copies, result, close)

    def copy(self, size: int) -> Contender:
        """A copy of so many bytes."""
        source, target = (self.torch.zeros(size, dtype=self.torch.uint8, device=self.device) for _ in range(2))
        return Contender(bursts(lambda: target.copy_(source), self.synchronize))

    def add_rms_norm(self, sizes: Sizes, rows: int, copies: int) -> Contender:
        def inputs() -> tuple[Any, ...]:
            x, residual = self.numbers(bfloat16_bits(rows, sizes.hidden)), floats(rows, sizes.hidden, seed=1)
            return x, self.array(residual), self.array(floats(sizes.hidden, seed=2))

        def run(x: Any, residual: Any, gamma: Any) -> Any:
            total = residual + x
            return self.torch.nn.functional.rms_norm(total, gamma.shape, gamma, EPS).to(x.dtype)

        return self.contender(inputs, run, copies)

    def swiglu(self, sizes: Sizes, rows: int, copies: int) -> Contender:
        def run(both: Any) -> Any:
            gate, up = both.split(sizes.inner, 1)
            return self.torch.nn.functional.silu(gate) * up

        return self.contender(lambda: (self.numbers(bfloat16_bits(rows, 2 * sizes.inner)),), run, copies)

    def store(self, work: AttentionWork) -> Contender:
        """QK norm, RoPE, and the write of keys and values to a dense cache."""
        torch, sizes = self.torch, work.sizes
        heads = [sizes.q_heads, sizes.kv_heads, sizes.kv_heads]

        def inputs() -> tuple[Any, ...]:
            qkv = self.numbers(work.qkv())
            cache = torch.empty((2, work.rows, sizes.kv_heads, sizes.head_dim), dtype=qkv.dtype, device=self.device)
            cosines, sines = self.array(work.rope())[:, None].to(qkv.dtype).chunk(2, 2)
            gamma = torch.ones(sizes.head_dim, dtype=qkv.dtype, device=self.device)
            return qkv, cache, torch.cat([cosines, cosines], 2), torch.cat([-sines, sines], 2), gamma

        def run(qkv: Any, cache: Any, cosines: Any, sines: Any, gamma: Any) -> Any:
            parts = qkv.view(work.rows, -1, sizes.head_dim).split(heads, 1)
            q, k = (torch.nn.functional.rms_norm(part, gamma.shape, gamma, EPS) for part in parts[:2])
            q, k = (x * cosines + x.roll(sizes.head_dim // 2, 2) * sines for x in (q, k))
            cache[0], cache[1] = k, parts[2]
            return q.flatten(1)

        return self.contender(inputs, run, 1)

    def attention(self, work: AttentionWork, backend: str) -> Contender:
        """scaled_dot_product_attention by one of BACKENDS; keys and values lie side by side for each head."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        sizes, chosen = work.sizes, getattr(SDPBackend, BACKENDS[backend])

        def inputs() -> tuple[Any, ...]:
            q = self.numbers(work.queries()).view(work.requests, work.tokens, sizes.q_heads, sizes.head_dim)
            heads = (self.numbers(x) for x in (work.keys(), work.values()))
            return tuple(x.transpose(1, 2).contiguous() for x in (q, *heads))

        def run(q: Any, k: Any, v: Any) -> Any:
            causal = work.tokens > 1  # a decode's token sees all there is
            with sdpa_kernel(chosen):
                return self.torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

        contender = self.contender(inputs, run, 1)
        assert contender.result is not None
        attended = contender.result
        shape = (work.rows, sizes.q_size)
        return Contender(contender.seconds, lambda: attended().swapaxes(1, 2).reshape(shape), contender.close)

    def linear(self, work: LinearWork, copies: int) -> Contender:
        def inputs() -> tuple[Any, ...]:
            return self.numbers(work.x()), self.numbers(work.w())

        return self.contender(inputs, self.torch.nn.functional.linear, copies)
