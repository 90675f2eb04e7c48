"""The real Qwen tokenizer's files, unpacked for a test."""

import json
import lzma
import shutil
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data" / "qwen-tokenizer"


def unpack_tokenizer_json(folder: Path) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(lzma.decompress((DATA / "tokenizer.json.xz").read_bytes()))
    shutil.copy(DATA / "tokenizer_config.json", folder)
    return folder


def unpack_vocab_and_merges(folder: Path) -> Path:
    """The same tokenizer in the older files: vocab.json, merges.txt and tokenizer_config.json."""
    unpack_tokenizer_json(folder)
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(raw["model"]["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in raw["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return folder


def vectors() -> list[tuple[str, list[int]]]:
    """Texts and their token ids."""
    texts = (DATA / "vectors.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (DATA / "vectors.out").read_text(encoding="utf-8").splitlines()
    assert texts.pop() == ""  # a separator ends the file
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=True)]
