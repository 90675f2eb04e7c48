"""What the GPU path asks of a driver, on a pretended one that is compiled for it: ``python -m tests.driver``."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("libcuda.so.1", "libnvidia-ml.so.1")


def build(compiler: str, folder: Path) -> None:
    """Compiles the driver, a library under the names of two."""
    flags = ["-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *flags, "-o", folder / NAMES[0], HERE / "driver.c"], check=True)
    (folder / NAMES[1]).symlink_to(NAMES[0])


def main() -> int:
    """Runs the tests of this folder on it; not 0 if one fails."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or compiler is None:
        print("The pretended driver needs Linux and a C compiler (cc, or CC=...)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(compiler, folder)
        environment = os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [name, os.environ.get("LD_LIBRARY_PATH")])),
            "PRETENDED_DRIVER_LOG": str(folder / "log"),
            "MODULAR_CRASH_REPORTING_ENABLED": "false",
            "MODULAR_DEVICE_CONTEXT_MEMORY_MANAGER_SIZE_PERCENT": "90",  # MAX's default
        }
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE]
        return subprocess.run(tests, env=environment).returncode


sys.exit(main())
