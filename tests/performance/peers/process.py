"""Runs a program and watches how much memory it takes, or keeps one that measures what it is asked for."""

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.performance.peers.workload import ANSWER

POLL_S = 0.05


class ProgramError(Exception):
    """A program failed; says which, and its last words."""


def run_watched(command: Sequence[object], environment: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Runs a program to its end.

    Returns:
        Its standard output, and the most bytes of memory it had resident at once (VmHWM: its own, and pages of files
        that it maps).

    Raises:
        ProgramError: It ended with an error, or doesn't exist.
    """
    peak = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = _start(command, env=environment, stdout=out, stderr=errors)
        try:
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        if process.returncode:
            raise _failure(process, errors)
        return out.read(), peak


class Program:
    """A program of a system that stays, and measures rates as workload.py says.

    Args:
        command: It and its arguments.
        environment: Its environment.

    Raises:
        ProgramError: It ended, or doesn't exist; from every method.
    """

    def __init__(self, command: Sequence[object], environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by close()
        pipe = subprocess.PIPE
        self._process = _start(command, env=environment, stdin=pipe, stdout=pipe, stderr=self._errors)
        self._read()

    def rate(self, name: str) -> float:
        """Measures one of RATES."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading says why
            print(name, file=self._process.stdin, flush=True)
        return float(self._read())

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER).strip()
        self._process.wait()
        failure = _failure(self._process, self._errors)
        self.close()
        raise failure


def _start(command: Sequence[object], **options: Any) -> "subprocess.Popen[str]":
    words = [str(word) for word in command]
    try:
        return subprocess.Popen(words, text=True, **options)
    except OSError as error:
        raise ProgramError(f"{words[0]}: {error.strerror}") from None


def _failure(process: "subprocess.Popen[str]", errors: IO[str]) -> ProgramError:
    errors.seek(0)
    last = (errors.read().strip().splitlines() or ["no message"])[-1]
    assert isinstance(process.args, list)
    return ProgramError(f"{Path(process.args[0]).name} ended with {process.returncode}: {last}")


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 if sizes else 0
