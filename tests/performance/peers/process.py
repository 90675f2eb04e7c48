"""Runs a program and watches how much memory it takes."""

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    words = [str(word) for word in command]
    peak = 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(words, env=environment, stdout=out, stderr=errors)
        except OSError as error:
            raise ProgramError(f"{words[0]}: {error.strerror}") from None
        try:
            while process.poll() is None:
                peak = max(peak, _resident(process.pid))
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise ProgramError(f"{Path(words[0]).name} ended with {process.returncode}: {last}")
        return out.read(), peak


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 if sizes else 0
