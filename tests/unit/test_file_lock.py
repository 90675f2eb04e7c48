"""Who holds a file keeps threads and processes from it, as long as they live."""

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from python_layer.model import compile_cache
from python_layer.utils.file_lock import file_lock

HOLDER = """
import sys, time
from pathlib import Path
from python_layer.utils.file_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_holds_it_until_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    taken = threading.Event()

    def take() -> None:
        with file_lock(file):
            taken.set()

    holder = subprocess.Popen([sys.executable, "-c", HOLDER, file], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiting = threading.Thread(target=take)
    waiting.start()
    assert not taken.wait(0.1)
    holder.kill()
    assert taken.wait(60)
    waiting.join()
    holder.communicate()


@dataclass(frozen=True)
class Request:
    """A graph of which nothing is needed but its name."""


def test_what_threads_want_at_once_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Path] = []
    both = threading.Barrier(2)

    def compile_apart(request: object, kernels: Path, output: Path, device: object) -> None:
        compiled.append(output)
        output.write_text("compiled")

    def kernel_package(folder: Path) -> Path:
        both.wait(60)  # neither has found it in the cache
        return folder

    monkeypatch.setattr(compile_cache, "compile_apart", compile_apart)
    monkeypatch.setattr(compile_cache, "kernel_package", kernel_package)
    monkeypatch.setattr(compile_cache, "read", Path.read_text)
    cache = compile_cache.CompileCache(tmp_path)
    found: list[tuple[object, bool]] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(Request()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert sorted(found, key=str) == [("compiled", False), ("compiled", True)]
