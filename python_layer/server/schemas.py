"""The bodies of requests, after OpenAI's API and vLLM's additions. A field that is not listed is refused by name."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

STRICT = ConfigDict(extra="forbid", strict=True)


def _strict(**example: Any) -> ConfigDict:
    """As STRICT, with the body that /docs shows first."""
    return ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [example]})


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = STRICT

    include_usage: bool = Field(False, description="End with a chunk that holds the usage.")


class GenerationFields(BaseModel):
    """What completions and chat completions share; None takes the server's default.

    Where OpenAI has a field for something this server does not do, only the value that means just that is taken.
    """

    model_config = STRICT

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """A field that is null is as one that is left out."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    model: str | None = Field(None, description="Name of the model, as /v1/models lists it.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of an answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling.")
    n: int = Field(1, description="Answers to generate.")
    stop: str | list[str] | None = Field(None, description="Strings that end an answer.")
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
    stop_token_ids: list[int] = Field(default_factory=list, description="Tokens that end an answer.")
    ignore_eos: bool = Field(False, description="Go on after an end-of-sequence token.")
    prompt_logprobs: int | None = Field(None, description="Likeliest tokens to report with each token of the prompt.")
    priority: int = Field(0, description="Lower goes first, under the priority policy.")


class CompletionRequest(GenerationFields):
    """POST /v1/completions."""

    model_config = _strict(prompt="Once upon a time", max_tokens=20)

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
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


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: Literal[None] = Field(None, description="The chat template has no place for names.")


class TextFormat(BaseModel):
    """The one answer format there is."""

    model_config = STRICT

    type: Literal["text"]


class ChatCompletionRequest(GenerationFields):
    """POST /v1/chat/completions."""

    model_config = _strict(messages=QUESTION)

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens.")
    logprobs: bool = Field(False, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Likeliest tokens to report with each token, up to 20."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description='Variables of the chat template, such as {"enable_thinking": false}.'
    )
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = Field(None, description="Nothing is stored.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one tier.")


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

    tokens: list[int]


class TemplateRequest(BaseModel):
    """POST /apply-template."""

    model_config = _strict(messages=QUESTION)

    messages: list[ChatMessage] = Field(min_length=1)
    add_generation_prompt: bool = Field(True, description="End with the opening of the assistant's turn.")
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, description="Variables of the chat template.")
