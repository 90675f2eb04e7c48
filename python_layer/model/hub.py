"""A checkpoint's folder on this machine, from a path or a Hugging Face hub id."""

import re
from pathlib import Path

from python_layer.utils.errors import ConfigError

FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(path_or_hub_id: str | Path) -> Path:
    """The folder of a checkpoint, downloaded when a hub id was given and it is not in the hub's cache yet.

    Raises:
        ConfigError: There is no such folder, or the model can't be had from the hub; says why.
    """
    path = Path(path_or_hub_id)
    if path.is_dir():
        return path
    if path.exists():
        raise ConfigError(f"{path} is a file; give the checkpoint's folder")
    name = str(path_or_hub_id)
    if not HUB_ID.fullmatch(name):
        raise ConfigError(f"the folder {path} does not exist; give a checkpoint's folder or a hub id like Qwen/Qwen3-0.6B")
    return _download(name)


def _download(hub_id: str) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        raise ConfigError(
            f"there is no folder {hub_id}; to download it from the hub, install huggingface_hub (pip install 'mili[hub]')"
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=FILES))
    except GatedRepoError:
        raise ConfigError(f"{hub_id} asks for consent on the hub: accept it there and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"there is neither a folder nor a hub model {hub_id}") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{hub_id} is not a folder here, and the hub can't be reached to download it ({reason}); "
            "connect, or give the folder of a downloaded checkpoint"
        ) from None
