"""Runs the Mojo unit tests: ``python -m tests.mojo``."""

import subprocess
import sys
from pathlib import Path

from python_layer.model.kernels import mojo_compiler

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Runs every file with the compiler of this environment; 1 if one fails."""
    mojo = mojo_compiler()
    files = sorted((ROOT / "tests" / "unit" / "mojo").glob("test_*.mojo"))
    failed = [file for file in files if subprocess.run([mojo, "run", "-I", ROOT, file]).returncode]
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
