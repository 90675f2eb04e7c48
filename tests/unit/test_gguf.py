"""GGUF files: tensors, configuration and tokenizer against ggml's own package, and files that are broken."""

import contextlib
import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from python_layer.model.checkpoint import open_checkpoint
from python_layer.model.config import Qwen3Config, RopeConfig
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.quantized import QuantFormat
from python_layer.model.tensor_source import TensorSource
from python_layer.model.weight_loader import WeightLoader
from python_layer.model.weight_spec import WeightSpec
from python_layer.tokenizer import ChatTemplate, QwenTokenizer
from python_layer.tokenizer.qwen_tokenizer import byte_characters
from python_layer.utils.errors import ConfigError, MiliError, TokenizerError, WeightError
from python_layer.utils.gguf_file import GgufFile
from tests.unit.gguf_writer import (
    Stored,
    config_metadata,
    exact,
    random_blocks,
    stored,
    tokenizer_metadata,
    write_gguf,
)
from tests.unit.qwen_files import unpack_tokenizer_json, vectors

FORMATS = {
    "Q8_0": QuantFormat(8, 32, False),
    "Q4_0": QuantFormat(4, 32, False),
    "Q4_K": QuantFormat(4, 32, True),
    "Q6_K": QuantFormat(8, 32, False),
}


def opened(folder: Path, tensor: Stored) -> TensorSource:
    return open_checkpoint(write_gguf(folder / "x.gguf", {"x": tensor})).tensors["x"]


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_are_decoded_as_the_package_does(tmp_path: Path, kind: str) -> None:
    tensor = random_blocks(kind, 37, 512)
    source = opened(tmp_path, tensor)
    assert source.shape == (37, 512) and source.format == FORMATS[kind] and source.nbytes == tensor[1].nbytes
    expected = exact(tensor)
    np.testing.assert_allclose(source.rows(0, 37), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(source.rows(3, 20), source.rows(0, 37)[3:20])


@pytest.mark.parametrize("kind", FORMATS)
def test_quantized_rows_of_blocks(tmp_path: Path, kind: str) -> None:
    tensor = random_blocks(kind, 37, 512, seed=1)
    rows = opened(tmp_path, tensor).quantized(2, 30)
    assert rows.format == FORMATS[kind]
    expected = exact(tensor)[2:30].astype(np.float64)
    error = np.abs(rows.dequantize() - expected).reshape(28, -1, 32).max(2)
    if kind in ("Q8_0", "Q4_0"):
        assert error.max() == 0
    elif kind == "Q4_K":  # scales and offsets are rounded to float16, to half of 2**-10
        assert rows.offsets is not None
        bound = 15 * np.abs(rows.scales.astype(float)) + np.abs(rows.offsets.astype(float))
        assert (error <= bound * 2**-11 * 1.01).all()
    else:  # half a step of 1/127 of the largest, and the scale's rounding
        largest = np.abs(expected).reshape(28, -1, 32).max(2)
        assert (error <= largest * (0.5 / 127 + 2**-11) * 1.01).all()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_tensors(tmp_path: Path, kind: str) -> None:
    tensor = stored(np.random.default_rng(0).standard_normal((5, 48), np.float32), kind)
    write_gguf(tmp_path / "x.gguf", {"x": tensor, "norm": stored(np.ones(3, np.float32), "F32")})
    specs = [WeightSpec("w", (5, 48), (("x", (5, 48)),)), WeightSpec("n", (3,), (("norm", (3,)),))]
    weights = WeightLoader(tmp_path).load(specs, "float32")
    np.testing.assert_array_equal(weights["w"], exact(tensor))
    np.testing.assert_array_equal(weights["n"], np.ones(3))


# --- configuration ------------------------------------------------------------------------------------------

RAW = json.loads((DEFAULT_MODEL / "config.json").read_text(encoding="utf-8"))
EMBEDDING = {"token_embd.weight": stored(np.zeros((RAW["vocab_size"], RAW["hidden_size"]), np.float32), "BF16")}


def config_of(folder: Path, tensors: dict[str, Stored] | None = None, **changes: Any) -> Qwen3Config:
    """The configuration of a file with the embedded model's metadata; ``changes`` name keys with _ for dots."""
    metadata = config_metadata(RAW) | {f"qwen3.{key.replace('__', '.')}": value for key, value in changes.items()}
    given = {key: value for key, value in metadata.items() if value is not None}
    return Qwen3Config.from_pretrained(write_gguf(folder / "x.gguf", EMBEDDING | (tensors or {}), given))


def test_the_configuration_is_that_of_the_folder(tmp_path: Path) -> None:
    metadata = config_metadata(RAW) | tokenizer_metadata(DEFAULT_MODEL, RAW["vocab_size"])
    file = write_gguf(tmp_path / "x.gguf", EMBEDDING, metadata)
    assert Qwen3Config.from_pretrained(file) == Qwen3Config.from_pretrained(DEFAULT_MODEL)


def test_what_tensors_say_about_the_configuration(tmp_path: Path) -> None:
    matrix = np.zeros((2, 32), np.float32)
    assert config_of(tmp_path).tie_word_embeddings
    assert not config_of(tmp_path, {"output.weight": stored(matrix, "BF16")}).tie_word_embeddings
    assert config_of(tmp_path, {"blk.0.attn_q.bias": stored(matrix[0], "F32")}).attention_bias
    assert config_of(tmp_path, {"token_embd.weight": stored(matrix, "F16")}).dtype == "float16"
    assert config_of(tmp_path, {"token_embd.weight": stored(matrix, "F32")}).vocab_size == 2
    assert config_of(tmp_path, {"blk.0.attn_q.weight": stored(matrix, "Q8_0")}).dtype == "bfloat16"


def test_rope_scaling(tmp_path: Path) -> None:
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}
    yarn |= {"rope__scaling__original_context_length": 512, "rope__scaling__finetuned": True}
    expected = RopeConfig(theta=10000.0, type="yarn", factor=4.0, original_max_position_embeddings=512)
    assert config_of(tmp_path, **yarn).rope == expected
    assert config_of(tmp_path, rope__scaling__type="none").rope == RopeConfig(theta=10000.0)
    with pytest.raises(ConfigError, match=r"rope_scaling\.attn_factor is not a field of the supported rope types"):
        config_of(tmp_path, **yarn, rope__scaling__attn_factor=0.5)


def test_the_head_size_follows_from_the_width_where_it_is_not_said(tmp_path: Path) -> None:
    assert config_of(tmp_path, attention__key_length=None, attention__value_length=None).head_dim == 64
    with pytest.raises(ConfigError, match="has heads of 64 for keys and of another size for values"):
        config_of(tmp_path, attention__value_length=128)


def test_another_architecture_and_missing_fields_are_named(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.gguf", EMBEDDING, {"llama.block_count": 2}, architecture="llama")
    with pytest.raises(ConfigError, match=r"model_type is 'llama'; supported: qwen3; .*hidden_size is missing"):
        Qwen3Config.from_pretrained(file)


# --- tokenizer ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The real Qwen tokenizer, as a folder and as a GGUF file."""
    folder = unpack_tokenizer_json(tmp_path_factory.mktemp("qwen"))
    return folder, write_gguf(folder / "x.gguf", EMBEDDING, tokenizer_metadata(folder, 151936))


def test_the_tokenizer_is_that_of_the_folder(qwen: tuple[Path, Path]) -> None:
    folder, file = qwen
    ours, theirs = QwenTokenizer.from_pretrained(file), QwenTokenizer.from_pretrained(folder)
    assert (ours.vocab_size, ours.special_ids, ours.added_ids) == (
        theirs.vocab_size,
        theirs.special_ids,
        theirs.added_ids,
    )
    for text, ids in vectors():
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids)
    chat = "<|im_start|>user\n<think>e\u0301</think><|im_end|>"
    assert ours.encode(chat, allow_special=True) == theirs.encode(chat, allow_special=True)


def test_the_chat_template_is_that_of_the_folder(qwen: tuple[Path, Path]) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    rendered = [ChatTemplate.from_pretrained(path).render(messages) for path in qwen]
    assert rendered[0] == rendered[1] and "<|im_start|>user\nHello" in rendered[0]
    file = write_gguf(qwen[0] / "v.gguf", EMBEDDING, {
        "tokenizer.chat_template": "{{ eos_token }}{{ bos_token }}",
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.eos_token_id": 1,
    })  # fmt: skip
    assert ChatTemplate.from_pretrained(file).render([]) == "bNone"


TINY = tokenizer_metadata(DEFAULT_MODEL, RAW["vocab_size"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "llama"}, r"tokenizer\.ggml\.model is 'llama'; supported: 'gpt2'"),
        ({"pre": "llama-bpe"}, r"tokenizer\.ggml\.pre is 'llama-bpe'; supported: 'qwen2'"),
        ({"add_bos_token": True}, r"add_bos_token is true, which is not supported"),
        ({"tokens": None}, r"lacks tokenizer\.ggml\.tokens or"),
        ({"merges": [1, 2]}, r"lacks tokenizer\.ggml\.tokens or tokenizer\.ggml\.merges, or they are no texts"),
        ({"merges": ["a b c"]}, r"merges that are not pairs"),
        ({"merges": ["Ġ absent"]}, r"vocabulary lacks 'Ġabsent'"),
        ({"token_type": [1, 2]}, r"no tokenizer\.ggml\.token_type for each of its 2048 tokens"),
        ({"token_type": [6] * 2048}, r"tokens of type 6, which byte-level BPE does not have"),
    ],
)
def test_a_tokenizer_that_is_not_qwens_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    changed = TINY | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    given = {key: value for key, value in changed.items() if value is not None}
    with pytest.raises(TokenizerError, match=expected):
        QwenTokenizer.from_pretrained(write_gguf(tmp_path / "x.gguf", EMBEDDING, given))


def test_a_file_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no chat template, tokenizer\.chat_template"):
        ChatTemplate.from_pretrained(write_gguf(tmp_path / "x.gguf", EMBEDDING))


# --- broken files -------------------------------------------------------------------------------------------


def small(folder: Path) -> Path:
    """A file of every kind of metadata and a few tensors."""
    metadata = {"a.text": "Grüße", "a.flag": True, "a.number": 7, "a.real": 0.5, "a.list": [1, 2], "a.texts": ["", "b"]}
    tensors = {"x": stored(np.ones((3, 64), np.float32), "Q8_0"), "y": stored(np.ones(5, np.float32), "F32")}
    return write_gguf(folder / "x.gguf", tensors, metadata)


def test_the_header(tmp_path: Path) -> None:
    file = GgufFile(small(tmp_path))
    ours = {key: value for key, value in file.metadata.items() if key.startswith("a.")}
    texts = {"a.text": "Grüße", "a.texts": ["", "b"]}
    assert ours == texts | {"a.flag": True, "a.number": 7, "a.real": 0.5, "a.list": [1, 2]}
    assert file.entries["x"].shape == (3, 64) and file.entries["x"].type.name == "Q8_0"
    assert file.entries["y"].shape == (5,) and file.entries["y"].end - file.entries["y"].begin == 20


def error_of(content: bytes, folder: Path) -> str:
    (folder / "broken.gguf").write_bytes(content)
    with pytest.raises(WeightError) as caught:
        GgufFile(folder / "broken.gguf")
    return str(caught.value)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = small(tmp_path).read_bytes()
    last = GgufFile(tmp_path / "x.gguf").entries["y"].end  # padding follows
    for end in [*range(0, last, 7), last - 1]:
        message = error_of(content[:end], tmp_path)
        assert message.startswith("broken.gguf ") and "\n" not in message


def test_damaged_bytes_never_surprise(tmp_path: Path) -> None:
    """Any change is either harmless or named: no other exception, no endless reading."""
    content, rng = small(tmp_path).read_bytes(), Random(0)
    refused = 0
    for _ in range(500):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "broken.gguf").write_bytes(changed)
        try:
            GgufFile(tmp_path / "broken.gguf")
        except WeightError:
            refused += 1
    assert refused > 50


def test_damaged_metadata_never_surprises(tmp_path: Path) -> None:
    """Likewise for what is made of it: configuration, tokenizer and template."""
    vocabulary = list(byte_characters().values())
    metadata = config_metadata(RAW) | {
        **{f"tokenizer.ggml.{key}": value for key, value in {"model": "gpt2", "pre": "qwen2"}.items()},
        "tokenizer.ggml.tokens": [*vocabulary, "<|im_end|>"],
        "tokenizer.ggml.token_type": [1] * 256 + [3],
        "tokenizer.ggml.merges": [" ".join(vocabulary[:2])],
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.chat_template": "{{ messages }}",
    }
    metadata["tokenizer.ggml.tokens"].append("".join(vocabulary[:2]))
    metadata["tokenizer.ggml.token_type"].append(1)
    file = write_gguf(
        tmp_path / "x.gguf", {"token_embd.weight": stored(np.ones((258, 32), np.float32), "Q8_0")}, metadata
    )
    content, rng, refused = file.read_bytes(), Random(1), 0
    readers = (Qwen3Config.from_pretrained, QwenTokenizer.from_pretrained, ChatTemplate.from_pretrained)
    for reader in readers:
        reader(file)
    for _ in range(300):
        changed = bytearray(content)
        changed[rng.randrange(GgufFile(file).entries["token_embd.weight"].begin)] ^= 1 << rng.randrange(8)
        (tmp_path / "broken.gguf").write_bytes(changed)
        for reader in readers:
            try:
                reader(tmp_path / "broken.gguf")
            except MiliError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "key", ["split.count", "general.alignment", "tokenizer.ggml.tokens", "tokenizer.ggml.eos_token_id"]
)
def test_metadata_of_another_type_is_refused_or_ignored(tmp_path: Path, key: str) -> None:
    file = write_gguf(tmp_path / "x.gguf", EMBEDDING, config_metadata(RAW) | {key: "text"})
    for reader in (Qwen3Config.from_pretrained, QwenTokenizer.from_pretrained, ChatTemplate.from_pretrained):
        with contextlib.suppress(MiliError):
            reader(file)


def test_what_is_no_gguf_file_or_not_a_whole_one(tmp_path: Path) -> None:
    good = small(tmp_path).read_bytes()
    assert error_of(b"", tmp_path) == "broken.gguf has 0 bytes; it is empty or cut off"
    assert error_of(b"PK" + good, tmp_path).endswith("is no GGUF file: it does not begin with GGUF")
    assert "of version 1; supported: 2 and 3" in error_of(b"GGUF" + struct.pack("<I", 1) + good[8:], tmp_path)
    assert "of version 50331648" in error_of(b"GGUF" + struct.pack(">I", 3) + good[8:], tmp_path)
    assert "a.flag is there twice" in error_of(good.replace(b"a.text\x08", b"a.flag\x08", 1), tmp_path)
    huge = good.replace(struct.pack("<Q", 6) + b"a.text", struct.pack("<Q", 1 << 62) + b"a.text")
    assert "4,611,686,018,427,387,904 bytes are announced" in error_of(huge, tmp_path)
    split = write_gguf(tmp_path / "s.gguf", {}, {"split.count": 3}).read_bytes()
    assert error_of(split, tmp_path).endswith("is one of 3 parts; join them with llama-gguf-split --merge")
    with pytest.raises(WeightError, match=r"none\.gguf can't be opened: No such file"):
        GgufFile(tmp_path / "none.gguf")


def test_tensors_that_overlap(tmp_path: Path) -> None:
    file = small(tmp_path)
    good, entries = file.read_bytes(), GgufFile(file).entries
    offset = struct.pack("<Q", entries["y"].begin - entries["x"].begin)
    assert good.count(offset) == 1
    assert "x and y overlap" in error_of(good.replace(offset, struct.pack("<Q", 32)), tmp_path)


def test_types_that_are_not_supported_and_all_else_in_one_message(tmp_path: Path) -> None:
    q5 = random_blocks("Q5_K", 2, 256)
    q8 = stored(np.ones((2, 64), np.float32), "Q8_0")
    file = write_gguf(tmp_path / "x.gguf", {"blk.0.attn_q.weight": q5, "blk.0.attn_k.weight": q8, "blk.0.x.weight": q8})
    names = {name: f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkv"}
    specs = [WeightSpec(name, (2, 256), ((full, (2, 256)),)) for name, full in names.items()]
    with pytest.raises(WeightError) as caught:
        WeightLoader(file).check(specs)
    assert str(caught.value).removeprefix(f"the weights in {file} can't be used: ").split("; ") == [
        "blk.0.attn_q.weight has type Q5_K",
        "supported: F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K",
        f"{names['k']} has shape [2, 64], but the configuration asks for [2, 256]",
        f"{names['v']} is missing",
        "blk.0.x.weight is unexpected",
    ]
