"""``mili bench``: load on an engine or on a server."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from python_layer.utils.settings import Settings, load_settings

if TYPE_CHECKING:
    from python_layer.bench.load import Load
    from python_layer.bench.report import Report

notes = Console(stderr=True, highlight=False)


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
    model.settle_weights()
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
