"""The precompiled kernel package: where it is, and how it is made.

``python -m python_layer.model.kernels`` compiles the kernels when they changed and prints the path.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from python_layer.utils.cpu import cpu_description, supported_isas
from python_layer.utils.errors import CompileError
from python_layer.utils.file_lock import file_lock

KERNEL_SOURCES = Path(__file__).resolve().parents[2] / "mojo_kernels"
"""The Mojo package with every op."""

UNASSEMBLED = ("error: <inline asm>", "non-empty image")
"""What the compiler says of instructions that it can't assemble, before it writes a graph without code all the same;
and what MAX says of such a graph, which its own cache gives out again without a word.
"""


def default_cache_dir() -> Path:
    """Where compiled kernels and models are kept: ``$MILI_CACHE_DIR`` or ``mili`` in the user's cache folder."""
    chosen = os.environ.get("MILI_CACHE_DIR")
    if chosen:
        return Path(chosen)
    return _user_cache_dir() / "mili"


def source_hash(sources: Path = KERNEL_SOURCES) -> str:
    """A digest of every kernel source and of the compiler's version."""
    digest = hashlib.sha256(f"max {version('max')}".encode())
    for file in sorted(sources.rglob("*.mojo")):
        digest.update(f"\n{file.relative_to(sources)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def mojo_compiler() -> Path:
    """The Mojo compiler: the one beside Python, or else the first in PATH.

    Raises:
        CompileError: There is none.
    """
    beside = Path(sys.executable).with_name("mojo")
    found = str(beside) if beside.exists() else shutil.which("mojo")
    if found is None:
        raise CompileError("the Mojo compiler `mojo` was not found; install MILI's packages with `make setup`")
    return Path(found)


def kernel_package(cache_dir: Path | None = None) -> Path:
    """The kernels as a compiled package, made first when no package of these sources exists.

    Args:
        cache_dir: Folder of compiled files; the default is :func:`default_cache_dir`.

    Returns:
        Path of a ``mojo_kernels.mojoc``.

    Raises:
        CompileError: The Mojo compiler is missing or refuses the sources.
    """
    folder = (cache_dir or default_cache_dir()) / "kernels" / source_hash()[:16]
    package = folder / "mojo_kernels.mojoc"
    if package.exists():
        return package
    compiler = mojo_compiler()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Who wants what another process is compiling waits for it. The package takes its name from the file's.
        with file_lock(folder / "lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
            if package.exists():
                return package
            made = Path(scratch) / package.name
            command = [str(compiler), "precompile", str(KERNEL_SOURCES), "-o", str(made)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0:
                raise CompileError(f"the kernels in {KERNEL_SOURCES} do not compile:\n{result.stderr}")
            made.replace(package)
    except OSError as error:
        raise CompileError(
            f"can't write compiled kernels to {folder}: {error.strerror}; set MILI_CACHE_DIR to a writable folder"
        ) from None
    return package


def assembly_error(said: str, isa: str) -> CompileError | None:
    """What to tell a user whose kernels could not be assembled; None if that is not what happened.

    Args:
        said: The words of MAX or of its compiler.
        isa: What a CPU's kernels were for, such as avx2; empty where that is not known.
    """
    if not any(words in said for words in UNASSEMBLED):
        return None
    kept = f"{default_cache_dir() / 'models'} and MAX's own cache, {_user_cache_dir() / 'modular'}"
    advice = f"delete what is kept: {kept}"
    others = [name for name in supported_isas() if name != isa]
    if isa and others:
        cpu = cpu_description().get("model name", "this CPU")
        isa = f" for {isa} on {cpu}"
        advice = f"try another instruction set with --cpu-isa ({', '.join(others)}), or {advice}"
    return CompileError(f"the kernels{isa} could not be assembled; {advice}. MAX said:\n{said}")


def _user_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


if __name__ == "__main__":
    print(kernel_package())
