"""Prompts: conversations become text, and text becomes token ids, on threads beside the server's own."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from anyio import to_thread

from python_layer.model.generation import encode_prompt
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.server.schemas import ChatMessage, Tool
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.errors import InvalidRequestError, TokenizerError


class Prompts:
    """Makes one model's prompts.

    Args:
        model: Its tokenizer and chat template.
        enable_thinking: The chat template's variable, unless a request sets it; None leaves it to the template.
    """

    def __init__(self, model: Qwen3Model, enable_thinking: bool | None) -> None:
        self._model, self._enable_thinking = model, enable_thinking

    async def render(self, messages: list[ChatMessage], tools: list[Tool], arguments: Mapping[str, Any]) -> str:
        """The prompt of a conversation, through the chat template.

        Raises:
            InvalidRequestError: The template refuses it, or ``arguments`` set what is not theirs.
            TokenizerError: There is no template.
        """
        reserved = {"messages", "tools"} & arguments.keys()
        if reserved:
            raise InvalidRequestError(f"{min(reserved)} can't be set like this", "chat_template_kwargs")
        if self._enable_thinking is not None:
            arguments = {"enable_thinking": self._enable_thinking, **arguments}
        turns = [_turn(message) for message in messages]
        offered = [tool.model_dump(exclude={"function": {"strict"}}, exclude_unset=True) for tool in tools]

        def render() -> str:
            try:
                return self._chat_template.render(turns, tools=offered, **arguments)
            except TokenizerError as error:
                raise InvalidRequestError(str(error), "messages") from None

        return await to_thread.run_sync(render)

    async def ids(self, prompt: str | list[int], special: bool = True, param: str = "prompt") -> list[int]:
        """The token ids of a prompt that may be text.

        Args:
            prompt: Text or ids.
            special: Recognise special tokens in text.
            param: The request's parameter, for errors.

        Raises:
            InvalidRequestError: There is no tokenizer, or the text is empty or no valid Unicode.
        """
        if not isinstance(prompt, str):
            return prompt

        def encode() -> list[int]:
            return encode_prompt(self._model.tokenizer, prompt, special, param)

        return await to_thread.run_sync(encode)

    def text(self, ids: list[int], param: str) -> str:
        """The text of token ids.

        Raises:
            InvalidRequestError: There is no tokenizer, or it does not know an id.
        """
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            raise InvalidRequestError("the checkpoint has no tokenizer, so tokens have no text", param)
        unknown = next((token for token in ids if token not in tokenizer), None)
        if unknown is not None:
            raise InvalidRequestError(f"token id {unknown} has no text: the tokenizer does not know it", param)
        return tokenizer.decode(ids)

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate.from_pretrained(self._model.folder)


def check_number(body: Any, most: int) -> None:
    """Refuses too many prompts before time is spent on each: checking types, tokenizing.

    Args:
        body: What was sent to /v1/completions; nothing about it is known yet.
        most: Prompts that may wait.

    Raises:
        InvalidRequestError: There are more.
    """
    prompt = body.get("prompt") if isinstance(body, dict) else None
    # A list of numbers is one prompt.
    if isinstance(prompt, list) and len(prompt) > most and isinstance(prompt[0], (str, list)):
        raise InvalidRequestError(f"{len(prompt)} prompts are more than the {most} that may wait; send fewer", "prompt")


def _turn(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates know it."""
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    # OpenAI's newer models call the system message the developer's.
    role = "system" if message.role == "developer" else message.role
    fields = message.model_dump(include={"reasoning_content", "tool_calls", "tool_call_id"}, exclude_unset=True)
    return {"role": role, "content": text, **fields}
