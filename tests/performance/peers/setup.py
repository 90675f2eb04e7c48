"""Gets the peers by package name and prepares the checkpoint for each; what is done is not done again.

Everything is kept in one folder, apart from the project's own environment.
"""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from python_layer.utils.cpu import supported_isas
from tests.performance.peers.checkpoint import make_checkpoint

TORCH = "torch==2.13.0"
"""The version of which a plain ``pip install`` takes the build for CPUs."""

PACKAGES = {
    "torch": (TORCH, "transformers", "sentencepiece"),
    "openvino": (TORCH, "openvino", "openvino-genai", "optimum-intel"),
    "build": ("cmake", "ninja"),
}
GGUF_TYPES = ("BF16", "Q8_0", "Q4_0")
NO_TILES = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
OPENVINO_TYPES = ("fp16", "int8", "int4")


class SetupError(Exception):
    """A peer can't be had here; says why."""


@dataclass
class PeerSetup:
    """What the peers need, each made when it is first asked for.

    Args:
        folder: Where it is kept.
        note: Told what is being done.
    """

    folder: Path
    note: Callable[[str], None]
    _failed: dict[str, SetupError] = field(default_factory=dict)

    def checkpoint(self) -> Path:
        """The checkpoint's folder."""
        folder = self.folder / "model"
        self._once("model", "making the checkpoint", lambda: make_checkpoint(folder))
        return folder

    def python(self, name: str) -> Path:
        """The interpreter of the environment with one of PACKAGES."""
        python = self.folder / name / "bin" / "python"

        def install() -> None:
            self._run(name, sys.executable, "-m", "venv", self.folder / name)
            self._run(name, python, "-m", "pip", "install", *PACKAGES[name])
            # optimum-intel brings it, but not for torch's CPU build; transformers can do without, unless it is broken.
            self._run(name, python, "-m", "pip", "uninstall", "-y", "torchvision")

        self._once(name, f"installing {', '.join(PACKAGES[name])}", install)
        return python

    def llama_program(self, name: str) -> Path:
        """A program of llama.cpp, built for this CPU from the source distribution of llama-cpp-python."""
        build, sources = self.folder / "llama.cpp" / "build", self._llama_sources()

        def compile_() -> None:
            tools = self.python("build").parent
            options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"]
            if "amx" in supported_isas():  # its quantized models crash when gcc 12 has compiled it for AMX
                options += [f"-DCMAKE_{kind}_FLAGS={NO_TILES}" for kind in ("C", "CXX")]
            ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
            self._run("llama.cpp", tools / "cmake", "-S", sources, "-B", build, "-G", "Ninja", ninja, *options)
            targets = ("llama-bench", "llama-batched-bench", "llama-quantize")
            self._run("llama.cpp", tools / "cmake", "--build", build, "-j", "2", "--target", *targets)

        self._once("llama.cpp", "building llama.cpp", compile_)
        return build / "bin" / name

    def gguf(self, kind: str) -> Path:
        """The checkpoint as a GGUF file of one of GGUF_TYPES; with Q4_0 every matrix is Q4_0."""
        folder, base = self.folder / "gguf", self.folder / "gguf" / "BF16.gguf"

        def convert() -> None:
            folder.mkdir(exist_ok=True)
            script = self._llama_sources() / "convert_hf_to_gguf.py"
            python = self.python("torch")
            self._run("gguf", python, script, self.checkpoint(), "--outtype", "bf16", "--outfile", base)

        def quantize() -> None:
            self._run("gguf", self.llama_program("llama-quantize"), "--pure", base, folder / f"{kind}.gguf", kind)

        self._once("gguf-BF16", "converting to GGUF", convert)
        if kind != "BF16":
            self._once(f"gguf-{kind}", f"quantizing to {kind}", quantize)
        return folder / f"{kind}.gguf"

    def openvino_model(self, kind: str) -> Path:
        """The checkpoint as OpenVINO's model, with weights of one of OPENVINO_TYPES."""
        folder = self.folder / f"openvino-{kind}"

        def export() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            program = self.python("openvino").with_name("optimum-cli")
            task = ("--task", "text-generation-with-past", "--weight-format", kind)
            self._run("openvino", program, "export", "openvino", "-m", self.checkpoint(), *task, folder)

        self._once(f"openvino-{kind}", f"exporting to OpenVINO's {kind}", export)
        return folder

    def _llama_sources(self) -> Path:
        folder = self.folder / "llama.cpp"

        def unpack() -> None:
            package, download = "llama-cpp-python", folder / "sdist"
            pip = (self.python("build"), "-m", "pip", "download", "--no-deps", "--no-binary", package, package)
            self._run("llama.cpp", *pip, "-d", download)
            [archive] = download.glob("*.tar.gz")
            shutil.rmtree(folder / "source", ignore_errors=True)
            with tarfile.open(archive) as files:
                files.extractall(folder / "unpacked", filter="data")
            [top] = (folder / "unpacked").iterdir()
            top.rename(folder / "source")

        self._once("llama.cpp-source", "downloading llama.cpp's source", unpack)
        return folder / "source" / "vendor" / "llama.cpp"

    def _once(self, name: str, what: str, make: Callable[[], None]) -> None:
        """Makes something unless it was made; a failure is remembered for this run, so that it is tried once."""
        done = self.folder / "done" / name
        if done.exists():
            return
        if name in self._failed:
            raise self._failed[name]
        self.note(f"{what} ...")
        done.parent.mkdir(parents=True, exist_ok=True)
        try:
            make()
        except SetupError as error:
            self._failed[name] = error
            raise
        done.touch()

    def _run(self, log: str, *command: object) -> None:
        file = self.folder / "logs" / f"{log}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            try:
                code = subprocess.run([str(part) for part in command], stdout=out, stderr=out).returncode
            except OSError as error:
                raise SetupError(f"{command[0]}: {error.strerror}") from None
        if code:
            raise SetupError(f"{' '.join(str(part) for part in command[:4])} ... ended with {code}; see {file}")
