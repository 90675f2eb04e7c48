"""The GPU kernels as they come out of the assembler; `make gpu-compile` does all architectures and whole models."""

import pytest

from tests.ptx.assembler import Assembler
from tests.ptx.check import check_kernels


def test_kernels_assemble_without_local_memory_and_use_tensor_cores() -> None:
    try:
        Assembler()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"there is no PTX compiler: {error}")
    assert list(check_kernels("sm_80")) == []
