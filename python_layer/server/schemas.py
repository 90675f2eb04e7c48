"""The bodies of requests, after OpenAI's API and vLLM's additions. A field that is not listed is refused by name."""

from collections import Counter
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")
Listed = Annotated[list[T], Field(fail_fast=True)]
"""A list whose first wrong item is the only one that is reported: a large body can have millions."""

MOST_MESSAGES = 1 << 16
"""Of a conversation: with five tokens each at least, more would not fit the 262,144 positions of the longest Qwen3."""

STRICT = ConfigDict(extra="forbid", strict=True)


def _without_nulls(body: Any) -> Any:
    """A field that is null is as one that is left out."""
    return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


DropNulls = model_validator(mode="before")(_without_nulls)


def _strict(**example: Any) -> ConfigDict:
    """As STRICT, with the body that /docs shows first."""
    return ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [example]})


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = STRICT

    include_usage: bool = Field(False, description="End with a chunk that holds the usage.")


class StructuredOutputs(BaseModel):
    """What an answer must look like: just one of these."""

    model_config = STRICT

    json_: dict[str, Any] | bool | str | None = Field(None, alias="json", description="A JSON schema.")
    json_object: Literal[True] | None = Field(None, description="Any JSON object.")
    regex: str | None = Field(None, description="A pattern for the whole answer, in the syntax of Rust's regex.")
    choice: Listed[str] | None = Field(None, min_length=1, description="One of these texts.")
    grammar: str | None = Field(None, description="A grammar in Lark's syntax, as llguidance reads it.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"give just one of json, json_object, regex, choice and grammar, not {len(given)}")
        return self


class GenerationFields(BaseModel):
    """What completions and chat completions share; None takes the server's default.

    Where OpenAI has a field for something this server does not do, only the value that means just that is taken.
    """

    model_config = STRICT

    _drop_nulls = DropNulls

    model: str | None = Field(None, description="Name of the model, as /v1/models lists it.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of an answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling.")
    n: int = Field(1, description="Answers to generate.")
    stop: str | Listed[str] | None = Field(None, description="Strings that end an answer.")
    seed: int | None = Field(None, description="The same seed gives the same answer.")
    presence_penalty: float = Field(0.0, description="Taken from the logits of tokens in the answer.")
    frequency_penalty: float = Field(0.0, description="Likewise, for each occurrence.")
    logit_bias: dict[str, float] | None = Field(None, description="Token id -> what is added to its logit.")
    stream: bool = Field(False, description="Answer with server-sent events, as tokens come.")
    stream_options: StreamOptions | None = None
    user: str = Field("", description="Whose request it is, for the fair policy.")
    top_k: int | None = Field(None, description="Likeliest tokens kept; 0 is all.")
    min_p: float = Field(0.0, description="Least probability kept, relative to the likeliest token.")
    repetition_penalty: float = Field(1.0, description="Makes tokens of prompt and answer less likely.")
    min_tokens: int = Field(0, description="Tokens before which nothing ends the answer.")
    stop_token_ids: Listed[int] = Field(default_factory=list, description="Tokens that end an answer.")
    ignore_eos: bool = Field(False, description="Go on after an end-of-sequence token.")
    prompt_logprobs: int | None = Field(None, description="Likeliest tokens to report with each token of the prompt.")
    structured_outputs: StructuredOutputs | None = Field(None, description="What the answer must look like.")
    priority: int = Field(0, description="Lower goes first, under the priority policy.")


class CompletionRequest(GenerationFields):
    """POST /v1/completions."""

    model_config = _strict(prompt="Once upon a time", max_tokens=20)

    prompt: str | Listed[str] | Listed[int] | Listed[Listed[int]] = Field(
        description="A text or token ids, or a list of such prompts."
    )
    logprobs: int | None = Field(None, description="Likeliest tokens to report with each token, up to 20.")
    echo: bool = Field(False, description="Begin the answer with the prompt.")
    best_of: Literal[1] | None = Field(None, description="Only 1: as many answers are returned as are generated.")


class TextPart(BaseModel):
    """A part of a message's content; only text is understood."""

    model_config = STRICT

    type: Literal["text"]
    text: str


class FunctionCall(BaseModel):
    """A function's name and the arguments of a call, as JSON text."""

    model_config = STRICT

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call in an assistant's message."""

    model_config = STRICT

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Listed[TextPart] | None = None
    reasoning_content: str | None = Field(None, description="An assistant's thoughts.")
    tool_calls: Listed[ToolCall] | None = Field(None, min_length=1, description="An assistant's calls.")
    tool_call_id: str | None = Field(None, description="Which call a tool's message answers.")
    name: Literal[None] = Field(None, description="The chat template has no place for names.")

    _drop_nulls = DropNulls

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content is not None):
            raise ValueError("tool_calls and reasoning_content belong into an assistant's message")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a tool's message, and no other, names its call in tool_call_id")
        if self.content is None and not (self.tool_calls or self.reasoning_content is not None):
            raise ValueError("content is missing")
        return self


class Function(BaseModel):
    """A function the model may call."""

    model_config = STRICT

    name: str = Field(pattern="^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments; none is no arguments.")
    strict: bool | None = Field(None, description="Let the arguments of calls follow the schema for certain.")


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = STRICT

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    """A function by its name."""

    model_config = STRICT

    name: str


class NamedTool(BaseModel):
    """The one tool to call."""

    model_config = STRICT

    type: Literal["function"]
    function: FunctionName


class TextFormat(BaseModel):
    """Free text."""

    model_config = STRICT

    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """Any JSON object."""

    model_config = STRICT

    type: Literal["json_object"]


class JsonSchema(BaseModel):
    """A JSON schema with its name."""

    model_config = STRICT

    name: str
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = Field(None, description="Answers follow the schema in any case.")


class JsonSchemaFormat(BaseModel):
    """JSON that a schema allows."""

    model_config = STRICT

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatCompletionRequest(GenerationFields):
    """POST /v1/chat/completions."""

    model_config = _strict(messages=QUESTION)

    messages: Listed[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens.")
    logprobs: bool = Field(False, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Likeliest tokens to report with each token, up to 20."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description='Variables of the chat template, such as {"enable_thinking": false}.'
    )
    tools: Listed[Tool] | None = Field(None, description="Functions the model may call.")
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="Whether to call functions; auto is the default, required and a named one are for certain."
    )
    parallel_tool_calls: bool = Field(True, description="Whether an answer may call several functions.")
    response_format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat | None, Field(discriminator="type")] = (
        None
    )
    thinking_budget: int | None = Field(None, ge=0, description="Most tokens of thoughts; then they are ended.")
    modalities: Listed[Literal["text"]] | None = None
    store: Literal[False] | None = Field(None, description="Nothing is stored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one tier.")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        counts = Counter(tool.function.name for tool in self.tools or [])
        double = next((name for name, count in counts.items() if count > 1), None)
        if double is not None:
            raise ValueError(f"tools has two functions named {double!r}")
        return self


class GenerateRequest(BaseModel):
    """POST /generate."""

    model_config = _strict(prompt="Once upon a time", max_tokens=20)

    prompt: str = Field(description="Text to continue.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of the answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(None, description="Likeliest tokens kept; 0 is all.")
    stream: bool = Field(False, description="Answer with server-sent events, as tokens come.")


class TokenizeRequest(BaseModel):
    """POST /tokenize."""

    model_config = _strict(text="Hello, world!")

    text: str
    allow_special: bool = Field(True, description="Recognise special tokens such as <|im_end|> in the text.")


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = _strict(tokens=[39, 72])

    tokens: Listed[int]


class TemplateRequest(BaseModel):
    """POST /apply-template."""

    model_config = _strict(messages=QUESTION)

    messages: Listed[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    tools: Listed[Tool] | None = Field(None, description="Functions the model may call.")
    add_generation_prompt: bool = Field(True, description="End with the opening of the assistant's turn.")
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, description="Variables of the chat template.")
