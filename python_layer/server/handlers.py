"""Between the protocol and the engine: bodies become requests, outputs become OpenAI's objects."""

import time
import uuid
from typing import Any

from anyio import to_thread

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.guide import Guide
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Request
from python_layer.model.generation import check_token_ids
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampling import SamplingParams
from python_layer.server.errors import ModelNotFoundError
from python_layer.server.formats import ChatFormat, CompletionFormat, ToolCallCounts
from python_layer.server.plain import PlainResponse
from python_layer.server.prompts import Prompts
from python_layer.server.rate_limits import Caller, Metered
from python_layer.server.responses import Form, Response
from python_layer.server.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    GenerationFields,
    NamedTool,
    TemplateRequest,
    TokenizeRequest,
)
from python_layer.server.structure import Structures
from python_layer.tokenizer.answer_parser import AnswerParser, thinks_at_end
from python_layer.utils.errors import ContextLengthError, InvalidRequestError
from python_layer.utils.settings import Settings


class Handlers:
    """Serves requests on one engine.

    Args:
        model: Its name, tokenizer and chat template.
        engine: Generates.
        settings: Defaults of what a request leaves out.
        memory: What the memory goes to, in words.
    """

    def __init__(self, model: Qwen3Model, engine: InferenceEngine, settings: Settings, memory: str = "") -> None:
        self._model = model
        self._settings = settings
        self.engine = engine
        self.memory = memory
        self.tool_calls = ToolCallCounts()
        self._prompts = Prompts(model, settings.enable_thinking)
        self._structures = Structures(model)

    @property
    def model(self) -> Qwen3Model:
        """What is served."""
        return self._model

    @property
    def model_name(self) -> str:
        """The name requests may give."""
        return self._model.name

    @property
    def has_tokenizer(self) -> bool:
        """Whether text can be served, not only token ids."""
        return self._model.tokenizer is not None

    async def complete(self, body: CompletionRequest, request_id: str, caller: Caller) -> Response:
        """Continues one prompt or several.

        Raises:
            MiliError: The request can't be served as asked.
        """
        self._check(body)
        prompts = [await self._prompts.ids(prompt) for prompt in _prompts(body.prompt)]
        scored = body.prompt_logprobs
        if body.echo and body.logprobs is not None:
            if scored is not None:
                raise InvalidRequestError(
                    "echo with logprobs reports the prompt's own; leave one out", "prompt_logprobs"
                )
            scored = body.logprobs
        echo = [self._prompts.text(ids, "prompt") for ids in prompts] if body.echo else None
        guide = await to_thread.run_sync(self._structures.of_completion, body.structured_outputs)
        requests = self._requests(prompts, body, caller, body.max_tokens, body.logprobs, scored, guide)
        form = self._form("cmpl", body, request_id, echo)
        tokenizer = self._model.tokenizer
        return Response(Metered(self.engine, caller), requests, form, CompletionFormat(tokenizer), tokenizer)

    async def chat(self, body: ChatCompletionRequest, request_id: str, caller: Caller) -> Response:
        """Answers a conversation.

        Raises:
            MiliError: The request can't be served as asked, or the model has no chat template.
        """
        self._check(body)
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs to be true", "top_logprobs")
        if body.max_tokens is not None and body.max_completion_tokens is not None:
            raise InvalidRequestError("max_tokens and max_completion_tokens are the same; give one", "max_tokens")
        offered = [] if body.tool_choice == "none" else body.tools or []
        prompt = await self._prompts.render(body.messages, offered, body.chat_template_kwargs)
        ids = await self._prompts.ids(prompt, param="messages")
        budget = self._settings.thinking_budget if body.thinking_budget is None else body.thinking_budget
        guide = await to_thread.run_sync(self._structures.of_chat, body, prompt, budget)
        wanted = (body.top_logprobs or 0) if body.logprobs else None
        most = body.max_completion_tokens or body.max_tokens
        requests = self._requests([ids], body, caller, most, wanted, body.prompt_logprobs, guide)
        tokenizer = self._model.tokenizer
        names = [tool.function.name for tool in offered]

        def parser() -> AnswerParser:
            return AnswerParser(thinking=thinks_at_end(prompt), functions=names)

        format = ChatFormat(tokenizer, parser, self.tool_calls, isinstance(body.tool_choice, NamedTool))
        engine, form = Metered(self.engine, caller), self._form("chatcmpl", body, request_id)
        return Response(engine, requests, form, format, tokenizer)

    async def generate(self, body: GenerateRequest, request_id: str, caller: Caller) -> PlainResponse:
        """Continues a prompt, for the plain protocol.

        Raises:
            MiliError: The request can't be served as asked.
        """
        fields = {name: value for name, value in body.model_dump().items() if name != "prompt"}
        completion = CompletionRequest(prompt=body.prompt, **fields)
        requests = self._requests(
            [await self._prompts.ids(body.prompt)], completion, caller, body.max_tokens, None, None
        )
        return PlainResponse(Metered(self.engine, caller), requests[0], request_id)

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        """The tokens of a text.

        Raises:
            InvalidRequestError: There is no tokenizer, or the text is no valid Unicode.
        """
        ids = await self._prompts.ids(body.text, body.allow_special, "text") if body.text else []
        return {"tokens": ids, "count": len(ids), "max_model_len": self._model.config.max_position_embeddings}

    async def detokenize(self, body: DetokenizeRequest) -> dict[str, str]:
        """The text of tokens.

        Raises:
            InvalidRequestError: There is no tokenizer, or it does not know a token.
        """

        def text() -> str:
            check_token_ids(self._model.config, "tokens", body.tokens)
            return self._prompts.text(body.tokens, "tokens")

        return {"text": await to_thread.run_sync(text)}

    async def apply_template(self, body: TemplateRequest) -> dict[str, str]:
        """The prompt that a conversation becomes.

        Raises:
            TokenizerError: The model has no chat template, or it refuses the conversation.
        """
        arguments = body.chat_template_kwargs | {"add_generation_prompt": body.add_generation_prompt}
        prompt = await self._prompts.render(body.messages, body.tools or [], arguments)
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(
                "the messages hold a lone surrogate; they must be valid Unicode", "messages"
            ) from None
        return {"prompt": prompt}

    def _check(self, body: GenerationFields) -> None:
        if body.model is not None and body.model != self.model_name:
            raise ModelNotFoundError(f"model {body.model!r} is not served; this is {self.model_name!r}", "model")
        if body.stream_options is not None and not body.stream:
            raise InvalidRequestError("stream_options needs stream to be true", "stream_options")
        if body.stream and body.prompt_logprobs is not None:
            raise InvalidRequestError("prompt_logprobs needs stream to be false", "prompt_logprobs")

    def _form(self, prefix: str, body: GenerationFields, request_id: str, echo: list[str] | None = None) -> Form:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return Form(f"{prefix}-{request_id}", int(time.time()), self.model_name, usage, echo)

    def _requests(
        self,
        prompts: list[list[int]],
        body: GenerationFields,
        caller: Caller,
        max_tokens: int | None,
        logprobs: int | None,
        scored: int | None,
        guide: Guide | None = None,
    ) -> list[Request]:
        """A request to the engine for each prompt."""
        self._check_sizes(prompts, body.n, max_tokens)

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
        made = []
        for ids in prompts:
            params = GenerationParams(
                sampling=sampling,
                max_tokens=max_tokens or self._most_tokens(len(ids)),
                min_tokens=body.min_tokens,
                n=body.n,
                stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
                stop_token_ids=tuple(body.stop_token_ids),
                ignore_eos=body.ignore_eos,
                logprobs=logprobs,
                prompt_logprobs=scored,
                guide=guide,
            )
            timeout = self._settings.request_timeout
            made.append(Request(uuid.uuid4().hex, ids, params, body.priority, body.user or caller.user, timeout))
        return made

    def _check_sizes(self, prompts: list[list[int]], n: int, max_tokens: int | None) -> None:
        """Refuses what is within the model's limits but not within this server's."""
        settings = self._settings
        most, longest = settings.max_tokens_limit, max(map(len, prompts))
        if n > settings.max_n:
            raise InvalidRequestError(f"n is {n}; this server allows up to {settings.max_n}", "n")
        if most is not None and max_tokens is not None and max_tokens > most:
            raise InvalidRequestError(f"max_tokens is {max_tokens}; this server allows up to {most}", "max_tokens")
        if settings.max_prompt_tokens is not None and longest > settings.max_prompt_tokens:
            raise ContextLengthError(
                f"the prompt has {longest} tokens; this server allows up to {settings.max_prompt_tokens}", "prompt"
            )

    def _most_tokens(self, prompt_length: int) -> int:
        """The default of max_tokens, less where the context ends before it."""
        most = min(self._settings.max_tokens, self._settings.max_tokens_limit or self._settings.max_tokens)
        return max(1, min(most, self._model.config.max_position_embeddings - prompt_length))


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts in a body: one, or a list of them."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequestError("the prompt is empty; give at least one token", "prompt")
    ids = [each for each in prompt if isinstance(each, int)]
    return [ids] if ids else [each for each in prompt if isinstance(each, (str, list))]


def _bias(raw: dict[str, float] | None) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in (raw or {}).items()}
    except ValueError:
        raise InvalidRequestError("logit_bias must have token ids as keys", "logit_bias") from None
