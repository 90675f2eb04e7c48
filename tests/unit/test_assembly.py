"""Kernels with instructions that the compiler can't assemble, with stand-ins for what MAX does then."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from max.graph import Graph

from python_layer.model import compile_cache, qwen3_model
from python_layer.model.device import CPU_DEVICE
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.utils.errors import CompileError

REFUSED = "error: <inline asm>:1:2: invalid instruction mnemonic 'pausex'\n"
EMPTY = "setup for model qwen3 returned error: mgp.module.load.cpu requires a non-empty image to load"


@dataclass(frozen=True)
class Request:
    """A graph for an instruction set; nobody builds it."""

    isa: str = "avx512_bf16"

    def build(self, kernels: Path) -> Graph:
        raise NotImplementedError


def compile_with(monkeypatch: pytest.MonkeyPatch, output: Path, said: str, status: int = 0) -> None:
    """Compiles with a compiler that writes a file, says something and ends with a status."""

    def run(command: Iterable[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        output.touch()
        return subprocess.CompletedProcess([*command], status, b"", said.encode())

    monkeypatch.setattr(subprocess, "run", run)
    compile_cache.compile_apart(Request(), Path("kernels"), output, CPU_DEVICE)


def test_a_graph_without_code_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "the kernels for avx512_bf16 on .* could not be assembled; try another instruction set with --cpu-isa "
    with pytest.raises(CompileError, match=rf"{advice}\(.*portable\), or delete .*modular(.|\n)*mnemonic 'pausex'"):
        compile_with(monkeypatch, tmp_path / "graph", REFUSED)


def test_other_words_of_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_with(monkeypatch, tmp_path / "graph", "warning: <inline asm>:1:2: this takes long")
    with pytest.raises(CompileError, match=r"the model's graph does not compile:\n.*no such op"):
        compile_with(monkeypatch, tmp_path / "graph", "error: no such op", status=1)


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        (EMPTY, CompileError, r"could not be assembled; (.|\n)*non-empty image"),
        ("something else", ValueError, "^something else$"),
    ],
)
def test_a_graph_that_was_kept_without_code(
    monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception], told: str
) -> None:
    class Session:
        def __init__(self, **options: Any) -> None:
            pass

        def init(self, executable: Any, **options: Any) -> Any:
            raise ValueError(said)

    monkeypatch.setattr(qwen3_model, "InferenceSession", Session)
    with pytest.raises(kind, match=told):
        Qwen3Model.from_pretrained(DEFAULT_MODEL)
