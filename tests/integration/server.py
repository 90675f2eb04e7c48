"""Starts the real server as its users do: ``mili serve`` in a process of its own."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI


def mili(*arguments: str | Path, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the ``mili`` command."""
    return subprocess.run(
        [mili_command(), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )


def mili_command() -> Path:
    return Path(sys.executable).with_name("mili")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Waits until a route answers with 200."""
    deadline = time.monotonic() + 600  # the first server compiles, on a busy machine for minutes
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the server did not start: {process.communicate()[1]}") from None
            time.sleep(0.1)


@contextmanager
def running_server(*arguments: str, log: Path | None = None, **environment: str) -> Iterator[str]:
    """The base URL of a server on a free port, which ends with the block.

    Args:
        arguments: For ``mili serve``.
        log: Where its standard error goes; otherwise nobody reads that, so it writes little.
        environment: Variables beside this process's own.
    """
    port = free_port()
    quiet = [] if log else ["--log-level", "warning"]
    command = [mili_command(), "serve", "--port", str(port), *quiet, *arguments]
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("w")) if log else subprocess.PIPE
        process = subprocess.Popen(command, stderr=stderr, text=True, env=os.environ | environment)
        try:
            wait_for(f"{url}/ready", process)
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The base URL of an application that is served in this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
