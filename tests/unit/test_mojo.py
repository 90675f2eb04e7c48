"""The tests of the kernels' helpers, which are in Mojo."""

import subprocess
from pathlib import Path

import pytest

from python_layer.model.kernels import mojo_compiler

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tests" / "unit" / "mojo").glob("test_*.mojo"))


def test_there_are_some() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_they_pass(file: Path) -> None:
    result = subprocess.run([mojo_compiler(), "run", "-I", ROOT, file], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
