"""Compiles the Mojo tests for an Arm CPU with NEON and dot products, and runs them on QEMU: ``python -m tests.neon``.

QEMU's CPU is the one compiled for, so an instruction that it lacks ends a test.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from python_layer.model.kernels import default_cache_dir, mojo_compiler
from tests.neon.runtime import LIBRARIES, LINKER, SYSROOT, MissingError, find_emulator, runtime_libraries

ROOT = Path(__file__).resolve().parents[2]
CPU = "neoverse-n1"
"""Of AWS Graviton 2 and Ampere Altra: NEON, dot products of int8, and no SVE."""
TARGET = ("--target-triple", "aarch64-unknown-linux-gnu", "--target-cpu", CPU)


def build(source: Path, libraries: Path, folder: Path) -> Path:
    """Compiles and links a program.

    Args:
        source: Its source.
        libraries: Folder of Mojo's run-time libraries.
        folder: Where to write.

    Raises:
        subprocess.CalledProcessError: The compiler or the linker failed.
    """
    program = folder / source.stem
    compiled = program.with_suffix(".o")
    command = [mojo_compiler(), "build", "-I", ROOT, *TARGET, "--emit", "object", "-o", compiled, source]
    subprocess.run(command, check=True)
    files = [libraries / name for names in LIBRARIES.values() for name in names]
    subprocess.run([LINKER, compiled, *files, "-lm", f"-Wl,-rpath,{libraries}", "-o", program], check=True)
    return program


def main() -> int:
    """Runs every test of this folder, and those of the kernels' helpers; 1 if one fails."""
    try:
        emulator = find_emulator()
        libraries = runtime_libraries(default_cache_dir() / "neon")
    except MissingError as error:
        print(f"The tests for Arm can't run: {error}", file=sys.stderr)
        return 1
    sources = [*(ROOT / "tests/unit/mojo").glob("test_*.mojo"), *(ROOT / "tests/neon").glob("test_*.mojo")]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(sources):
            try:
                program = build(source, libraries, Path(folder))
                subprocess.run([emulator, "-cpu", CPU, "-L", SYSROOT, program], check=True)
            except subprocess.CalledProcessError as error:
                tool = Path(error.cmd[0]).name
                print(f"{source.relative_to(ROOT)}: {tool} ended with {error.returncode}", file=sys.stderr)
                failed.append(source.name)
    print(f"{len(sources) - len(failed)} of {len(sources)} programs passed on {CPU}", *failed)
    return 1 if failed or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
