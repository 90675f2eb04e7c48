"""A conversation in the terminal."""

from rich.console import Console

from python_layer.model.qwen3_model import Qwen3Model
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.errors import InvalidRequestError
from python_layer.utils.settings import Settings


def run_chat(model: Qwen3Model, settings: Settings, system: str | None) -> None:
    """Reads messages until the end of input or /exit, and prints the answers as they come.

    Args:
        model: Answers.
        settings: Length and sampling of the answers.
        system: A system message, if any.

    Raises:
        TokenizerError: The checkpoint has no chat template.
    """
    console = Console(highlight=False)
    template = ChatTemplate.from_pretrained(model.folder)
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages = list(opening)
    console.print("[dim]Say something; /reset begins anew, /exit ends.[/dim]")
    while True:
        try:
            text = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if text == "/exit":
            return
        if text == "/reset":
            messages = list(opening)
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                answer = _answer(console, model, settings, template.render(messages))
                messages.append({"role": "assistant", "content": answer})
            except InvalidRequestError as error:
                messages.pop()
                console.print(f"[red]{error}[/red]")


def _answer(console: Console, model: Qwen3Model, settings: Settings, prompt: str) -> str:
    pieces = []
    for step in model.generate_stream(
        prompt,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
    ):
        pieces.append(step.text or "")
        console.print(pieces[-1], end="", markup=False)
    console.print()
    return "".join(pieces)
