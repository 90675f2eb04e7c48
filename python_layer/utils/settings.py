"""Settings: defaults < files in config/ < ``MILI_*`` environment variables < command-line flags."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from python_layer.utils.errors import ConfigError

CONFIG_DIR = Path(__file__).resolve().parents[2] / "config"
FILES = ("model_config.json", "inference_config.json", "server_config.yaml")


class Settings(BaseSettings):
    """What a user can set; each field is also the environment variable ``MILI_`` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="MILI_", extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="Checkpoint folder or hub id; none is the built-in random model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Type of the matrices.")
    kv_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Type of the KV cache.")
    page_size: int = Field(16, ge=1, le=1024, description="Positions per page of the KV cache.")
    kv_cache_memory: float | None = Field(
        None, gt=0, description="GiB of the KV cache; none is a share of the memory that is free."
    )
    prefix_caching: bool = Field(True, description="Share the pages of common beginnings between requests.")
    speculation: int = Field(
        0, ge=0, le=16, description="Tokens guessed ahead by prompt lookup; answers stay the same. 0 is off."
    )
    token_budget: int = Field(512, ge=1, description="Most tokens of one step of the engine.")
    max_running: int = Field(64, ge=1, description="Most answers generated at once.")
    max_waiting: int = Field(1024, ge=1, description="Most requests in the queue; more are refused.")
    queue_timeout: float | None = Field(None, gt=0, description="Most seconds a request waits for its first step.")
    policy: Literal["fcfs", "priority", "fair", "latency"] = Field("fcfs", description="Who goes first.")
    max_tokens: int = Field(128, ge=1, description="Most tokens of an answer, unless the request says otherwise.")
    temperature: float = Field(0.0, ge=0, description="Temperature, unless the request says otherwise; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling, unless the request says otherwise.")
    top_k: int = Field(0, ge=0, description="Likeliest tokens kept, unless the request says otherwise; 0 is all.")
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the server listens on.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment; files come in through :func:`load_settings`."""
        return init_settings, env_settings


def load_settings(flags: dict[str, Any], config_dir: Path = CONFIG_DIR) -> Settings:
    """The effective settings.

    Args:
        flags: What the command line says; None is not said.
        config_dir: Folder with the files, each optional.

    Raises:
        ConfigError: An unknown key or a wrong value, with the file or variable it came from.
    """
    values: dict[str, Any] = {}
    for name in FILES:
        values |= _read(config_dir / name)
    given = {key: value for key, value in flags.items() if value is not None}
    # What the environment says outranks the files.
    values = {key: value for key, value in values.items() if f"MILI_{key.upper()}" not in os.environ}
    return _validated(values | given, "the settings")


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold an object of settings")
    _validated(values, str(file))
    return values


def _validated(values: dict[str, Any], origin: str) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{origin}: {problems}; known keys are {', '.join(Settings.model_fields)}") from None
