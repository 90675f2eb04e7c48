"""The GPU kernels as they come out of the assembler; `make gpu-compile` does all architectures and whole models."""

import pytest

from tests.ptx.assembler import Assembler
from tests.ptx.check import check_kernels


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_kernels_assemble_without_local_memory_and_use_tensor_cores(architecture: str) -> None:
    try:
        Assembler()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"there is no PTX compiler: {error}")
    assert list(check_kernels(architecture)) == []
