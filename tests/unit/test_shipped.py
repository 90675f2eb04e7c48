"""What comes with MILI beside its code, in the repository and in a wheel. No wheel is built here."""

import sysconfig
import tomllib
from pathlib import Path

import pytest

from python_layer.utils import shipped as module
from python_layer.utils.shipped import ROOT, shipped

FOLDERS = ("config", "models/mili-tiny")


def test_a_wheel_has_every_file_in_its_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    taken = {
        Path(place) / file.name: file.relative_to(ROOT)
        for place, patterns in project["tool"]["setuptools"]["data-files"].items()
        for pattern in patterns
        for file in ROOT.glob(pattern)
    }
    there = [file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert taken == {Path("share/mili") / file: file for file in there}


def test_without_a_repository_it_is_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    installed = Path(sysconfig.get_path("data"), "share", "mili", "models", "mili-tiny")
    assert shipped("models/mili-tiny") == installed
    (tmp_path / "models" / "mili-tiny").mkdir(parents=True)
    assert shipped("models/mili-tiny") == installed
    (tmp_path / "pyproject.toml").touch()
    assert shipped("models/mili-tiny") == tmp_path / "models" / "mili-tiny"
