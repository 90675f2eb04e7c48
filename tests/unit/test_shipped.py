"""What comes with MILI beside its code, in the repository and in a wheel. No wheel is built here."""

import site
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


def test_without_a_repository_it_is_where_pip_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, target = "models/mili-tiny", tmp_path / "target"
    environment, user = tmp_path / "environment", tmp_path / "user"
    monkeypatch.setattr(module, "ROOT", target)
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(environment) if kind == "data" else None)
    monkeypatch.setattr(site, "getuserbase", lambda: str(user))
    assert shipped(name) == environment / "share" / "mili" / name
    (target / name).mkdir(parents=True)  # another project's
    for base in (user, target, environment):
        place = base / "share" / "mili" / name
        place.mkdir(parents=True)
        assert shipped(name) == place
    (target / "pyproject.toml").touch()
    assert shipped(name) == target / name
