"""Reads a byte-level BPE tokenizer from a checkpoint's files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_layer.utils.errors import TokenizerError

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 split text before BPE, for folders without a tokenizer.json."""


@dataclass(frozen=True)
class AddedToken:
    """A token outside BPE, recognised as a whole.

    Attributes:
        id: Its token id.
        content: Its text.
        special: Whether it steers the model and is no part of the text (``<think>`` is not special).
    """

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class TokenizerData:
    """A tokenizer's tables.

    Attributes:
        vocab: Token in byte-level characters -> id.
        merges: Pairs of tokens, first merged first.
        added_tokens: Tokens outside BPE.
        pattern: Regular expression that splits text into pieces.
        normalize: Whether text is brought to Unicode's NFC first.
    """

    vocab: Mapping[str, int]
    merges: list[tuple[str, str]]
    added_tokens: list[AddedToken]
    pattern: str
    normalize: bool


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds tokenizer files at all."""
    return any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "merges.txt"))


def read_tokenizer(folder: Path) -> TokenizerData:
    """The tokenizer in a folder: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``.

    Raises:
        TokenizerError: Files are missing or damaged, or ask for something that is not supported.
    """
    if (folder / "tokenizer.json").exists():
        return _from_tokenizer_json(folder / "tokenizer.json")
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).exists()]
    if missing:
        raise TokenizerError(
            f"{folder} has no tokenizer.json and no {' and no '.join(missing)}; a checkpoint has tokenizer.json, "
            "or vocab.json and merges.txt"
        )
    lines = _read_text(folder / "merges.txt").split("\n")
    pairs = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    return TokenizerData(
        vocab=_vocab(read_json(folder / "vocab.json"), folder / "vocab.json"),
        merges=_merges(pairs, folder / "merges.txt"),
        added_tokens=_added_tokens_of(folder),
        pattern=QWEN2_PATTERN,
        normalize=True,
    )


def read_json(file: Path) -> Any:
    """A JSON file's value, or a TokenizerError that names the file."""
    try:
        return json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{file} is not JSON: {error}") from None


def _from_tokenizer_json(file: Path) -> TokenizerData:
    raw = read_json(file)
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise TokenizerError(f"{file} has no model; it must be a tokenizer.json of the tokenizers library")
    model = raw["model"]
    unsupported = [
        f"{name} {model[name]!r}"
        for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get(name)
    ]
    unsupported += [name for name in ("byte_fallback", "ignore_merges", "fuse_unk") if model.get(name)]
    if model.get("type") != "BPE":
        unsupported.append(f"model type {model.get('type')!r}")
    normalizer = raw.get("normalizer")
    if normalizer is not None and (not isinstance(normalizer, dict) or normalizer.get("type") != "NFC"):
        unsupported.append(f"normalizer {normalizer!r}")
    pattern = _split_pattern(raw.get("pre_tokenizer"))
    if pattern is None:
        unsupported.append(f"pre_tokenizer {raw.get('pre_tokenizer')!r}")
    if unsupported:
        raise TokenizerError(f"{file} asks for {', '.join(unsupported)}; supported is byte-level BPE as in Qwen3")
    return TokenizerData(
        vocab=_vocab(model.get("vocab"), file),
        merges=_merges(model.get("merges"), file),
        added_tokens=[_added_token(token, file) for token in raw.get("added_tokens") or []],
        pattern=pattern or QWEN2_PATTERN,
        normalize=normalizer is not None,
    )


def _split_pattern(pre_tokenizer: Any) -> str | None:
    """The pattern of the one pre-tokenizer that is supported: a split by it, then bytes as they are."""
    try:
        split, bytes_ = pre_tokenizer["pretokenizers"]
        as_expected = (
            (split["type"], split["behavior"], split.get("invert", False)) == ("Split", "Isolated", False)
            and bytes_["type"] == "ByteLevel"
            and not bytes_.get("add_prefix_space")
            and not bytes_.get("use_regex")
        )
        return str(split["pattern"]["Regex"]) if as_expected else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _vocab(raw: Any, file: Path) -> dict[str, int]:
    if not isinstance(raw, dict) or set(map(type, raw.values())) != {int} or min(raw.values()) < 0:
        raise TokenizerError(f"{file} has no vocabulary of token -> id")
    return raw


def _merges(raw: Any, file: Path) -> list[tuple[str, str]]:
    given: list[Any] = raw if isinstance(raw, list) else [None]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in given]
    if set(map(type, pairs)) - {list} or set(map(len, pairs)) - {2}:
        raise TokenizerError(f"{file} has merges that are not pairs of tokens")
    return list(map(tuple, pairs))


def _added_tokens_of(folder: Path) -> list[AddedToken]:
    """Added tokens where there is no tokenizer.json."""
    config, plain = folder / "tokenizer_config.json", folder / "added_tokens.json"
    decoder = read_json(config).get("added_tokens_decoder") if config.exists() else None
    if decoder:
        try:
            return [_added_token({"id": int(i), **token}, config) for i, token in decoder.items()]
        except (AttributeError, TypeError, ValueError):
            raise TokenizerError(f"{config} has an added_tokens_decoder that is not id -> token") from None
    if plain.exists():
        return [
            _added_token({"id": i, "content": text, "special": True}, plain) for text, i in read_json(plain).items()
        ]
    return []


def _added_token(raw: Any, file: Path) -> AddedToken:
    if not isinstance(raw, dict) or type(raw.get("id")) is not int or not raw.get("content"):
        raise TokenizerError(f"{file} has an added token without id and content: {raw!r}")
    flags = [name for name in ("lstrip", "rstrip", "single_word") if raw.get(name)]
    if flags:
        raise TokenizerError(
            f"{file}: added token {raw['content']!r} asks for {', '.join(flags)}, which is not supported"
        )
    return AddedToken(raw["id"], raw["content"], bool(raw.get("special")))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file} can't be read: {error}") from None
