"""A conversation in the terminal."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from python_layer.model.generation import encode_prompt
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.tokenizer import ChatTemplate
from python_layer.tokenizer.answer_parser import AnswerParser, Delta, thinks_at_end
from python_layer.utils.errors import InvalidRequestError, TokenizerError
from python_layer.utils.settings import Settings

HELP = """Say something. A line that begins with / is a command:
/system TEXT  sets the system message, without TEXT shows it
/think on|off switches thinking, for models that can
/reset        begins anew, with the same system message
/save FILE    writes the conversation as JSON
/stats        shows tokens and times
/exit         ends, as the end of the input does"""


class Chat:
    """A conversation with a model.

    Args:
        model: Answers.
        settings: Length and sampling of the answers.
        system: A system message, if any.
        thinking: Whether answers begin with thoughts; None leaves it to the chat template.
        console: Where the answers go and the questions come from.

    Raises:
        TokenizerError: The checkpoint has no chat template.
    """

    def __init__(
        self, model: Qwen3Model, settings: Settings, system: str | None, thinking: bool | None, console: Console
    ) -> None:
        self._model, self._settings, self._console = model, settings, console
        self._template = ChatTemplate.from_pretrained(model.folder)
        self._system, self._thinking = system, thinking
        self._turns: list[dict[str, str]] = []
        self._thought = False
        self._tokens, self._seconds, self._first_seconds = 0, 0.0, 0.0

    def run(self) -> None:
        """Reads lines until /exit or the end of the input."""
        self._console.print("[dim]Say something; /help lists the commands.[/dim]")
        while True:
            try:
                text = self._console.input("[bold]> [/bold]").strip()
            except EOFError:
                return
            if text == "/exit":
                return
            if text.startswith("/"):
                self._command(*text.partition(" ")[::2])
            elif text:
                self._ask(text)

    def _command(self, name: str, argument: str) -> None:
        argument = argument.strip()
        if name == "/system":
            self._system = argument or self._system
            self._note(f"system message: {self._system or 'none'}")
        elif name == "/think" and argument in ("on", "off"):
            self._thinking = argument == "on"
        elif name == "/reset":
            self._turns = []
        elif name == "/save" and argument:
            self._save(Path(argument))
        elif name == "/stats":
            self._note(self._stats())
        else:
            self._console.print(HELP, markup=False)

    def _ask(self, text: str) -> None:
        """Prints the answer as it comes; Ctrl-C ends it, and what has been said stays."""
        self._turns.append({"role": "user", "content": text})
        try:
            prompt = self._template.render(self._messages(), enable_thinking=self._thinking)
            parser, pieces = AnswerParser(thinking=thinks_at_end(prompt)), list[str]()
            try:
                for piece in self._stream(prompt):
                    pieces.append(piece)
                    self._show(parser.push(piece))
                self._show(parser.flush())
            except KeyboardInterrupt:
                self._note("[interrupted]")
            self._console.print()
            self._turns.append({"role": "assistant", "content": "".join(pieces)})
        except (InvalidRequestError, TokenizerError) as error:
            self._turns.pop()
            self._console.print(f"{error}", style="red", markup=False)

    def _show(self, deltas: list[Delta]) -> None:
        """Prints more of an answer, thoughts dimmed."""
        for delta in deltas:
            thought = delta.kind == "reasoning"
            if self._thought and not thought:
                self._console.print("\n")
            self._thought = thought
            self._console.print(delta.text, end="", markup=False, style="dim" if thought else None, soft_wrap=True)

    def _stream(self, prompt: str) -> Iterator[str]:
        began, settings = time.perf_counter(), self._settings
        ids = encode_prompt(self._model.tokenizer, prompt)
        left = self._model.config.max_position_embeddings - len(ids)
        if left < 1:
            raise InvalidRequestError("the conversation fills the model's context; /reset begins anew")
        self._first_seconds = 0.0
        try:
            for step in self._model.generate_stream(
                ids,
                max_tokens=min(settings.max_tokens, left),
                temperature=settings.temperature,
                top_p=settings.top_p,
                top_k=settings.top_k,
            ):
                self._first_seconds = self._first_seconds or time.perf_counter() - began
                self._tokens += 1
                yield step.text or ""
        finally:
            self._seconds += time.perf_counter() - began

    def _messages(self) -> list[dict[str, str]]:
        opening = [{"role": "system", "content": self._system}] if self._system else []
        return [*opening, *self._turns]

    def _save(self, file: Path) -> None:
        saved: dict[str, Any] = {"model": self._model.name, "messages": self._messages()}
        try:
            file.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            self._note(f"saved to {file}")
        except OSError as error:
            self._console.print(f"can't write {file}: {error.strerror}", style="red", markup=False)

    def _stats(self) -> str:
        rate = self._tokens / self._seconds if self._seconds else 0.0
        return (
            f"{len(self._turns) // 2} answers, {self._tokens} tokens, {rate:.1f} tokens/s; "
            f"the last answer began after {self._first_seconds * 1e3:.0f} ms"
        )

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)


def run_chat(model: Qwen3Model, settings: Settings, system: str | None, thinking: bool | None = None) -> None:
    """Talks until the user ends it; arguments and errors as in :class:`Chat`."""
    Chat(model, settings, system, thinking, Console(highlight=False)).run()
