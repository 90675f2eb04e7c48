"""Between the protocol and the engine: bodies become requests, outputs become OpenAI's objects."""

import time
import uuid
from typing import Any

from anyio import to_thread

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Request
from python_layer.model.generation import encode_prompt
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampling import SamplingParams
from python_layer.server.responses import ChatFormat, CompletionFormat, Response
from python_layer.server.schemas import ChatCompletionRequest, CompletionRequest, GenerationFields
from python_layer.tokenizer import ChatTemplate
from python_layer.utils.errors import InvalidRequestError
from python_layer.utils.settings import Settings


class ModelNotFoundError(InvalidRequestError):
    """The request names a model that is not served."""


class Handlers:
    """Serves requests on one engine.

    Args:
        model: Its name, tokenizer and chat template.
        engine: Generates.
        settings: Defaults of what a request leaves out.
    """

    def __init__(self, model: Qwen3Model, engine: InferenceEngine, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self.engine = engine

    @property
    def model_name(self) -> str:
        """The name requests may give."""
        return self._model.name

    async def complete(self, body: CompletionRequest) -> Response:
        """Continues a prompt.

        Raises:
            MiliError: The request can't be served as asked.
        """
        self._check_model(body)
        ids = await self._encode(body.prompt) if isinstance(body.prompt, str) else body.prompt
        request = self._request("cmpl", ids, body, body.max_tokens, body.logprobs)
        return Response(self.engine, request, self._form(body), CompletionFormat(self._model.tokenizer))

    async def chat(self, body: ChatCompletionRequest) -> Response:
        """Answers a conversation.

        Raises:
            MiliError: The request can't be served as asked, or the model has no chat template.
        """
        self._check_model(body)
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs to be true", "top_logprobs")
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise InvalidRequestError("max_tokens and max_completion_tokens are the same; give one", "max_tokens")
        template = await to_thread.run_sync(ChatTemplate.from_pretrained, self._model.folder)
        text = await to_thread.run_sync(template.render, [message.model_dump() for message in body.messages])
        ids = await self._encode(text)
        wanted = (body.top_logprobs or 0) if body.logprobs else None
        request = self._request("chatcmpl", ids, body, body.max_completion_tokens or body.max_tokens, wanted)
        return Response(self.engine, request, self._form(body), ChatFormat(self._model.tokenizer))

    def _check_model(self, body: GenerationFields) -> None:
        if body.model is not None and body.model != self.model_name:
            raise ModelNotFoundError(f"model {body.model!r} is not served; this is {self.model_name!r}", "model")
        if body.stream_options is not None and not body.stream:
            raise InvalidRequestError("stream_options needs stream to be true", "stream_options")

    def _form(self, body: GenerationFields) -> dict[str, Any]:
        """What every object of the answer holds."""
        usage = body.stream_options is not None and body.stream_options.include_usage
        return {"created": int(time.time()), "model": self.model_name, "include_usage": usage}

    def _request(
        self, prefix: str, ids: list[int], body: GenerationFields, max_tokens: int | None, logprobs: int | None
    ) -> Request:
        def default(name: str) -> Any:
            value = getattr(body, name)
            return getattr(self._settings, name) if value is None else value

        sampling = SamplingParams(
            temperature=default("temperature"),
            top_k=default("top_k"),
            top_p=default("top_p"),
            seed=body.seed,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=_bias(body.logit_bias),
        )
        params = GenerationParams(
            sampling=sampling,
            max_tokens=max_tokens or self._settings.max_tokens,
            min_tokens=body.min_tokens,
            n=body.n,
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            stop_token_ids=tuple(body.stop_token_ids),
            ignore_eos=body.ignore_eos,
            logprobs=logprobs,
        )
        return Request(f"{prefix}-{uuid.uuid4().hex}", ids, params, body.priority, body.user)

    async def _encode(self, text: str) -> list[int]:
        return await to_thread.run_sync(encode_prompt, self._model.tokenizer, text)


def _bias(raw: dict[str, float] | None) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in (raw or {}).items()}
    except ValueError:
        raise InvalidRequestError("logit_bias must have token ids as keys", "logit_bias") from None
