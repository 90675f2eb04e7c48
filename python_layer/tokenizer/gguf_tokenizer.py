"""The tokenizer and the chat template in a GGUF file."""

from pathlib import Path
from typing import Any

from python_layer.tokenizer.tokenizer_files import QWEN2_PATTERN, AddedToken, TokenizerData
from python_layer.utils.errors import TokenizerError
from python_layer.utils.gguf_file import GgufFile

PREFIX = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types: text, steers the model, added but text, fills the vocabulary up."""


def gguf_has_tokenizer(path: Path) -> bool:
    """Whether a GGUF file holds a vocabulary at all."""
    return f"{PREFIX}tokens" in GgufFile(path).metadata


def read_gguf_tokenizer(path: Path) -> TokenizerData:
    """The tokenizer in a GGUF file.

    Raises:
        TokenizerError: It is missing, damaged, or not Qwen's.
        WeightError: The file can't be read.
    """
    file = GgufFile(path)
    fields: dict[str, Any] = {key.removeprefix(PREFIX): value for key, value in file.metadata.items()}
    for name, supported in (("model", "gpt2"), ("pre", "qwen2")):
        if fields.get(name) != supported:
            raise TokenizerError(f"{path}: {PREFIX}{name} is {fields.get(name)!r}; supported: {supported!r}")
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        if fields.get(name):
            raise TokenizerError(f"{path}: {PREFIX}{name} is true, which is not supported")
    tokens, merges, types = file.texts(f"{PREFIX}tokens"), file.texts(f"{PREFIX}merges"), fields.get("token_type")
    if tokens is None or merges is None:
        raise TokenizerError(f"{path} lacks {PREFIX}tokens or {PREFIX}merges, or they are no texts")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise TokenizerError(f"{path} has no {PREFIX}token_type for each of its {len(tokens)} tokens")
    unknown = sorted({kind for kind in types if kind not in (NORMAL, CONTROL, USER_DEFINED, UNUSED)})
    if unknown:
        raise TokenizerError(f"{path} has tokens of type {unknown[0]}, which byte-level BPE does not have")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise TokenizerError(f"{path} has merges that are not pairs of tokens")
    return TokenizerData(
        vocab={token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == NORMAL},
        merges=[(pair[0], pair[1]) for pair in pairs],
        added_tokens=[
            AddedToken(i, token, kind == CONTROL)
            for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (CONTROL, USER_DEFINED)
        ],
        pattern=QWEN2_PATTERN,
        normalize=True,
    )


def read_gguf_template(path: Path) -> tuple[str, dict[str, str | None]]:
    """A GGUF file's chat template and the variables it may use: the texts of some tokens.

    Raises:
        TokenizerError: The file has none.
        WeightError: The file can't be read.
    """
    file = GgufFile(path)
    source = file.metadata.get("tokenizer.chat_template")
    if not isinstance(source, str):
        raise TokenizerError(f"{path} has no chat template, tokenizer.chat_template")
    tokens = file.texts(f"{PREFIX}tokens") or []

    def text(name: str) -> str | None:
        number = file.metadata.get(f"{PREFIX}{name}_token_id")
        return tokens[number] if type(number) is int and 0 <= number < len(tokens) else None

    return source, {"bos_token": text("bos"), "eos_token": text("eos"), "pad_token": text("padding")}
