"""Qwen's byte-level BPE tokenizer, on tiktoken's BPE."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import tiktoken

from python_layer.tokenizer.gguf_tokenizer import read_gguf_tokenizer
from python_layer.tokenizer.tokenizer_files import TokenizerData, read_tokenizer
from python_layer.utils.errors import TokenizerError


class QwenTokenizer:
    """Text to token ids and back.

    Args:
        data: The tokenizer's tables.

    Raises:
        TokenizerError: The tables contradict each other.
    """

    def __init__(self, data: TokenizerData) -> None:
        self._normalize = data.normalize
        self._added = {token.content: token.id for token in data.added_tokens}
        self.added_ids = frozenset(self._added.values())
        self.special_ids = frozenset(token.id for token in data.added_tokens if token.special)
        spelled = _spell(data.vocab)
        self._bytes = dict(zip(data.vocab.values(), spelled.values(), strict=True))
        self._bytes |= {token.id: token.content.encode() for token in data.added_tokens}
        ranks, self._id_of_rank = _ranks(data, spelled)
        self._bpe = tiktoken.Encoding("qwen", pat_str=data.pattern, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "QwenTokenizer":
        """The tokenizer in a checkpoint's folder or GGUF file.

        Raises:
            TokenizerError: Files are missing or damaged, or ask for something that is not supported.
            WeightError: The GGUF file can't be read.
        """
        path = Path(folder)
        return cls(read_gguf_tokenizer(path) if path.is_file() else read_tokenizer(path))

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._bytes) + 1

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The token ids of a text.

        Args:
            text: Any text without lone surrogates.
            allow_special: Recognise added tokens such as ``<|im_end|>``. Otherwise their spelling is plain
                text, so that what a user typed can't steer the model.

        Raises:
            TokenizerError: The text holds a lone surrogate, which no encoding of Unicode allows.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text holds a lone surrogate at character {error.start}; it must be valid Unicode"
            ) from None
        if not allow_special or self._added_pattern is None:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for i, part in enumerate(self._added_pattern.split(text)):
            if i % 2:
                ids.append(self._added[part])
            elif part:
                ids += self._encode_ordinary(part)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            TokenizerError: An id that the tokenizer does not know.
        """
        kept = (i for i in ids if not (skip_special_tokens and i in self.special_ids))
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for.

        Raises:
            TokenizerError: The tokenizer does not know the id.
        """
        try:
            return self._bytes[token]
        except KeyError:
            raise TokenizerError(f"token id {token} is unknown; the tokenizer has {self.vocab_size}") from None

    def __contains__(self, token: int) -> bool:
        """Whether the tokenizer knows a token id; a model's vocabulary may be padded beyond it."""
        return token in self._bytes

    def token_to_id(self, token: str) -> int | None:
        """The id of an added token, or of text that is one token; None if it is neither."""
        if token in self._added:
            return self._added[token]
        ids = self._encode_ordinary(token)
        return ids[0] if len(ids) == 1 else None

    @cached_property
    def _added_pattern(self) -> re.Pattern[str] | None:
        # Longest first: of two added tokens that begin alike, the longer one is meant.
        contents = sorted(self._added, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, contents))})") if contents else None

    def _encode_ordinary(self, text: str) -> list[int]:
        if self._normalize:
            text = unicodedata.normalize("NFC", text)
        return [self._id_of_rank[rank] for rank in self._bpe.encode_ordinary(text)]


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level BPE files, in the order of byte tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _spell(vocab: Mapping[str, int]) -> dict[str, bytes]:
    """The bytes of every token of a vocabulary that is written in byte-level characters."""
    to_byte = {ord(character): byte for byte, character in byte_characters().items()}
    strangers = set().union(*vocab) - set(map(chr, to_byte))
    if strangers:
        raise TokenizerError(f"the vocabulary holds {min(strangers)!r}, which stands for no byte")
    # Characters below 256 are bytes in Latin-1.
    return {token: token.translate(to_byte).encode("latin-1") for token in vocab}


def _ranks(data: TokenizerData, spelled: Mapping[str, bytes]) -> tuple[dict[bytes, int], list[int]]:
    """Byte string -> rank (bytes first, then merges in order), and rank -> token id.

    tiktoken merges the pair whose result has the lowest rank, so a merge's rank stands for its place in the
    list. A vocabulary entry that no merge makes can't be met in a text and has no rank.
    """
    tokens = dict.fromkeys([*byte_characters().values(), *map("".join, data.merges)])
    try:
        spellings = list(map(spelled.__getitem__, tokens))
    except KeyError as error:
        raise TokenizerError(
            f"the vocabulary lacks {error.args[0]!r}, which is a byte or the result of a merge"
        ) from None
    return dict(zip(spellings, range(len(spellings)), strict=True)), list(map(data.vocab.__getitem__, tokens))
