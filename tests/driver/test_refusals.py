"""The pretended driver refuses what a GPU would."""

import ctypes
import os
from ctypes import c_size_t, c_uint64, c_void_p
from pathlib import Path

import pytest

LOG = os.environ.get("PRETENDED_DRIVER_LOG")
if LOG is None:
    pytest.skip("these run on the pretended driver: make gpu-host", allow_module_level=True)
DRIVER = ctypes.CDLL("libcuda.so.1")
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
INVALID_VALUE, OUT_OF_MEMORY, CAPTURE_UNSUPPORTED = 1, 2, 900


@pytest.fixture
def function() -> c_void_p:
    function = c_void_p()
    assert DRIVER.cuModuleGetFunction(ctypes.byref(function), None, b"kernel") == 0
    return function


def launch(function: c_void_p, grid: tuple[int, ...], block: tuple[int, ...], shared: int = 0) -> int:
    return DRIVER.cuLaunchKernel(function, *grid, *block, shared, None, None, None)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "result"),
    [
        ((2**31 - 1, 65535, 65535), (1024, 1, 1), 48 << 10, 0),
        ((0, 1, 1), (32, 1, 1), 0, INVALID_VALUE),
        ((1, 65536, 1), (32, 1, 1), 0, INVALID_VALUE),
        ((1, 1, 65536), (32, 1, 1), 0, INVALID_VALUE),
        ((1, 1, 1), (1024, 2, 1), 0, INVALID_VALUE),
        ((1, 1, 1), (1, 1, 65), 0, INVALID_VALUE),
        ((1, 1, 1), (0, 1, 1), 0, INVALID_VALUE),
        ((1, 1, 1), (32, 1, 1), (48 << 10) + 1, INVALID_VALUE),
    ],
)
def test_launches(function: c_void_p, grid: tuple[int, ...], block: tuple[int, ...], shared: int, result: int) -> None:
    assert launch(function, grid, block, shared) == result
    assert Path(LOG).read_text().splitlines()[-1].startswith("refused launch" if result else "launch")


def test_shared_memory_that_a_function_is_allowed(function: c_void_p) -> None:
    def allow(size: int) -> int:
        return DRIVER.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, size)

    assert allow((227 << 10) + 1) == INVALID_VALUE
    assert allow(100_000) == 0
    assert launch(function, (1, 1, 1), (32, 1, 1), 100_000) == 0
    assert launch(function, (1, 1, 1), (32, 1, 1), 100_001) == INVALID_VALUE


def test_waits_within_a_capture() -> None:
    stream, graph = c_void_p(), c_void_p()
    assert DRIVER.cuStreamCreate(ctypes.byref(stream), 0) == 0
    assert DRIVER.cuStreamBeginCapture_v2(stream, 2) == 0
    assert DRIVER.cuStreamSynchronize(stream) == CAPTURE_UNSUPPORTED
    assert DRIVER.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0
    assert DRIVER.cuStreamSynchronize(stream) == 0


def test_memory() -> None:
    begin, host = c_uint64(), ctypes.create_string_buffer(64)
    assert DRIVER.cuMemAlloc_v2(ctypes.byref(begin), c_size_t(17 << 30)) == OUT_OF_MEMORY
    assert DRIVER.cuMemAlloc_v2(ctypes.byref(begin), c_size_t(64)) == 0
    assert DRIVER.cuMemcpyHtoDAsync_v2(begin, host, c_size_t(64), None) == 0
    assert Path(LOG).read_text().splitlines()[-1].startswith("copy to device 64 PAGEABLE")
    assert DRIVER.cuMemcpyHtoDAsync_v2(begin, host, c_size_t(65), None) == INVALID_VALUE
    assert DRIVER.cuMemFree_v2(begin) == 0
    assert DRIVER.cuMemFree_v2(begin) == INVALID_VALUE
