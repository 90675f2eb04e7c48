"""MILI opens no connection that its user did not ask for."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

from tests.integration.server import free_port, mili, mili_command, wait_for


def test_the_engine_librarys_reports_are_off() -> None:
    """The library reads these when it is loaded, so they must be set before."""
    code = "import python_layer, os; print(os.environ['MODULAR_TELEMETRY_ENABLED'], 'max' in __import__('sys').modules)"
    python = mili_command().with_name("python")
    assert subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split() == ["false", "False"]


def test_generating_opens_no_network_socket(tmp_path: Path) -> None:
    """Watched from outside where strace is installed, and from inside everywhere."""
    mili("generate", "x", "--max-tokens", "2")  # compiled from here on
    strace = shutil.which("strace")
    if strace is None:
        code = (
            "import socket, sys\n"
            "def refuse(event, arguments):\n"
            "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'): sys.exit('connected')\n"
            "sys.addaudithook(refuse)\n"
            "sys.argv = ['mili', 'generate', 'x', '--max-tokens', '2']\n"
            "from python_layer.cli import main; main()\n"
        )
        result = subprocess.run([mili_command().with_name("python"), "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return
    log = tmp_path / "calls"
    command = [strace, "-f", "-e", "trace=socket,connect", "-o", log, mili_command(), "generate", "x"]
    assert subprocess.run([*command, "--max-tokens", "2"], capture_output=True).returncode == 0
    calls = log.read_text().splitlines()
    assert [call for call in calls if "AF_INET" in call] == []


def test_serving_connects_to_nobody() -> None:
    code = (
        "import os, sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.sendto'): os._exit(9)\n"
        "sys.addaudithook(refuse)\n"
        "from python_layer.cli import main; main()\n"
    )
    port = free_port()
    command = [mili_command().with_name("python"), "-c", code, "serve", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ready", process)
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
            assert answer.status == 200
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=60)
