"""What it takes to run Mojo programs for Arm on another CPU: a linker, an emulator, and Mojo's run-time libraries."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

SYSROOT = Path("/usr/aarch64-linux-gnu")
"""Where Debian and Ubuntu keep the libraries of AArch64."""
LINKER = "aarch64-linux-gnu-gcc"
EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
GUEST_LIBRARIES = ("lib/libc.so.6", "lib/libstdc++.so.6")
PACKAGES = ("qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "libstdc++6-arm64-cross")

LIBRARIES = {
    "mojo-compiler": ("libKGENCompilerRTShared.so", "libAsyncRTRuntimeGlobals.so", "libMSupportGlobals.so"),
    "max-core": ("libAsyncRTMojoBindings.so",),
}
"""The libraries that compiled Mojo calls, and the packages whose wheels bring them."""
PLATFORM = "manylinux_2_34_aarch64"


class MissingError(Exception):
    """The machine lacks something; says what, and how it is had."""


def find_emulator() -> str:
    """The path of QEMU for programs of AArch64.

    Raises:
        MissingError: It, the linker or a library is not installed.
    """
    emulator = next((path for name in EMULATORS if (path := shutil.which(name))), None)
    missing = [] if emulator else [" or ".join(EMULATORS)]
    missing += [] if shutil.which(LINKER) else [LINKER]
    missing += [str(SYSROOT / name) for name in GUEST_LIBRARIES if not (SYSROOT / name).exists()]
    if missing or not emulator:
        install = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        raise MissingError(f"there is no {', no '.join(missing)}; on Debian and Ubuntu:\n    {install}")
    return emulator


def runtime_libraries(cache: Path) -> Path:
    """The folder of the libraries for AArch64 of the version of Mojo that is installed.

    Args:
        cache: Where they are kept; what is not there yet comes from the wheels on PyPI.

    Raises:
        MissingError: pip could not get a wheel, or it does not hold what it should.
    """
    folder = cache / version("mojo-compiler")
    for package, names in LIBRARIES.items():
        if not all((folder / name).exists() for name in names):
            _take_from_wheel(f"{package}=={version(package)}", names, folder)
    return folder


def _take_from_wheel(requirement: str, names: tuple[str, ...], folder: Path) -> None:
    """Downloads a wheel and keeps some files of it."""
    print(f"Getting {', '.join(names)} from the wheel of {requirement} for AArch64 (some 80 MB) ...", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # Environments that uv made have no pip.
        python = Path(temporary) / "pip" / "bin" / "python"
        wanted = ("--platform", PLATFORM, "--only-binary=:all:", "--no-deps", "--dest", temporary, requirement)
        for command in (
            (sys.executable, "-m", "venv", python.parents[1]),
            (python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *wanted),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingError(f"{requirement} could not be had: {done.stderr.strip() or done.stdout.strip()}")
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = {Path(member).name: member for member in archive.namelist()}
            for name in names:
                if name not in members:
                    raise MissingError(f"{wheel.name} has no {name}")
                part = Path(temporary) / name
                part.write_bytes(archive.read(members[name]))
                part.rename(folder / name)
