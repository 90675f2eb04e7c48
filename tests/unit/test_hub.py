"""Model folders by path and by hub id, without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from python_layer.model.hub import resolve_model
from python_layer.utils.errors import ConfigError

ID = "someone/some-model"
RESOLVE = f"""
import sys
{{before}}
from python_layer.model.hub import resolve_model
from python_layer.utils.errors import ConfigError
try:
    print("found", resolve_model({ID!r}))
except ConfigError as error:
    print("error", error)
"""


def resolve(hub_home: Path, before: str = "") -> str:
    """What a fresh process without a network says: the hub's library reads its settings when imported."""
    environment = os.environ | {"HF_HOME": str(hub_home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", RESOLVE.format(before=before)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert output.returncode == 0, output.stderr
    assert output.stdout.count("\n") == 1
    return output.stdout.strip()


def cached_snapshot(hub_home: Path, *files: str) -> Path:
    """A model in the layout of the hub's cache."""
    repository = hub_home / "hub" / "models--someone--some-model"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name in files:
        (snapshot / name).write_text("{}")
    return snapshot


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "./some/model", "/no/such/folder", "a/b/c", "", "-a/b", "x" * 5000])
def test_what_is_neither_folder_nor_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "":
        assert resolve_model(name) == Path()
        return
    with pytest.raises(ConfigError, match=r"^the folder .* (does not exist; give a|can't be read: )"):
        resolve_model(name)


def test_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ConfigError, match=r"model\.safetensors is a file; give the checkpoint's folder, or a \.gguf"):
        resolve_model(file)


def test_a_gguf_file_is_a_checkpoint_and_so_is_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    assert resolve_model(str(file)) == file and resolve_model(tmp_path) == file
    (tmp_path / "another.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds 2 GGUF files; give one of them, such as .*another\.gguf"):
        resolve_model(tmp_path)
    (tmp_path / "config.json").touch()
    assert resolve_model(tmp_path) == tmp_path


def test_a_cached_model_needs_no_network(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, "config.json", "model.safetensors")
    assert resolve(tmp_path) == f"found {snapshot}"


def test_a_cached_model_of_several_files(tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, "config.json", "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve(tmp_path).startswith(f"error {ID} lacks config.json or model.safetensors in {snapshot}")
    (snapshot / "two.safetensors").touch()
    assert resolve(tmp_path) == f"found {snapshot}"


@pytest.mark.parametrize("files", [(), ("config.json",), ("model.safetensors",)])
def test_offline_and_not_all_in_the_cache(tmp_path: Path, files: tuple[str, ...]) -> None:
    snapshot = cached_snapshot(tmp_path, *files)
    answer = resolve(tmp_path)
    assert answer.startswith(f"error {ID} lacks config.json or model.safetensors in {snapshot}: ")


def test_offline_and_not_in_the_cache(tmp_path: Path) -> None:
    answer = resolve(tmp_path)
    assert answer.startswith(f"error {ID} is neither a folder nor in the hub's cache, and can't be downloaded (")
    assert answer.endswith("connect to the network, or give the folder of a checkpoint")


def test_the_library_is_optional(tmp_path: Path) -> None:
    answer = resolve(tmp_path, "sys.modules['huggingface_hub'] = None")
    assert answer == f"error there is no folder {ID}; to download it from the hub, pip install 'mili[hub]'"
