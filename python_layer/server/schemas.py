"""The bodies of requests, after OpenAI's API. A field that is not listed is refused by name."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SamplingFields(BaseModel):
    """What completions and chat completions share; None takes the server's default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="Name of the model, as /v1/models lists it.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to generate.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(None, ge=0, description="Likeliest tokens kept; 0 is all.")
    seed: int | None = Field(None, ge=0, lt=2**64, description="The same seed gives the same answer.")
    ignore_eos: bool = Field(False, description="Go on after an end-of-sequence token.")
    stream: bool = Field(False, description="Answer with server-sent events, as tokens come.")


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    prompt: str | list[int] = Field(description="Text or token ids.", examples=["Once upon a time"])


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatCompletionRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])
