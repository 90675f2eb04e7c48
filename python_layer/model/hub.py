"""A checkpoint on this machine, from a path or a Hugging Face hub id."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from python_layer.utils.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(path_or_hub_id: str | Path) -> Path:
    """The folder of a checkpoint, or its GGUF file.

    A hub id is looked up in the hub's cache on this machine first, and downloaded when it is not all there.

    Args:
        path_or_hub_id: A folder, a GGUF file, or a hub id like Qwen/Qwen3-0.6B. A folder without config.json stands
            for the one GGUF file in it.

    Raises:
        ConfigError: There is no such folder, or the model can't be had from the hub; says why.
    """
    path, name = Path(path_or_hub_id), str(path_or_hub_id)
    try:
        if path.is_dir():
            return _file_in(path)
        is_file = path.exists()
    except OSError as error:
        raise ConfigError(f"the folder {name} can't be read: {error.strerror}") from None
    if is_file and path.suffix == ".gguf":
        return path
    if is_file:
        raise ConfigError(f"{name} is a file; give the checkpoint's folder, or a .gguf file")
    if not HUB_ID.fullmatch(name):
        raise ConfigError(
            f"the folder {name} does not exist; give a checkpoint's folder, a .gguf file or a hub id (Qwen/Qwen3-0.6B)"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError(f"there is no folder {name}; to download it from the hub, pip install 'mili[hub]'") from None
    return _cached(huggingface_hub, name) or _download(huggingface_hub, name)


def _file_in(folder: Path) -> Path:
    """The folder, or its GGUF file where it holds nothing but that."""
    if (folder / "config.json").exists():
        return folder
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ConfigError(f"{folder} holds {len(files)} GGUF files; give one of them, such as {files[0]}")
    return files[0] if files else folder


def _cached(hub: "ModuleType", hub_id: str) -> Path | None:
    try:
        folder = Path(hub.snapshot_download(hub_id, allow_patterns=FILES, local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    """Whether a cached snapshot has configuration and weights: an interrupted download leaves only some."""
    if not (folder / "config.json").exists():
        return False
    if (folder / "model.safetensors").exists():
        return True
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return all((folder / name).exists() for name in set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _download(hub: "ModuleType", hub_id: str) -> Path:
    try:
        folder = Path(hub.snapshot_download(hub_id, allow_patterns=FILES))
    except hub.errors.GatedRepoError:
        raise ConfigError(f"{hub_id} asks for consent on the hub: accept it there and set HF_TOKEN") from None
    except hub.errors.RepositoryNotFoundError:
        raise ConfigError(
            f"there is neither a folder nor a hub model {hub_id} (a private one needs HF_TOKEN)"
        ) from None
    except Exception as error:  # whatever the network stack of the library's version raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{hub_id} is neither a folder nor in the hub's cache, and can't be downloaded ({reason}); "
            "connect to the network, or give the folder of a checkpoint"
        ) from None
    if not _is_whole(folder):  # without a network the library hands out what the cache has
        raise ConfigError(
            f"{hub_id} lacks config.json or model.safetensors in {folder}: either the hub has no safetensors of it "
            "(download a .gguf file yourself, and give its path), or an earlier download was cut off and the hub can't "
            "be reached now"
        )
    return folder
