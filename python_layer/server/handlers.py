"""Between the protocol and the model: requests become prompts, tokens become OpenAI's objects."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread

from python_layer.model.generation import GeneratedToken, encode_prompt
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.server.schemas import ChatCompletionRequest, CompletionRequest, SamplingFields
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.errors import InvalidRequestError
from python_layer.utils.settings import Settings

Kind = Literal["text_completion", "chat.completion"]


class ModelNotFoundError(InvalidRequestError):
    """The request names a model that is not served."""


@dataclass(frozen=True)
class Answer:
    """A request under way.

    Attributes:
        id: Its id in the protocol.
        kind: The protocol's object.
        model: Name of the model.
        created: Unix time in seconds.
        prompt_tokens: Length of the prompt.
        steps: The tokens as they come.
    """

    id: str
    kind: Kind
    model: str
    created: int
    prompt_tokens: int
    steps: AsyncIterator[GeneratedToken]

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        steps = [step async for step in self.steps]
        text = "".join(step.text or "" for step in steps)
        content = {"text": text} if self.kind == "text_completion" else {"message": _message(text)}
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(steps),
            "total_tokens": self.prompt_tokens + len(steps),
        }
        return self._object(self.kind, content, steps[-1].finish_reason) | {"usage": usage}

    async def events(self) -> AsyncIterator[str]:
        """The answer as the data of server-sent events, the last one ``[DONE]``."""
        chunk = self.kind if self.kind == "text_completion" else "chat.completion.chunk"
        if self.kind == "chat.completion":
            yield json.dumps(self._object(chunk, {"delta": _message("")}, None))
        async for step in self.steps:
            text = step.text or ""
            if text or step.finish_reason:
                content = {"text": text} if self.kind == "text_completion" else {"delta": {"content": text}}
                yield json.dumps(self._object(chunk, content, step.finish_reason))
        yield "[DONE]"

    def _object(self, kind: str, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": [choice]}


class Handlers:
    """Serves requests on one model, one after the other.

    Args:
        model: Generates.
        settings: Defaults of what a request leaves out.
    """

    def __init__(self, model: Qwen3Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._turn = asyncio.Lock()

    @property
    def model_name(self) -> str:
        """The name requests may give."""
        return self._model.name

    async def complete(self, request: CompletionRequest) -> Answer:
        """Continues a prompt.

        Raises:
            MiliError: The request can't be served as asked.
        """
        prompt = (
            encode_prompt(self._model.tokenizer, request.prompt) if isinstance(request.prompt, str) else request.prompt
        )
        return self._answer("text_completion", prompt, request)

    async def chat(self, request: ChatCompletionRequest) -> Answer:
        """Answers a conversation.

        Raises:
            MiliError: The request can't be served as asked, or the model has no chat template.
        """
        template = await to_thread.run_sync(ChatTemplate.from_pretrained, self._model.folder)
        text = template.render([message.model_dump() for message in request.messages])
        return self._answer("chat.completion", encode_prompt(self._model.tokenizer, text), request)

    def _answer(self, kind: Kind, prompt: Sequence[int], request: SamplingFields) -> Answer:
        if request.model is not None and request.model != self.model_name:
            raise ModelNotFoundError(f"model {request.model!r} is not served; this is {self.model_name!r}", "model")

        def or_default(name: str) -> Any:
            value = getattr(request, name)
            return getattr(self._settings, name) if value is None else value

        steps = self._model.generate_stream(
            prompt,
            **{name: or_default(name) for name in ("max_tokens", "temperature", "top_p", "top_k")},
            seed=request.seed,
            ignore_eos=request.ignore_eos,
        )
        prefix = "cmpl" if kind == "text_completion" else "chatcmpl"
        return Answer(
            id=f"{prefix}-{uuid.uuid4().hex}",
            kind=kind,
            model=self.model_name,
            created=int(time.time()),
            prompt_tokens=len(prompt),
            steps=self._run(iter(steps)),
        )

    async def _run(self, steps: Any) -> AsyncIterator[GeneratedToken]:
        """Steps the model off the event loop while this request has its turn."""
        async with self._turn:
            while (step := await to_thread.run_sync(next, steps, None)) is not None:
                yield step


def _message(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
