"""The tokenizer on the real Qwen vocabulary: published vectors, and the tokenizers package on random text."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from python_layer.tokenizer import QwenTokenizer
from python_layer.utils.errors import TokenizerError
from tests.unit.qwen_files import unpack_tokenizer_json, unpack_vocab_and_merges, vectors

IM_END, THINK = 151645, 151667

ALPHABETS = {
    "ascii": [chr(i) for i in range(32, 127)],
    "code": ["def ", "    ", "\t", "\n", "\r\n", "()", "{}", "->", "==", "_x", "self.", "#", "0", "1", '"', "'"],
    "contractions": ["I", "we", "'s", "'S", "'LL", "'re", "'d", " ", "can", "n't", "\u2019s", "'\u017f"],
    "spaces": [" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", "\r", "a", "."],
    "digits": ["0", "1", "9", " ", ",", ".", "\u0663", "\u00bd", "\u2167", "\u4e09"],
    "cjk": ["\u4f60", "\u597d", "\u4e16", "\u754c", "\u3002", "\u304b", "\u30ac", "\u3099", " ", "a"],
    "hangul": ["\u1112", "\u1161", "\u11ab", "\ud55c", "\uae00", "\u1100", " "],
    "marks": ["e", "\u0301", "\u0323", "\u00e9", "\u1e69", "s", "\u0307", "\u0915", "\u093c", "\u0928", " "],
    "emoji": ["\U0001f469", "\u200d", "\U0001f467", "\U0001f3fd", "\ufe0f", "\u2764", "\U0001f1e9", "\U0001f1ea", " x"],
    "added": [
        "<|im_end|>",
        "<|im_start|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "<|im_",
        "end|>",
        "<",
        ">",
        "e\u0301",
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_tokenizer_json(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> QwenTokenizer:
    return QwenTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def original(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def random_texts(alphabet: str, count: int) -> list[str]:
    rng = random.Random(alphabet)
    return ["".join(rng.choices(ALPHABETS[alphabet], k=rng.randint(1, 30))) for _ in range(count)]


def test_published_vectors(tokenizer: QwenTokenizer) -> None:
    assert len(vectors()) >= 40
    for text, ids in vectors():
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text


def test_vocab_and_merges_make_the_same_tokenizer(tokenizer: QwenTokenizer, tmp_path: Path) -> None:
    older = QwenTokenizer.from_pretrained(unpack_vocab_and_merges(tmp_path))
    assert older.vocab_size == tokenizer.vocab_size
    assert older.special_ids == tokenizer.special_ids
    for text, ids in vectors():
        assert older.encode(text) == ids
    for alphabet in ALPHABETS:
        for text in random_texts(alphabet, 50):
            assert older.encode(text, allow_special=True) == tokenizer.encode(text, allow_special=True)


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_agrees_with_the_original_on_random_text(
    tokenizer: QwenTokenizer, original: tokenizers.Tokenizer, alphabet: str
) -> None:
    for text in random_texts(alphabet, 500):
        assert tokenizer.encode(text, allow_special=True) == original.encode(text).ids, repr(text)


def test_agrees_with_the_original_on_any_mixture(tokenizer: QwenTokenizer, original: tokenizers.Tokenizer) -> None:
    rng = random.Random(0)
    everything = [piece for pieces in ALPHABETS.values() for piece in pieces]
    for _ in range(3000):
        text = "".join(rng.choices(everything, k=rng.randint(1, 40)))
        ids = tokenizer.encode(text, allow_special=True)
        assert ids == original.encode(text).ids, repr(text)
        assert tokenizer.decode(ids) == original.decode(ids, skip_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=True) == original.decode(ids, skip_special_tokens=True)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cn"]), max_size=40))
def test_agrees_with_the_original_on_any_characters(
    tokenizer: QwenTokenizer, original: tokenizers.Tokenizer, text: str
) -> None:
    assert tokenizer.encode(text, allow_special=True) == original.encode(text).ids


def test_special_tokens_only_where_allowed(tokenizer: QwenTokenizer) -> None:
    text = "a<|im_end|><think>b"
    assert {IM_END, THINK} <= set(tokenizer.encode(text, allow_special=True))
    plain = tokenizer.encode(text)
    assert max(plain) < 151643
    assert tokenizer.decode(plain) == text


def test_decoding_skips_special_tokens_but_keeps_the_others(tokenizer: QwenTokenizer) -> None:
    ids = tokenizer.encode("<think>x</think><|im_end|>", allow_special=True)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>x</think>"
    assert IM_END in tokenizer.special_ids
    assert THINK not in tokenizer.special_ids


def test_single_tokens(tokenizer: QwenTokenizer) -> None:
    assert tokenizer.token_to_id("<|im_end|>") == IM_END
    assert tokenizer.token_to_id("Hello") == tokenizer.encode("Hello")[0]
    assert tokenizer.token_to_id("no single token at all") is None
    assert tokenizer.token_bytes(IM_END) == b"<|im_end|>"
    assert tokenizer.vocab_size == 151669


def test_unknown_ids_and_lone_surrogates_are_named(tokenizer: QwenTokenizer) -> None:
    with pytest.raises(TokenizerError, match="151669"):
        tokenizer.decode([1, 151669])
    with pytest.raises(TokenizerError, match="surrogate at character 1"):
        tokenizer.encode("a\ud800")


def test_long_texts_without_a_break_take_no_longer(tokenizer: QwenTokenizer) -> None:
    text = "a" * 200_000
    started = time.process_time()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - started < 20  # quadratic merging would take many minutes


def edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(raw)
        (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")

    return edit


def small_tokenizer(folder: Path) -> None:
    """A tokenizer.json of bytes and one merge, quick to damage."""
    unpack_tokenizer_json(folder)

    def shrink(raw: dict) -> None:
        vocab = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].get)[:257]
        raw["model"] |= {"vocab": {token: i for i, token in enumerate(vocab)}, "merges": raw["model"]["merges"][:1]}
        raw["added_tokens"] = raw["added_tokens"][:1]

    edited(shrink)(folder)


WRONG = {
    "not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "not JSON"),
    "not UTF-8": (lambda f: (f / "tokenizer.json").write_bytes(b"\xff"), "can't be read"),
    "no model": (edited(lambda r: r.pop("model")), "model"),
    "other model": (edited(lambda r: r["model"].update(type="Unigram")), "Unigram"),
    "byte fallback": (edited(lambda r: r["model"].update(byte_fallback=True)), "byte_fallback"),
    "other normalizer": (edited(lambda r: r.update(normalizer={"type": "NFKC"})), "NFKC"),
    "other splitting": (edited(lambda r: r.update(pre_tokenizer={"type": "Whitespace"})), "Whitespace"),
    "stripping token": (edited(lambda r: r["added_tokens"][0].update(lstrip=True)), "lstrip"),
    "empty vocabulary": (edited(lambda r: r["model"].update(vocab={})), "vocabulary"),
    "byte missing": (edited(lambda r: r["model"]["vocab"].pop("a")), "'a'"),
    "merge to nothing": (edited(lambda r: r["model"]["merges"].append(["a", "zz"])), "'azz'"),
    "broken merges": (edited(lambda r: r["model"].update(merges=[["a"]])), "merges"),
    "no files": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_damaged_or_unsupported_files_are_named(tmp_path: Path, kind: str) -> None:
    small_tokenizer(tmp_path)
    assert QwenTokenizer.from_pretrained(tmp_path).vocab_size > 256
    damage, expected = WRONG[kind]
    damage(tmp_path)
    with pytest.raises(TokenizerError, match=expected) as caught:
        QwenTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value) or kind in ("byte missing", "merge to nothing")
