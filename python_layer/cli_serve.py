"""``mili serve`` and its options."""

from typing import Annotated

import typer

from python_layer.cli_options import setting
from python_layer.utils.errors import InvalidRequestError
from python_layer.utils.settings import load_settings


def serve(
    checkpoint: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="As --model.")] = None,
    model: Annotated[str | None, setting("model", "Model")] = None,
    dtype: Annotated[str | None, setting("dtype", "Model")] = None,
    kv_dtype: Annotated[str | None, setting("kv_dtype", "Model")] = None,
    quantization: Annotated[str | None, setting("quantization", "Model")] = None,
    weight_cache: Annotated[bool | None, setting("weight_cache", "Model")] = None,
    compute_dtype: Annotated[str | None, setting("compute_dtype", "Model")] = None,
    cpu_isa: Annotated[str | None, setting("cpu_isa", "Model")] = None,
    device: Annotated[str | None, setting("device", "Model")] = None,
    compiled: Annotated[str | None, setting("compiled", "Model")] = None,
    page_size: Annotated[int | None, setting("page_size", "Model")] = None,
    threads: Annotated[int | None, setting("threads", "Model")] = None,
    kv_cache_memory: Annotated[float | None, setting("kv_cache_memory", "Engine")] = None,
    swap_memory: Annotated[float | None, setting("swap_memory", "Engine")] = None,
    prefix_caching: Annotated[bool | None, setting("prefix_caching", "Engine")] = None,
    token_budget: Annotated[int | None, setting("token_budget", "Engine")] = None,
    max_running: Annotated[int | None, setting("max_running", "Engine")] = None,
    speculation: Annotated[int | None, setting("speculation", "Engine")] = None,
    overlap: Annotated[bool | None, setting("overlap", "Engine")] = None,
    policy: Annotated[str | None, setting("policy", "Engine")] = None,
    max_tokens: Annotated[int | None, setting("max_tokens", "Defaults of requests")] = None,
    temperature: Annotated[float | None, setting("temperature", "Defaults of requests")] = None,
    top_p: Annotated[float | None, setting("top_p", "Defaults of requests")] = None,
    top_k: Annotated[int | None, setting("top_k", "Defaults of requests")] = None,
    enable_thinking: Annotated[bool | None, setting("enable_thinking", "Defaults of requests")] = None,
    thinking_budget: Annotated[int | None, setting("thinking_budget", "Defaults of requests")] = None,
    profile: Annotated[str | None, setting("profile", "Server")] = None,
    host: Annotated[str | None, setting("host", "Server")] = None,
    port: Annotated[int | None, setting("port", "Server")] = None,
    max_waiting: Annotated[int | None, setting("max_waiting", "Server")] = None,
    queue_timeout: Annotated[float | None, setting("queue_timeout", "Server")] = None,
    request_timeout: Annotated[float | None, setting("request_timeout", "Server")] = None,
    drain_timeout: Annotated[int | None, setting("drain_timeout", "Server")] = None,
    api_keys_file: Annotated[str | None, setting("api_keys_file", "Access")] = None,
    admin_key_file: Annotated[str | None, setting("admin_key_file", "Access")] = None,
    requests_per_minute: Annotated[int | None, setting("requests_per_minute", "Access")] = None,
    tokens_per_minute: Annotated[int | None, setting("tokens_per_minute", "Access")] = None,
    max_body_bytes: Annotated[int | None, setting("max_body_bytes", "Access")] = None,
    body_timeout: Annotated[float | None, setting("body_timeout", "Access")] = None,
    max_prompt_tokens: Annotated[int | None, setting("max_prompt_tokens", "Access")] = None,
    max_tokens_limit: Annotated[int | None, setting("max_tokens_limit", "Access")] = None,
    max_n: Annotated[int | None, setting("max_n", "Access")] = None,
    cors_origins: Annotated[str | None, setting("cors_origins", "Access")] = None,
    log_format: Annotated[str | None, setting("log_format", "Observability")] = None,
    log_level: Annotated[str | None, setting("log_level", "Observability")] = None,
    log_prompts: Annotated[bool | None, setting("log_prompts", "Observability")] = None,
    otlp_endpoint: Annotated[str | None, setting("otlp_endpoint", "Observability")] = None,
) -> None:
    """Serve the OpenAI-compatible API."""
    flags = {name: value for name, value in locals().items() if name != "checkpoint"}
    if checkpoint is not None and model is not None:
        raise InvalidRequestError("the model is given twice, as MODEL and as --model; give one", "model")
    settings = load_settings(flags | {"model": checkpoint or model})
    from python_layer.server.run import run_server

    raise typer.Exit(run_server(settings))
