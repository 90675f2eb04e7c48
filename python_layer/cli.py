"""The ``mili`` command. Answers go to standard output, everything else to standard error."""

import json
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from python_layer.utils.cpu import vector_isa
from python_layer.utils.errors import InvalidRequestError, MiliError
from python_layer.utils.settings import Settings, load_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An inference engine for Qwen3 models. Every default can be set in config/ or as MILI_<NAME>.",
)
notes = Console(stderr=True, highlight=False)

Model = Annotated[str | None, typer.Option(help="Checkpoint folder or hub id; default: a small random model.")]
Dtype = Annotated[str | None, typer.Option(help="Type of the matrices: auto, float32, bfloat16 or float16.")]
KVDtype = Annotated[str | None, typer.Option(help="Type of the KV cache: auto, float32 or bfloat16.")]
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
    prompt: Annotated[str | None, typer.Argument(help="Text to continue.")] = None,
    token_ids: Annotated[str | None, typer.Option(help="The prompt as ids, such as 1,2,3; needs no tokenizer.")] = None,
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KVDtype = None,
    page_size: PageSize = None,
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
        {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "page_size": page_size}
        | {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    )
    engine = _load(settings)
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
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
) -> None:
    """Talk to the model in the terminal."""
    from python_layer.chat import run_chat

    flags = {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "max_tokens": max_tokens}
    settings = load_settings(flags | {"temperature": temperature, "top_p": top_p, "top_k": top_k})
    run_chat(_load(settings), settings, system)


@app.command()
def serve(
    model: Model = None,
    dtype: Dtype = None,
    kv_dtype: KVDtype = None,
    page_size: PageSize = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    kv_cache_memory: Annotated[float | None, typer.Option(help="GiB of the KV cache; default: by free memory.")] = None,
    prefix_caching: Annotated[bool | None, typer.Option(help="Share common beginnings of requests.")] = None,
    token_budget: Annotated[int | None, typer.Option(help="Most tokens of one step.")] = None,
    max_running: Annotated[int | None, typer.Option(help="Most answers generated at once.")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Most requests in the queue; more are refused.")] = None,
    queue_timeout: Annotated[float | None, typer.Option(help="Most seconds a request waits to begin.")] = None,
    speculation: Annotated[int | None, typer.Option(help="Tokens guessed ahead by prompt lookup; 0 is off.")] = None,
    policy: Annotated[str | None, typer.Option(help="Who goes first: fcfs, priority, fair or latency.")] = None,
) -> None:
    """Serve the OpenAI-compatible API."""
    from python_layer.server.api import run_server

    flags = {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "page_size": page_size, "host": host, "port": port}
    limits = {"token_budget": token_budget, "max_running": max_running, "max_waiting": max_waiting}
    cache = {"kv_cache_memory": kv_cache_memory, "prefix_caching": prefix_caching}
    settings = load_settings(
        flags | limits | cache | {"queue_timeout": queue_timeout, "speculation": speculation, "policy": policy}
    )
    run_server(_load(settings), settings)


@app.command()
def info(model: Model = None, dtype: Dtype = None, kv_dtype: KVDtype = None, page_size: PageSize = None) -> None:
    """Show a model's configuration, its parameters, the memory it needs and the CPU path it would run on."""
    from python_layer.model.summary import model_summary

    flags = {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "page_size": page_size}
    table = Table(show_header=False, box=None)
    for name, value in model_summary(load_settings(flags)).items():
        table.add_row(name, value)
    Console(highlight=False).print(table)


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
        f"[dim]{engine.name}: {engine.config.num_parameters / 1e6:,.1f} M parameters, {engine.dtype}, {vector_isa()}; "
        f"weights {times.load_s:.1f} s, compilation {times.compile_s:.1f} s ({how})[/dim]"
    )
    return engine
