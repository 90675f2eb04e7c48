"""The ``mili`` command. Answers go to standard output, everything else to standard error."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from python_layer.utils.errors import InvalidRequestError, MiliError
from python_layer.utils.settings import Settings, load_settings, settings_and_sources

if TYPE_CHECKING:
    from python_layer.bench.load import Load
    from python_layer.bench.report import Report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An inference engine for Qwen3 models. Every default can be set in config/ or as MILI_<NAME>.",
)
keys = typer.Typer(no_args_is_help=True, help="API keys of the server.")
app.add_typer(keys, name="keys")
notes = Console(stderr=True, highlight=False)


def _panel(name: str, text: str) -> Any:
    """An option in a group of the help."""
    return typer.Option(help=text, rich_help_panel=name)


Model = Annotated[str | None, typer.Option(help="Checkpoint folder, GGUF file or hub id; default: models/mili-tiny.")]
Device = Annotated[str | None, typer.Option(help="Where it runs: cpu, gpu, gpu:N, or auto.")]
Dtype = Annotated[str | None, typer.Option(help="Type of the matrices: auto, float32, bfloat16 or float16.")]
KVDtype = Annotated[str | None, typer.Option(help="Type of the KV cache: auto, float32, bfloat16 or int8.")]
Quantization = Annotated[str | None, typer.Option(help="auto (as the checkpoint is), none, int8 or int4.")]
Threads = Annotated[int | None, typer.Option(help="Threads that compute; 0 is one per physical core.")]
PageSize = Annotated[int | None, typer.Option(help="Positions per page of the KV cache.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to generate.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling: the likeliest tokens up to this probability.")]
TopK = Annotated[int | None, typer.Option(help="The likeliest k tokens; 0 is all.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]


def main() -> None:
    """Runs the command line; what the user can mend is one line on standard error and exit code 1."""
    try:
        app(standalone_mode=True)
    except MiliError as error:
        print(f"mili: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show:
        print(version("mili"))
        raise typer.Exit


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to continue, or with --chat a question.")] = None,
    as_chat: Annotated[
        bool, typer.Option("--chat", help="Answer it as a chat's first message, without thinking.")
    ] = False,
    token_ids: Annotated[str | None, typer.Option(help="The prompt as ids, such as 1,2,3; needs no tokenizer.")] = None,
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KVDtype = None,
    quantization: Quantization = None,
    page_size: PageSize = None,
    threads: Threads = None,
    device: Device = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    logprobs: Annotated[int, typer.Option(help="Likeliest tokens to report with each token, 0 to 20.")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Continue a prompt."""
    ids = _prompt(prompt, token_ids)
    settings = load_settings(
        {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "quantization": quantization, "threads": threads}
        | {"page_size": page_size, "device": device}
        | {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    )
    engine = _load(settings)
    if as_chat:
        ids = _question(engine, ids)
    started = time.perf_counter()
    stream = engine.generate_stream(
        ids,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seed=seed,
        logprobs=logprobs,
        ignore_eos=ignore_eos,
    )
    steps, first = [], 0.0
    for step in stream:
        first = first or time.perf_counter() - started
        steps.append(step)
        if not as_json:
            print(step.text if step.text is not None else f"{step.token} ", end="", flush=True)
    took = time.perf_counter() - started
    if as_json:
        text = None if steps[0].text is None else "".join(step.text or "" for step in steps)
        answer = {
            "text": text,
            "tokens": [step.token for step in steps],
            "logprobs": [step.logprob for step in steps],
            "top_logprobs": [step.top_logprobs for step in steps],
            "finish_reason": steps[-1].finish_reason,
            "dtype": engine.dtype,
            "ttft_s": first,
            **asdict(engine.load_times),
        }
        print(json.dumps(answer))
        return
    print()
    rate = f", {(len(steps) - 1) / (took - first):.1f} tokens/s after it" if len(steps) > 1 else ""
    notes.print(f"[dim]{len(steps)} tokens, the first after {first * 1e3:.0f} ms{rate}[/dim]")


@app.command()
def chat(
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KVDtype = None,
    quantization: Quantization = None,
    threads: Threads = None,
    device: Device = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    think: Annotated[
        bool | None, typer.Option(help="Whether answers begin with thoughts, for models that can.")
    ] = None,
) -> None:
    """Talk to the model in the terminal."""
    from python_layer.chat import run_chat

    flags = {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "quantization": quantization, "threads": threads}
    flags |= {"device": device}
    answers = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    settings = load_settings(flags | answers)
    run_chat(_load(settings), settings, system, settings.enable_thinking if think is None else think)


@app.command()
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


@app.command()
def compile(
    out: Annotated[Path, typer.Option(help="Folder for the compiled graphs; `mili serve --compiled` reads it.")],
    target: Annotated[str, typer.Option(help="cuda:sm_80, cuda:sm_89 or cuda:sm_90a; no such GPU is needed here.")],
    model: Model = None,
    page_size: PageSize = None,
) -> None:
    """Compile a model's graphs for a GPU, on any machine; the weights are not read."""
    from python_layer.model.device import parse_target
    from python_layer.model.loading import compile_for

    settings = load_settings({"model": model, "page_size": page_size})
    with notes.status(f"Compiling for {target}; this takes minutes"):
        files = compile_for(settings, parse_target(target), out)
    for file in files:
        print(f"{file} {file.stat().st_size / 2**20:.1f} MiB")


@keys.command("new")
def new_key(name: Annotated[str, typer.Argument(help="Whose key it is; shown in no answer.")]) -> None:
    """Make a key: prints it, this once, and its line for the file of `mili serve --api-keys-file`."""
    from python_layer.server.keys import new_key

    key, line = new_key(name)
    print(key, line, sep="\n")
    notes.print("[dim]the first line is the key, for its owner only; the second is for the file[/dim]")


@app.command()
def config(
    profile: Annotated[str | None, typer.Option(help="development, staging or production.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every setting, its value and where it comes from."""
    settings, sources = settings_and_sources({"profile": profile})
    values = settings.model_dump()
    if as_json:
        print(json.dumps({name: {"value": values[name], "source": sources[name]} for name in values}))
        return
    table = Table("setting", "value", "from", "what it does", box=None)
    for name, field in Settings.model_fields.items():
        table.add_row(name, str(values[name]), sources[name], field.description)
    Console(highlight=False).print(table)


@app.command()
def info(
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KVDtype = None,
    quantization: Quantization = None,
    page_size: PageSize = None,
    threads: Threads = None,
) -> None:
    """Show a model's configuration, its parameters, the memory it needs and the CPU path it would run on."""
    from python_layer.model.summary import model_summary

    flags = {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "quantization": quantization, "threads": threads}
    flags |= {"page_size": page_size}
    table = Table(show_header=False, box=None)
    for name, value in model_summary(load_settings(flags)).items():
        table.add_row(name, value)
    Console(highlight=False).print(table)


@app.command()
def bench(
    url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server; default: an engine in this process.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint, or with --url the model's name there.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 100,
    concurrent: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Make every answer that long.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the distributions to this PNG file.")] = None,
) -> None:
    """Measure throughput, TTFT and TPOT of an engine or of any OpenAI-compatible server."""
    from python_layer.bench.load import Load, at_server

    load = Load(requests, concurrent, max_tokens, ignore_eos)
    with Progress(console=notes, transient=True) as bar:
        task = bar.add_task("Requests", total=requests)

        def progress() -> None:
            bar.advance(task)

        if url is None:
            report = _bench_engine(
                load_settings({"model": model, "max_waiting": max(1024, concurrent)}), load, progress
            )
        else:
            report = asyncio.run(at_server(url, load, progress, model))
    if as_json:
        print(json.dumps(report.figures()))
    else:
        Console(highlight=False).print(report.table(f"{concurrent} at once, {url or 'engine'}"))
    if plot is not None:
        report.plot(plot)
        notes.print(f"[dim]wrote {plot}[/dim]")
    if report.errors:
        raise typer.Exit(1)


def _bench_engine(settings: Settings, load: "Load", progress: Callable[[], None]) -> "Report":
    from python_layer.bench.load import at_engine
    from python_layer.inference.build import build_engine
    from python_layer.model.generation import encode_prompt
    from python_layer.model.loading import load_model
    from python_layer.tokenizer import ChatTemplate

    model = load_model(settings)
    template = ChatTemplate.from_pretrained(model.folder)

    def encode(question: str) -> list[int]:
        """As the server does with a chat's first message."""
        chat = [{"role": "user", "content": question}]
        return encode_prompt(model.tokenizer, template.render(chat, enable_thinking=settings.enable_thinking))

    engine = build_engine(model, settings)
    try:
        return asyncio.run(at_engine(engine, encode, load, progress))
    finally:
        engine.shutdown()


def _prompt(prompt: str | None, token_ids: str | None) -> str | list[int]:
    if (prompt is None) == (token_ids is None):
        raise InvalidRequestError("give a prompt or --token-ids, one of them", "prompt")
    if token_ids is None:
        assert prompt is not None
        return prompt
    try:
        return [int(token) for token in token_ids.split(",")]
    except ValueError:
        raise InvalidRequestError(f"--token-ids is {token_ids!r}; it must be ids like 1,2,3", "token_ids") from None


def _question(engine: Any, prompt: str | list[int]) -> str:
    from python_layer.tokenizer import ChatTemplate

    if not isinstance(prompt, str):
        raise InvalidRequestError("--chat needs a prompt of text, not --token-ids", "chat")
    template = ChatTemplate.from_pretrained(engine.folder)
    return template.render([{"role": "user", "content": prompt}], enable_thinking=False)


def _load(settings: Settings) -> Any:
    """The model, with a line on standard error about what loading took."""
    # The engine library takes a while to import: not for --help.
    from python_layer.model.loading import load_model

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        # The bar moves with the weights; a graph that is not in the cache is compiled before them.
        task = bar.add_task("Compiling, if this is the first time", total=None)

        def loaded(done: int, total: int) -> None:
            bar.update(task, description="Loading weights", completed=done, total=total)

        engine = load_model(settings, loaded)
    times = engine.load_times
    how = "from cache" if times.compile_cached else "cold"
    notes.print(
        f"[dim]{engine.name}: {engine.config.num_parameters / 1e6:,.1f} M parameters, {engine.matrix_format}, "
        f"{engine.isa}, {engine.threads} thread{'s' if engine.threads > 1 else ''}; "
        f"weights {times.load_s:.1f} s, compilation {times.compile_s:.1f} s ({how})[/dim]"
    )
    return engine
