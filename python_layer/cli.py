"""The ``mili`` command. Answers go to standard output, everything else to standard error."""

import json
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from python_layer.cli_bench import bench
from python_layer.cli_options import (
    Device,
    Dtype,
    KVDtype,
    MaxTokens,
    Model,
    PageSize,
    Quantization,
    Temperature,
    Threads,
    TopK,
    TopP,
    setting,
)
from python_layer.cli_serve import serve
from python_layer.utils.errors import InvalidRequestError, MiliError
from python_layer.utils.settings import Settings, load_settings, settings_and_sources

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An inference engine for Qwen3 models. Every default can be set in config/ or as MILI_<NAME>.",
)
keys = typer.Typer(no_args_is_help=True, help="API keys of the server.")
app.add_typer(keys, name="keys")
notes = Console(stderr=True, highlight=False)


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
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
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


app.command()(serve)
app.command()(bench)


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
    profile: Annotated[str | None, setting("profile")] = None,
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
    """Show a model's configuration, parameters and matrices, the memory it needs and the CPU path it would run on."""
    from python_layer.model.summary import model_summary

    flags = {"model": model, "dtype": dtype, "kv_dtype": kv_dtype, "quantization": quantization, "threads": threads}
    flags |= {"page_size": page_size}
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
