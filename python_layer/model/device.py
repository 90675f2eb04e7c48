"""Where a model runs: the CPU, or an NVIDIA GPU that MAX finds here or compiles for from afar."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from max.driver import CPU, Accelerator, accelerator_api, accelerator_count
from max.graph import DeviceRef

from python_layer.model.gpu_linear import compute_capability
from python_layer.utils.errors import ConfigError, DeviceError, MiliError

ARCHITECTURES = ("sm_80", "sm_89", "sm_90a")
"""What graphs can be compiled for without such a GPU: Ampere, Ada and Hopper."""
NO_MEMORY = r"out of memory|OUT_OF_MEMORY|failed to allocate|cannot satisfy allocation|exceeded"
"""What MAX says where memory does not suffice."""
OLDEST = 80
"""Least compute capability, times ten."""


@dataclass(frozen=True)
class ComputeDevice:
    """A device.

    Attributes:
        gpu: Number of the GPU; None is the CPU.
        architecture: What graphs for it are compiled for, such as sm_90a; empty for the CPU.
        virtual: The GPU need not be in this machine: graphs can be compiled, not run.
    """

    gpu: int | None = None
    architecture: str = ""
    virtual: bool = False

    @property
    def name(self) -> str:
        """Cpu or gpu:N, as in --device."""
        return "cpu" if self.gpu is None else f"gpu:{self.gpu}"

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.gpu is not None

    @property
    def ref(self) -> DeviceRef:
        """The device in a graph."""
        return DeviceRef.CPU() if self.gpu is None else DeviceRef.GPU(self.gpu)

    def open(self) -> Any:
        """The driver's device."""
        return CPU() if self.gpu is None else _accelerator(self.gpu)

    def free_memory(self) -> int:
        """Bytes that are free on the GPU.

        Raises:
            DeviceError: The driver does not tell.
        """
        stats = self.open().stats
        if "free_memory" not in stats:
            raise DeviceError(f"{self.name} does not tell how much of its memory is free, only {', '.join(stats)}")
        return int(stats["free_memory"])

    def failure(self, error: Exception, doing: str) -> MiliError:
        """What went wrong on the device, in the words of the user: what was not possible, and what may help.

        Args:
            error: What MAX said.
            doing: What was to be done.
        """
        text = str(error)
        if self.is_gpu and re.search(NO_MEMORY, text, re.IGNORECASE):
            return ConfigError(f"{self.name} lacks the memory to {doing}: {text}; a smaller --kv-cache-memory may help")
        return DeviceError(f"{self.name} could not {doing}: {text}")

    @contextmanager
    def explaining(self, doing: str) -> Iterator[None]:
        """What MAX raises within it on a GPU becomes what :meth:`failure` says."""
        try:
            yield
        except (RuntimeError, ValueError, MemoryError) as error:
            if not self.is_gpu:
                raise
            raise self.failure(error, doing) from error


@cache
def _accelerator(index: int) -> Any:
    return Accelerator(index)


CPU_DEVICE = ComputeDevice()


def resolve_device(text: str) -> ComputeDevice:
    """The device that ``--device`` names.

    Args:
        text: cpu, gpu (the first one), gpu:N, or auto: the first GPU if there is one that can be used, else the CPU.

    Raises:
        ConfigError: It is none of these, or there is no such GPU that can be used; says what was found.
    """
    if not re.fullmatch(r"cpu|auto|gpu(:\d+)?", text):
        raise ConfigError(f"device is {text!r}; supported are cpu, gpu, gpu:N and auto")
    if text == "cpu":
        return CPU_DEVICE
    count = accelerator_count()
    try:
        api = accelerator_api() if count else "none"
    except (RuntimeError, ValueError) as error:  # such as a driver that is too old
        if text == "auto":
            return CPU_DEVICE
        raise ConfigError(f"device is {text}, but MAX can't use it: {error}") from error
    if text == "auto" and (count == 0 or api != "cuda"):
        return CPU_DEVICE
    if count == 0:
        raise ConfigError(
            f"device is {text}, but MAX finds no GPU on this machine, only its CPU; it needs an NVIDIA GPU of "
            "sm_80 or later and a driver of version 580 or later. --device cpu runs without one"
        )
    if api != "cuda":
        raise ConfigError(f"device is {text}, but the GPUs found here are of {api}; supported are NVIDIA's (cuda)")
    index = int(text.partition(":")[2] or 0)
    if index >= count:
        raise ConfigError(f"device is {text}, but there are {count} GPUs here, gpu:0 to gpu:{count - 1}")
    architecture = _accelerator(index).architecture_name
    if compute_capability(architecture) < OLDEST:
        if text == "auto":
            return CPU_DEVICE
        raise ConfigError(f"device is {text}, a GPU of {architecture}; the kernels need sm_{OLDEST} or later")
    return ComputeDevice(index, architecture)


def parse_target(text: str) -> ComputeDevice:
    """The GPU that ``mili compile --target`` names, which need not be here.

    Args:
        text: cuda:sm_80, cuda:sm_89 or cuda:sm_90a.

    Raises:
        ConfigError: It is none of these.
    """
    api, _, architecture = text.partition(":")
    if api != "cuda" or architecture not in ARCHITECTURES:
        targets = ", ".join(f"cuda:{architecture}" for architecture in ARCHITECTURES)
        raise ConfigError(f"target is {text!r}; supported are {targets}")
    return ComputeDevice(0, architecture, virtual=True)
