"""Settings: defaults < files in config/ < a profile's file < ``MILI_*`` environment variables < flags."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from python_layer.utils.errors import ConfigError
from python_layer.utils.shipped import shipped

CONFIG_DIR = shipped("config")
FILES = ("model_config.json", "inference_config.json", "server_config.yaml")
PREFIX = "MILI_"
OTHER_VARIABLES = {"MILI_CACHE_DIR", "MILI_API_KEYS", "MILI_ADMIN_KEY"}
"""Environment variables that are no settings."""


def _split(value: Any) -> Any:
    """A text with commas, as flags and variables have it, is a list."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """What a user can set; each field is also the environment variable ``MILI_`` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", protected_namespaces=())

    profile: Literal["development", "staging", "production"] | None = Field(
        None, description="A file of config/profiles to read after the others."
    )
    model: str | None = Field(None, description="Checkpoint folder, GGUF file or hub id; none is models/mili-tiny.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Type of the matrices.")
    kv_dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int16"] = Field(
        "auto", description="Type of the KV cache; int8 takes half the memory of bfloat16 and costs some accuracy."
    )
    quantization: Literal["auto", "none", "int8", "int4"] = Field(
        "auto", description="How matrices are rounded to few bits; auto is as the checkpoint has them."
    )
    weight_cache: bool = Field(
        True, description="Keep the weights on disk as they lie in memory, so that the next start is fast."
    )
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16", "int16"] = Field(
        "auto", description="What is multiplied with matrices of 16 bits; auto is what the CPU multiplies fastest."
    )
    cpu_isa: Literal[
        "auto",
        "amx",
        "avx512_fp16",
        "avx512_bf16",
        "avx512_vnni",
        "avx2_vnni",
        "avx512",
        "avx2",
        "neon",
        "portable",
    ] = Field("auto", description="Instruction set of the linear layers; auto is the fastest that the CPU has.")
    threads: int = Field(0, ge=0, description="Threads that compute; 0 is one per physical core.")
    device: str = Field(
        "cpu", pattern=r"^(cpu|auto|gpu(:\d+)?)$", description="Where the model runs: cpu, gpu, gpu:N, or auto."
    )
    compiled: str | None = Field(
        None, description="Folder with graphs that `mili compile` made; none compiles them where they run."
    )
    page_size: int = Field(16, ge=1, le=1024, description="Positions per page of the KV cache.")
    kv_cache_memory: float | None = Field(
        None, gt=0, description="GiB of the KV cache; none is a share of the memory that is free."
    )
    swap_memory: float = Field(
        0.0, ge=0, description="GiB for the pages of preempted requests; without room there they are computed again."
    )
    prefix_caching: bool = Field(True, description="Share the pages of common beginnings between requests.")
    speculation: int = Field(
        0, ge=0, le=16, description="Tokens guessed ahead by prompt lookup; answers stay the same. 0 is off."
    )
    overlap: bool | None = Field(
        None,
        description="Prepare a step while the one before it runs; none is: on a GPU, unless tokens are guessed ahead.",
    )
    token_budget: int | None = Field(
        None, ge=1, description="Most tokens of one step of the engine; none is 512, on a GPU 2048."
    )
    max_running: int | None = Field(
        None, ge=1, description="Most answers generated at once; none is as many as the KV cache has room for."
    )
    max_waiting: int = Field(1024, ge=1, description="Most requests in the queue; more are refused.")
    queue_timeout: float | None = Field(None, gt=0, description="Most seconds a request waits for its first step.")
    request_timeout: float | None = Field(None, gt=0, description="Most seconds from a request to its end.")
    policy: Literal["fcfs", "priority", "fair", "latency"] = Field("fcfs", description="Who goes first.")
    max_tokens: int = Field(512, ge=1, description="Most tokens of an answer, unless the request says otherwise.")
    temperature: float = Field(0.0, ge=0, description="Temperature, unless the request says otherwise; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling, unless the request says otherwise.")
    top_k: int = Field(0, ge=0, description="Likeliest tokens kept, unless the request says otherwise; 0 is all.")
    enable_thinking: bool | None = Field(
        None, description="Whether chats begin with thoughts, unless the request says; none is the template's default."
    )
    thinking_budget: int | None = Field(
        None, ge=0, description="Most tokens of thoughts, unless the request says otherwise; none is no limit."
    )
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the server listens on.")
    drain_timeout: int = Field(30, ge=0, description="Most seconds to finish requests after the first signal to end.")
    api_keys_file: str | None = Field(
        None, description="File with a line name:sha256-hex for each API key; MILI_API_KEYS has plain ones."
    )
    admin_key_file: str | None = Field(
        None, description="Likewise, the key that /metrics needs; MILI_ADMIN_KEY has a plain one."
    )
    requests_per_minute: int | None = Field(None, ge=1, description="Most requests of a key, or else of an address.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Most tokens of a key, or else of an address, prompts and answers together."
    )
    max_body_bytes: int = Field(8 * 2**20, ge=1, description="Most bytes of a request's body.")
    body_timeout: float = Field(60, gt=0, description="Most seconds until a request's body is there.")
    max_prompt_tokens: int | None = Field(None, ge=1, description="Most tokens of a prompt; none is the context.")
    max_tokens_limit: int | None = Field(None, ge=1, description="Most that max_tokens may be; none is the context.")
    max_n: int = Field(128, ge=1, le=128, description="Most answers to one prompt, n.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Origins whose pages may use the server from a browser, such as https://example.org; * is all."
    )
    log_format: Literal["console", "json"] = Field("console", description="Log lines for people, or as JSON objects.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_prompts: bool = Field(False, description="Log what is asked and answered, word for word.")
    otlp_endpoint: str | None = Field(
        None, description="URL of an OpenTelemetry collector, OTLP over HTTP, for traces; none is no traces."
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError(f"is {value!r}; it must be a URL such as http://localhost:4318")
        return value

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
    """The effective settings; arguments and errors as in :func:`settings_and_sources`."""
    return settings_and_sources(flags, config_dir)[0]


def settings_and_sources(flags: dict[str, Any], config_dir: Path = CONFIG_DIR) -> tuple[Settings, dict[str, str]]:
    """The effective settings, and where each value came from.

    Args:
        flags: What the command line says; None is not said.
        config_dir: Folder with the files, each optional but a profile that is chosen.

    Raises:
        ConfigError: An unknown key or a wrong value, with the file or variable it came from; or no such profile.
    """
    keys = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    unknown = sorted(v for v in os.environ if v.startswith(PREFIX) and v not in keys.keys() | OTHER_VARIABLES)
    if unknown:
        raise ConfigError(f"the environment sets {unknown[0]}, which is no setting; known are {', '.join(keys)}")
    given = {name: value for name, value in flags.items() if value is not None}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")

    def read(file: Path) -> None:
        found = _read(file)
        values.update(found)
        sources.update(dict.fromkeys(found, str(file.relative_to(config_dir.parent))))

    for name in FILES:
        read(config_dir / name)
    profile = given.get("profile", os.environ.get(f"{PREFIX}PROFILE", values.get("profile")))
    if profile is not None:
        read(config_dir / "profiles" / f"{profile}.yaml")
    from_environment = {name: variable for variable, name in keys.items() if variable in os.environ}
    sources |= from_environment | {name: f"--{name.replace('_', '-')}" for name in given}
    values = {name: value for name, value in values.items() if name not in from_environment}
    settings = _validated(values | given, sources)
    if profile is not None and not (config_dir / "profiles" / f"{profile}.yaml").exists():
        raise ConfigError(f"{sources['profile']}: there is no profile {profile} in {config_dir / 'profiles'}")
    return settings, sources


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
    _validated(values, dict.fromkeys(values, str(file)), _env_prefix="no variable begins like this")
    return values


def _validated(values: dict[str, Any], sources: dict[str, str], **options: Any) -> Settings:
    try:
        return Settings(**values, **options)
    except ValidationError as error:
        problems = "; ".join(f"{sources.get(str(e['loc'][0]), '')}: {e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{problems}; known keys are {', '.join(Settings.model_fields)}") from None
