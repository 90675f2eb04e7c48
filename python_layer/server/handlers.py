"""Between the protocol and the engine: bodies become requests, outputs become OpenAI's objects."""

import time
import uuid
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from anyio import to_thread

from python_layer.inference.engine import InferenceEngine
from python_layer.inference.guide import Guide
from python_layer.inference.params import GenerationParams
from python_layer.inference.request import Request
from python_layer.model.generation import check_token_ids, encode_prompt
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.model.sampling import SamplingParams
from python_layer.server.errors import ModelNotFoundError
from python_layer.server.formats import ChatFormat, CompletionFormat, ToolCallCounts
from python_layer.server.plain import PlainResponse
from python_layer.server.responses import Form, Response
from python_layer.server.schemas import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    GenerationFields,
    NamedTool,
    TemplateRequest,
    TokenizeRequest,
    Tool,
)
from python_layer.server.structure import Structures
from python_layer.tokenizer import ChatTemplate
from python_layer.tokenizer.answer_parser import AnswerParser, thinks_at_end
from python_layer.utils.errors import InvalidRequestError, TokenizerError
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

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate.from_pretrained(self._model.folder)

    async def complete(self, body: CompletionRequest, request_id: str) -> Response:
        """Continues one prompt or several.

        Raises:
            MiliError: The request can't be served as asked.
        """
        self._check(body)
        prompts = [await self._ids(prompt) for prompt in _prompts(body.prompt)]
        scored = body.prompt_logprobs
        if body.echo and body.logprobs is not None:
            if scored is not None:
                raise InvalidRequestError(
                    "echo with logprobs reports the prompt's own; leave one out", "prompt_logprobs"
                )
            scored = body.logprobs
        echo = [self._text(ids, "prompt") for ids in prompts] if body.echo else None
        guide = await to_thread.run_sync(self._structures.of_completion, body.structured_outputs)
        requests = self._requests(prompts, body, body.max_tokens, body.logprobs, scored, guide)
        form = self._form("cmpl", body, request_id, echo)
        tokenizer = self._model.tokenizer
        return Response(self.engine, requests, form, CompletionFormat(tokenizer), tokenizer)

    async def chat(self, body: ChatCompletionRequest, request_id: str) -> Response:
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
        prompt = await self._render(body.messages, offered, body.chat_template_kwargs)
        ids = await self._ids(prompt, param="messages")
        budget = self._settings.thinking_budget if body.thinking_budget is None else body.thinking_budget
        guide = await to_thread.run_sync(self._structures.of_chat, body, prompt, budget)
        wanted = (body.top_logprobs or 0) if body.logprobs else None
        most = body.max_completion_tokens or body.max_tokens
        requests = self._requests([ids], body, most, wanted, body.prompt_logprobs, guide)
        tokenizer = self._model.tokenizer
        names = [tool.function.name for tool in offered]

        def parser() -> AnswerParser:
            return AnswerParser(thinking=thinks_at_end(prompt), functions=names)

        format = ChatFormat(tokenizer, parser, self.tool_calls, isinstance(body.tool_choice, NamedTool))
        return Response(self.engine, requests, self._form("chatcmpl", body, request_id), format, tokenizer)

    async def generate(self, body: GenerateRequest, request_id: str) -> PlainResponse:
        """Continues a prompt, for the plain protocol.

        Raises:
            MiliError: The request can't be served as asked.
        """
        fields = {name: value for name, value in body.model_dump().items() if name != "prompt"}
        completion = CompletionRequest(prompt=body.prompt, **fields)
        requests = self._requests([await self._ids(body.prompt)], completion, body.max_tokens, None, None)
        return PlainResponse(self.engine, requests[0], request_id)

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        """The tokens of a text.

        Raises:
            InvalidRequestError: There is no tokenizer, or the text is no valid Unicode.
        """
        ids = await self._ids(body.text, body.allow_special, "text") if body.text else []
        return {"tokens": ids, "count": len(ids), "max_model_len": self._model.config.max_position_embeddings}

    async def detokenize(self, body: DetokenizeRequest) -> dict[str, str]:
        """The text of tokens.

        Raises:
            InvalidRequestError: There is no tokenizer, or it does not know a token.
        """
        check_token_ids(self._model.config, "tokens", body.tokens)
        return {"text": self._text(body.tokens, "tokens")}

    async def apply_template(self, body: TemplateRequest) -> dict[str, str]:
        """The prompt that a conversation becomes.

        Raises:
            TokenizerError: The model has no chat template, or it refuses the conversation.
        """
        arguments = body.chat_template_kwargs | {"add_generation_prompt": body.add_generation_prompt}
        prompt = await self._render(body.messages, body.tools or [], arguments)
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

    async def _render(self, messages: list[ChatMessage], tools: list[Tool], arguments: Mapping[str, Any]) -> str:
        reserved = {"messages", "tools"} & arguments.keys()
        if reserved:
            raise InvalidRequestError(f"{min(reserved)} can't be set like this", "chat_template_kwargs")
        if self._settings.enable_thinking is not None:
            arguments = {"enable_thinking": self._settings.enable_thinking, **arguments}
        turns = [_turn(message) for message in messages]
        offered = [tool.model_dump(exclude={"function": {"strict"}}, exclude_unset=True) for tool in tools]

        def render() -> str:
            try:
                return self._chat_template.render(turns, tools=offered, **arguments)
            except TokenizerError as error:
                raise InvalidRequestError(str(error), "messages") from None

        return await to_thread.run_sync(render)

    async def _ids(self, prompt: str | list[int], special: bool = True, param: str = "prompt") -> list[int]:
        if not isinstance(prompt, str):
            return prompt

        def encode() -> list[int]:
            return encode_prompt(self._model.tokenizer, prompt, special, param)

        return await to_thread.run_sync(encode)

    def _text(self, ids: list[int], param: str) -> str:
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            raise InvalidRequestError("the checkpoint has no tokenizer, so tokens have no text", param)
        unknown = next((token for token in ids if token not in tokenizer), None)
        if unknown is not None:
            raise InvalidRequestError(f"token id {unknown} has no text: the tokenizer does not know it", param)
        return tokenizer.decode(ids)

    def _form(self, prefix: str, body: GenerationFields, request_id: str, echo: list[str] | None = None) -> Form:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return Form(f"{prefix}-{request_id}", request_id, int(time.time()), self.model_name, usage, echo)

    def _requests(
        self,
        prompts: list[list[int]],
        body: GenerationFields,
        max_tokens: int | None,
        logprobs: int | None,
        scored: int | None,
        guide: Guide | None = None,
    ) -> list[Request]:
        """A request to the engine for each prompt."""

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
        if len(prompts) > self._settings.max_waiting:
            raise InvalidRequestError(
                f"{len(prompts)} prompts are more than the {self._settings.max_waiting} that may wait; send fewer",
                "prompt",
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
            made.append(Request(uuid.uuid4().hex, ids, params, body.priority, body.user, timeout))
        return made

    def _most_tokens(self, prompt_length: int) -> int:
        """The default of max_tokens, less where the context ends before it."""
        return max(1, min(self._settings.max_tokens, self._model.config.max_position_embeddings - prompt_length))


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts in a body: one, or a list of them."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequestError("the prompt is empty; give at least one token", "prompt")
    ids = [each for each in prompt if isinstance(each, int)]
    return [ids] if ids else [each for each in prompt if isinstance(each, (str, list))]


def _turn(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates know it."""
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    # OpenAI's newer models call the system message the developer's.
    role = "system" if message.role == "developer" else message.role
    fields = message.model_dump(include={"reasoning_content", "tool_calls", "tool_call_id"}, exclude_unset=True)
    return {"role": role, "content": text, **fields}


def _bias(raw: dict[str, float] | None) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in (raw or {}).items()}
    except ValueError:
        raise InvalidRequestError("logit_bias must have token ids as keys", "logit_bias") from None
