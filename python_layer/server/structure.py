"""What a body asks an answer to look like, as a guide for its tokens."""

import json
from collections.abc import Sequence
from typing import Any

from python_layer.inference.grammar import (
    Grammar,
    GrammarCompiler,
    from_choice,
    from_functions,
    from_json_schema,
    from_lark,
    from_regex,
)
from python_layer.inference.guide import Calls, Guide, Thoughts
from python_layer.model.qwen3_model import Qwen3Model
from python_layer.server.schemas import (
    ChatCompletionRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedTool,
    StructuredOutputs,
    Tool,
)
from python_layer.tokenizer.answer_parser import END_THINK, END_TOOL_CALL, THINK, TOOL_CALL, thinks_at_end
from python_layer.utils.errors import InvalidRequestError

ANY_OBJECT: dict[str, Any] = {"type": "object"}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Structures:
    """Makes guides for one model's answers.

    Args:
        model: Its tokenizer, vocabulary and end-of-sequence tokens.
    """

    def __init__(self, model: Qwen3Model) -> None:
        self._config = model.config
        self._tokenizer = model.tokenizer
        if self._tokenizer is not None:
            self._compiler = GrammarCompiler(self._tokenizer, self._config.vocab_size, self._config.eos_token_ids)

    def of_completion(self, wanted: StructuredOutputs | None) -> Guide | None:
        """The guide of a completion.

        Raises:
            InvalidRequestError: The grammar can't be used.
        """
        return None if wanted is None else self._guide(grammar=self._structured(wanted))

    def of_chat(self, body: ChatCompletionRequest, prompt: str, budget: int | None) -> Guide | None:
        """The guide of an answer to a rendered prompt; None where its tokens are free.

        Args:
            body: What was asked for.
            prompt: Tells whether the answer begins within thoughts, or must not have any.
            budget: Most tokens of thoughts.

        Raises:
            InvalidRequestError: A grammar can't be used, or the model does not know what it needs.
        """
        tools = [] if body.tool_choice == "none" else body.tools or []
        forced = isinstance(body.tool_choice, NamedTool) or body.tool_choice == "required"
        schema = _schema_of(body.response_format)
        if body.structured_outputs is not None and schema is not None:
            raise InvalidRequestError("give one of structured_outputs and response_format", "structured_outputs")
        if forced and (body.structured_outputs is not None or schema is not None):
            raise InvalidRequestError(
                "tool_choice asks for a call, so the answer can have no other form", "tool_choice"
            )
        grammar = calls = None
        if forced:
            grammar = self._calls_of(_chosen(tools, body.tool_choice), body)
        elif body.structured_outputs is not None:
            grammar = self._structured(body.structured_outputs)
        elif schema is not None:
            grammar = self._compile(from_json_schema(schema), "response_format")
            if tools:
                grammar = self._calls_of(tools, body, answer=schema)
        elif tools:
            calls = self._free_calls(tools, body.parallel_tool_calls)
        thoughts = self._thoughts(prompt, budget)
        if grammar is None and calls is None and (thoughts is None or budget is None):
            return None
        return self._guide(grammar, thoughts, calls)

    def _guide(
        self, grammar: Grammar | None = None, thoughts: Thoughts | None = None, calls: Calls | None = None
    ) -> Guide:
        return Guide(self._config.vocab_size, self._config.eos_token_ids, grammar, thoughts, calls)

    def _structured(self, wanted: StructuredOutputs) -> Grammar:
        if wanted.regex is not None:
            return self._compile(from_regex(wanted.regex), "structured_outputs")
        if wanted.choice is not None:
            return self._compile(from_choice(wanted.choice), "structured_outputs")
        if wanted.grammar is not None:
            return self._compile(from_lark(wanted.grammar), "structured_outputs")
        schema = ANY_OBJECT if wanted.json_object else wanted.json_
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise InvalidRequestError(f"json is no JSON: {error}", "structured_outputs") from None
        if not isinstance(schema, dict | bool):
            raise InvalidRequestError("json must be a JSON schema: an object or a boolean", "structured_outputs")
        return self._compile(from_json_schema(schema), "structured_outputs")

    def _calls_of(
        self, tools: Sequence[Tool], body: ChatCompletionRequest, answer: dict[str, Any] | None = None
    ) -> Grammar:
        """Calls, or else an answer in JSON where it has a schema."""
        start, end = self._token(TOOL_CALL, "tools"), self._token(END_TOOL_CALL, "tools")
        several = body.parallel_tool_calls and not isinstance(body.tool_choice, NamedTool)
        schemas = {tool.function.name: tool.function.parameters or NO_ARGUMENTS for tool in tools}
        return self._compile(from_functions(schemas, end, start, several=several, answer=answer), "tools")

    def _free_calls(self, tools: Sequence[Tool], parallel: bool) -> Calls | None:
        """Calls the model makes or not; if a function is strict, all follow a grammar."""
        strict = any(tool.function.strict for tool in tools)
        if parallel and not strict:
            return None
        start, end = self._token(TOOL_CALL, "tools"), self._token(END_TOOL_CALL, "tools")
        grammar = None
        if strict:
            schemas = {
                tool.function.name: (tool.function.parameters or NO_ARGUMENTS) if tool.function.strict else ANY_OBJECT
                for tool in tools
            }
            grammar = self._compile(from_functions(schemas, end), "tools")
        return Calls(start, grammar, None if parallel else 1)

    def _thoughts(self, prompt: str, budget: int | None) -> Thoughts | None:
        """How the answer may think; None where the model can't, or the prompt has closed the thoughts already."""
        start, end = self._added(THINK), self._added(END_THINK)
        if self._tokenizer is None or start is None or end is None or prompt.rstrip().endswith(END_THINK):
            return None
        gap = self._tokenizer.encode("\n\n")
        cut = [*self._tokenizer.encode("\n"), end, *gap]
        return Thoughts(start, end, thinks_at_end(prompt), tuple(cut), tuple(gap), budget)

    def _compile(self, source: str, param: str) -> Grammar:
        if self._tokenizer is None:
            raise InvalidRequestError("the checkpoint has no tokenizer, so no text can be asked for", param)
        return self._compiler.compile(source, param)

    def _added(self, text: str) -> int | None:
        token = None if self._tokenizer is None else self._tokenizer.token_to_id(text)
        return token if self._tokenizer is not None and token in self._tokenizer.added_ids else None

    def _token(self, text: str, param: str) -> int:
        token = self._added(text)
        if token is None:
            raise InvalidRequestError(f"the model has no token {text}, so its calls can't be guided", param)
        return token


def _schema_of(wanted: object) -> dict[str, Any] | None:
    """The JSON schema of a ``response_format``; None for free text."""
    if isinstance(wanted, JsonObjectFormat):
        return ANY_OBJECT
    if not isinstance(wanted, JsonSchemaFormat):
        return None
    schema = wanted.json_schema.schema_
    return schema if isinstance(schema, dict) else {} if schema else {"enum": []}


def _chosen(tools: Sequence[Tool], choice: object) -> Sequence[Tool]:
    """The tools of which one must be called."""
    if not tools:
        raise InvalidRequestError("tool_choice needs tools", "tool_choice")
    if not isinstance(choice, NamedTool):
        return tools
    named = [tool for tool in tools if tool.function.name == choice.function.name]
    if not named:
        raise InvalidRequestError(f"tool_choice names {choice.function.name!r}, which is not in tools", "tool_choice")
    return named
