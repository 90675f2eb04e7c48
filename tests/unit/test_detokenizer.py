"""The streaming detokenizer: its pieces add up, and none ends inside a character."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_layer.tokenizer import QwenTokenizer, StreamingDetokenizer
from tests.unit.qwen_files import unpack_tokenizer_json

TEXTS = [
    "plain English, nothing else",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\U00020000\U0002a6d6",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f4\U000e0067\U000e0062\U000e007f \u2764\ufe0f",
    "e\u0301\u0323 \u0928\u093f \u0e01\u0e33",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> QwenTokenizer:
    return QwenTokenizer.from_pretrained(unpack_tokenizer_json(tmp_path_factory.mktemp("qwen")))


def pieces(tokenizer: QwenTokenizer, ids: list[int]) -> list[str]:
    stream = StreamingDetokenizer(tokenizer, skip_special_tokens=False)
    return [*(stream.push(i) for i in ids), stream.flush()]


def splits(tokenizer: QwenTokenizer, text: str, rng: random.Random) -> list[int]:
    """Token ids of the text, cut at random bytes: every way a model could spell it."""
    data, ids = text.encode(), []
    byte_ids = {tokenizer.token_bytes(i): i for i in range(256)}
    while data:
        cut = rng.randint(1, len(data))
        try:
            ids += tokenizer.encode(data[:cut].decode())
        except UnicodeDecodeError:
            ids += [byte_ids[bytes([byte])] for byte in data[:cut]]
        data = data[cut:]
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_every_way_of_splitting_a_text(tokenizer: QwenTokenizer, text: str) -> None:
    rng = random.Random(text)
    for _ in range(100):
        ids = splits(tokenizer, text, rng)
        parts = pieces(tokenizer, ids)
        if tokenizer.decode(ids) == text:  # NFC may have joined what the cut parted
            assert "".join(parts) == text
        assert "".join(parts) == tokenizer.decode(ids)
        assert "\ufffd" not in "".join(parts)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 151642), max_size=30))
def test_any_tokens_add_up_to_their_decoding(tokenizer: QwenTokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_add_up_to_their_decoding(tokenizer: QwenTokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_waits_until_it_is_whole(tokenizer: QwenTokenizer) -> None:
    byte_ids = {tokenizer.token_bytes(i): i for i in range(256)}
    ids = [byte_ids[bytes([byte])] for byte in "a\U0001f469b".encode()]
    assert pieces(tokenizer, ids) == ["a", "", "", "", "\U0001f469", "b", ""]
    assert pieces(tokenizer, ids[:3]) == ["a", "", "", "\ufffd"]


def test_special_tokens_and_padding_of_the_vocabulary_are_silent(tokenizer: QwenTokenizer) -> None:
    stream = StreamingDetokenizer(tokenizer)
    ids = tokenizer.encode("<think>a<|im_end|>", allow_special=True)
    assert "".join(stream.push(i) for i in [*ids, 151800]) == "<think>a"
