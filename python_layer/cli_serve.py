"""``mili serve`` and its options."""

from typing import Annotated, Any

import typer

from python_layer.utils.errors import InvalidRequestError
from python_layer.utils.settings import load_settings


def _panel(name: str, text: str) -> Any:
    """An option in a group of the help."""
    return typer.Option(help=text, rich_help_panel=name)


def serve(
    checkpoint: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="As --model.")] = None,
    model: Annotated[
        str | None, _panel("Model", "Checkpoint folder, GGUF file or hub id; default: models/mili-tiny.")
    ] = None,
    dtype: Annotated[str | None, _panel("Model", "Type of the matrices: auto, float32, bfloat16 or float16.")] = None,
    kv_dtype: Annotated[str | None, _panel("Model", "Type of the KV cache: auto, float32, bfloat16 or int8.")] = None,
    quantization: Annotated[
        str | None, _panel("Model", "How matrices are rounded: auto (as the checkpoint is), none, int8 or int4.")
    ] = None,
    weight_cache: Annotated[bool | None, _panel("Model", "Keep packed weights on disk for the next start.")] = None,
    compute_dtype: Annotated[
        str | None, _panel("Model", "auto (bfloat16 on CPUs with AVX512-BF16), float32, bfloat16.")
    ] = None,
    cpu_isa: Annotated[str | None, _panel("Model", "Instruction set of linear layers; default: the fastest.")] = None,
    device: Annotated[str | None, _panel("Model", "cpu, gpu, gpu:N, or auto: a GPU if there is one.")] = None,
    compiled: Annotated[str | None, _panel("Model", "Folder with graphs that `mili compile` made.")] = None,
    page_size: Annotated[int | None, _panel("Model", "Positions per page of the KV cache.")] = None,
    threads: Annotated[int | None, _panel("Model", "Threads that compute; 0 is one per physical core.")] = None,
    kv_cache_memory: Annotated[float | None, _panel("Engine", "GiB of the KV cache; default: by free memory.")] = None,
    swap_memory: Annotated[float | None, _panel("Engine", "GiB for pages of preempted requests; 0 recomputes.")] = None,
    prefix_caching: Annotated[bool | None, _panel("Engine", "Share common beginnings of requests.")] = None,
    token_budget: Annotated[int | None, _panel("Engine", "Most tokens of one step.")] = None,
    max_running: Annotated[int | None, _panel("Engine", "Most answers at once; default: by free memory.")] = None,
    speculation: Annotated[int | None, _panel("Engine", "Tokens guessed ahead by prompt lookup; 0 is off.")] = None,
    overlap: Annotated[
        bool | None, _panel("Engine", "Prepare a step while the one before it runs; default: on a GPU.")
    ] = None,
    policy: Annotated[str | None, _panel("Engine", "Who goes first: fcfs, priority, fair or latency.")] = None,
    max_tokens: Annotated[int | None, _panel("Defaults of requests", "Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, _panel("Defaults of requests", "0 is greedy.")] = None,
    top_p: Annotated[float | None, _panel("Defaults of requests", "Nucleus sampling.")] = None,
    top_k: Annotated[int | None, _panel("Defaults of requests", "Likeliest tokens kept; 0 is all.")] = None,
    enable_thinking: Annotated[
        bool | None, _panel("Defaults of requests", "Whether chats begin with thoughts.")
    ] = None,
    thinking_budget: Annotated[
        int | None, _panel("Defaults of requests", "Most tokens of thoughts; then they are ended.")
    ] = None,
    profile: Annotated[str | None, _panel("Server", "development, staging or production; see config/profiles.")] = None,
    host: Annotated[str | None, _panel("Server", "Address to listen on.")] = None,
    port: Annotated[int | None, _panel("Server", "Port to listen on.")] = None,
    max_waiting: Annotated[int | None, _panel("Server", "Most requests in the queue; more are refused.")] = None,
    queue_timeout: Annotated[float | None, _panel("Server", "Most seconds a request waits to begin.")] = None,
    request_timeout: Annotated[float | None, _panel("Server", "Most seconds from a request to its end.")] = None,
    drain_timeout: Annotated[int | None, _panel("Server", "Most seconds to finish after the first signal.")] = None,
    api_keys_file: Annotated[str | None, _panel("Access", "Keys that may be used; see `mili keys`.")] = None,
    admin_key_file: Annotated[str | None, _panel("Access", "Likewise, the key that /metrics needs.")] = None,
    requests_per_minute: Annotated[int | None, _panel("Access", "Most requests of a key or an address.")] = None,
    tokens_per_minute: Annotated[int | None, _panel("Access", "Most tokens, prompts and answers together.")] = None,
    max_body_bytes: Annotated[int | None, _panel("Access", "Most bytes of a request's body.")] = None,
    max_prompt_tokens: Annotated[int | None, _panel("Access", "Most tokens of a prompt.")] = None,
    max_tokens_limit: Annotated[int | None, _panel("Access", "Most that max_tokens may be.")] = None,
    max_n: Annotated[int | None, _panel("Access", "Most answers to one prompt, n.")] = None,
    cors_origins: Annotated[
        str | None, _panel("Access", "Origins whose pages may use it, with commas between; * is all.")
    ] = None,
    log_format: Annotated[str | None, _panel("Observability", "console or json.")] = None,
    log_level: Annotated[str | None, _panel("Observability", "debug, info, warning or error.")] = None,
    log_prompts: Annotated[bool | None, _panel("Observability", "Log what is asked and answered.")] = None,
    otlp_endpoint: Annotated[str | None, _panel("Observability", "URL of an OpenTelemetry collector.")] = None,
) -> None:
    """Serve the OpenAI-compatible API."""
    flags = {name: value for name, value in locals().items() if name != "checkpoint"}
    if checkpoint is not None and model is not None:
        raise InvalidRequestError("the model is given twice, as MODEL and as --model; give one", "model")
    settings = load_settings(flags | {"model": checkpoint or model})
    from python_layer.server.run import run_server

    raise typer.Exit(run_server(settings))
