"""Grammars that tokens must follow, through llguidance."""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from python_layer.tokenizer import QwenTokenizer
from python_layer.utils.errors import InvalidRequestError

MOST_CHARACTERS = 256 * 1024
"""Of a grammar's source; larger ones are refused unread."""

MOST_KEPT = 128
"""Compiled grammars that are remembered."""

JSON_OPTIONS = {"x-guidance": {"whitespace_pattern": r"[ \n\t]{0,20}"}}
"""White space between the tokens of JSON is enough to indent with, but no answer can consist of it."""


class Matcher:
    """Where one answer stands in its grammar.

    Args:
        matcher: llguidance's, of this answer alone.
        words: Words of a mask over the model's vocabulary.
    """

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher, self._words = matcher, words

    def mask(self) -> NDArray[np.uint32]:
        """The tokens that may come next, one bit each: uint32 [words]."""
        return np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: self._words]

    def take(self, token: int) -> None:
        """Goes on with a token of the mask."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may come."""
        return self._matcher.is_stopped()

    @property
    def failure(self) -> str:
        """Why it can't go on, such as a limit; "" while it can."""
        return self._matcher.get_error().strip().partition("\n")[0]


class Grammar:
    """A compiled grammar, shared by the answers that follow it.

    Args:
        prototype: A matcher at the beginning.
        words: Words of a mask over the model's vocabulary.
    """

    def __init__(self, prototype: LLMatcher, words: int) -> None:
        self._prototype, self._words = prototype, words

    def begin(self) -> Matcher:
        """A matcher for one more answer."""
        return Matcher(self._prototype.deep_copy(), self._words)


class GrammarCompiler:
    """Compiles grammars for one tokenizer, each once. May be used from several threads.

    Args:
        tokenizer: Spells the tokens. Added tokens, such as ``<tool_call>``, are never taken for their text.
        vocab_size: The model's, which may be padded beyond the tokenizer's.
        endings: The model's end-of-sequence tokens.
    """

    def __init__(self, tokenizer: QwenTokenizer, vocab_size: int, endings: Sequence[int]) -> None:
        self._tokenizer, self._vocab_size, self._endings = tokenizer, vocab_size, list(endings)
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, source: str, param: str) -> Grammar:
        """A grammar from the source that one of the functions below makes.

        Args:
            source: llguidance's own form.
            param: The request's parameter it comes from, for errors.

        Raises:
            InvalidRequestError: It is wrong, impossible to fulfil, not supported or too large.
        """
        with self._lock:
            if source in self._kept:
                self._kept.move_to_end(source)
                return self._kept[source]
        if len(source) > MOST_CHARACTERS:
            raise InvalidRequestError(
                f"the grammar has {len(source):,} characters; it may have up to {MOST_CHARACTERS:,}", param
            )
        matcher = LLMatcher(self._spelling, source, limits=LLParserLimits(max_lexer_states=100_000), log_level=0)
        grammar = Grammar(matcher, -(-self._vocab_size // 32))
        failure = grammar.begin().failure
        if failure:
            raise InvalidRequestError(f"the grammar can't be used: {failure}", param)
        with self._lock:
            self._kept[source] = grammar
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return grammar

    @cached_property
    def _spelling(self) -> LLTokenizer:
        size = max(self._vocab_size, self._tokenizer.vocab_size)
        wrapper = TokenizerWrapper(_Spelling(self._tokenizer, size, self._endings[0]))
        return LLTokenizer(wrapper, n_vocab=size, eos_token=self._endings)


class _Spelling:
    """A tokenizer as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: QwenTokenizer, size: int, eos_token_id: int) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id = eos_token_id
        self.tokens = [tokenizer.token_bytes(token) if token in tokenizer else b"" for token in range(size)]
        self.special_token_ids = sorted(tokenizer.added_ids)

    def __call__(self, text: bytes) -> list[int]:
        return self._encode(text.decode())


def from_json_schema(schema: dict[str, Any] | bool) -> str:
    """The source for JSON that a schema allows."""
    schema = schema if isinstance(schema, dict) else ({} if schema else {"enum": []})
    return json.dumps({"grammars": [{"json_schema": schema | JSON_OPTIONS}]})


def from_regex(pattern: str) -> str:
    """The source for text that matches a pattern, in the syntax of Rust's regex, as a whole."""
    return LLMatcher.grammar_from_regex(pattern)


def from_lark(grammar: str) -> str:
    """The source for a context-free grammar in Lark's syntax, with ``start`` as its first rule."""
    return LLMatcher.grammar_from_lark(grammar)


def from_choice(choices: Iterable[str]) -> str:
    """The source for one of some texts."""
    return from_lark("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))


def from_functions(
    functions: Mapping[str, dict[str, Any]],
    end: int,
    start: int | None = None,
    *,
    several: bool = False,
    answer: dict[str, Any] | None = None,
) -> str:
    """The source for calls of functions as Qwen3 writes them.

    Args:
        functions: JSON schema of the arguments, by name.
        end: The token ``</tool_call>``.
        start: The token ``<tool_call>``; None where it has come already, and the source is for the rest of one call.
        several: More calls may follow.
        answer: Schema of JSON that may come instead of calls; None where there must be calls.
    """
    body = f'"\\n{{\\"name\\": " function "}}\\n" <[{end}]>'
    calls = body if start is None else 'call ("\\n" call)*' if several else "call"
    rules = [f"start: {calls}" if answer is None else f"start: {calls} | answer"]
    if start is not None:
        rules.append(f"call: <[{start}]> {body}")
    if answer is not None:
        rules.append(f"answer: %json {json.dumps(answer | JSON_OPTIONS)}")
    rules.append("function: " + " | ".join(f"function_{i}" for i in range(len(functions))))
    for i, (name, schema) in enumerate(functions.items()):
        rules.append(f'function_{i}: "\\"{name}\\", \\"arguments\\": " arguments_{i}')
        rules.append(f"arguments_{i}: %json {json.dumps(schema | JSON_OPTIONS)}")
    return from_lark("\n".join(rules))
