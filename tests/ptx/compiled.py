"""The PTX of every GPU kernel, compiled for one architecture and kept until a source changes."""

import os
import subprocess
import tempfile
from pathlib import Path

from python_layer.model.kernels import KERNEL_SOURCES, default_cache_dir, mojo_compiler, source_hash
from python_layer.utils.file_lock import file_lock

DUMP = Path(__file__).with_name("dump.mojo")
LINEAR = Path(__file__).with_name("dump_linear.mojo")


def compile_kernels(architecture: str, dump: Path = DUMP) -> dict[str, str]:
    """PTX by kernel, as ``dump`` names them.

    Args:
        architecture: Such as sm_90a.
        dump: The program that writes them: of linear layers :data:`LINEAR`, of all others :data:`DUMP`.

    Raises:
        RuntimeError: The kernels do not compile; with the compiler's messages.
    """
    sources = f"{source_hash()[:16]}-{source_hash(dump.parent)[:16]}"
    folder = default_cache_dir() / "ptx" / f"{sources}-{dump.stem}-{architecture}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.with_suffix(".lock")):  # two processes of tests want the same
        if not folder.exists():
            _compile(architecture, dump, folder)
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.ptx"))}


def _compile(architecture: str, dump: Path, folder: Path) -> None:
    """Writes the PTX that a program makes into a folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "ptx"
        made.mkdir()
        command = [
            str(mojo_compiler()),
            "run",
            "-D",
            f"ARCH={architecture}",
            "-I",
            str(KERNEL_SOURCES.parent),
            str(dump),
            str(made),
        ]
        environment = os.environ | {"MODULAR_CRASH_REPORTING_ENABLED": "false"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode != 0:
            raise RuntimeError(f"the GPU kernels do not compile for {architecture}:\n{result.stderr}")
        made.rename(folder)
