"""A checkpoint's chat template: messages to the text of a prompt."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from python_layer.tokenizer.gguf_tokenizer import read_gguf_template
from python_layer.tokenizer.tokenizer_files import read_json
from python_layer.utils.errors import TokenizerError


class ChatTemplate:
    """A Jinja template rendered as the checkpoint's authors do: in a sandbox, with their helpers.

    Args:
        source: The template.
        variables: Values every rendering sees, such as ``bos_token``.

    Raises:
        TokenizerError: The template has a syntax error.
    """

    def __init__(self, source: str, variables: Mapping[str, Any] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        self._variables = dict(variables or {})
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(f"the chat template has an error in line {error.lineno}: {error.message}") from None

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ChatTemplate":
        """The template in ``chat_template.jinja``, tokenizer_config.json or a GGUF file.

        Raises:
            TokenizerError: The folder or file has no template, or one with an error.
            WeightError: The GGUF file can't be read.
        """
        folder = Path(folder)
        if folder.is_file():
            return cls(*read_gguf_template(folder))
        config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = read_json(config_file) if config_file.exists() else {}
        if template_file.exists():
            source: Any = template_file.read_text(encoding="utf-8")
        else:
            source = config.get("chat_template")
            if isinstance(source, list):  # several, by name
                source = next((t.get("template") for t in source if t.get("name") == "default"), None)
        if not isinstance(source, str):
            raise TokenizerError(
                f"{folder} has no chat template; it belongs into chat_template.jinja or tokenizer_config.json"
            )
        return cls(source, {name: _text_of(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")})

    def render(
        self,
        /,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        **arguments: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: Objects with ``role``, ``content`` and what else the template knows (``tool_calls``, ...).
            tools: Functions the model may call, as JSON schemas.
            add_generation_prompt: End with the opening of the assistant's turn.
            enable_thinking: Qwen3's switch; None leaves the template's default.
            arguments: Further variables of the template.

        Raises:
            TokenizerError: The template refuses the conversation; with its own message.
        """
        if enable_thinking is not None:
            arguments["enable_thinking"] = enable_thinking
        try:
            return self._template.render(
                **self._variables,
                messages=list(messages),
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                **arguments,
            )
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:
            raise TokenizerError(f"the chat template can't render these messages: {error}") from None


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON as it is, where Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _text_of(token: Any) -> str | None:
    """A special token's text: it is written as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token
