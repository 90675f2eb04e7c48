"""The ``mili`` command and the examples, as a user runs them."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.cases import GOLDEN, golden_prompts
from tests.integration.server import mili
from tests.random_model import ensure_random_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A good checkpoint of its own for each test to damage."""
    return ensure_random_model(tmp_path / "model")


def test_json_agrees_with_transformers() -> None:
    golden = next(iter(golden_prompts(GOLDEN / "tied")))
    ids = ",".join(map(str, golden.prompt))
    arguments = ["--token-ids", ids, "--max-tokens", "9", "--logprobs", "3", "--ignore-eos", "--json"]
    result = mili("generate", "--model", GOLDEN / "tied", "--dtype", "float32", *arguments)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["tokens"] == golden.greedy[:9]
    assert answer["text"] is None  # the folder has no tokenizer
    assert len(answer["logprobs"]) == len(answer["top_logprobs"]) == 9
    for token, logprob, top in zip(answer["tokens"], answer["logprobs"], answer["top_logprobs"], strict=True):
        assert len(top) == 3
        assert top[0] == [token, logprob]


def test_text_prompt_prints_its_continuation() -> None:
    result = mili("generate", "Hello", "--max-tokens", "4", "--json")
    answer = json.loads(result.stdout)
    plain = mili("generate", "Hello", "--max-tokens", "4")
    assert plain.stdout == answer["text"] + "\n"
    assert len(answer["tokens"]) == 4


def test_seeds_and_temperature() -> None:
    def tokens(*arguments: str) -> list[int]:
        return json.loads(mili("generate", "x", "--temperature", "2", "--json", *arguments).stdout)["tokens"]

    assert tokens("--seed", "5") == tokens("--seed", "5")
    assert tokens("--seed", "5") != tokens("--seed", "6")
    assert tokens("--seed", "5", "--top-k", "1") == tokens("--seed", "6", "--top-p", "0.0001")


def test_info_reads_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    result = mili("info", "--model", checkpoint)
    assert result.returncode == 0, result.stderr
    assert "1,025,664" in result.stdout
    assert re.search(r"CPU path\s+(amx|avx512|avx2|neon|portable)", result.stdout)


def test_version() -> None:
    assert mili("--version").stdout == "0.1.0\n"


def edit_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_header(folder: Path, change: Callable[[dict], object]) -> None:
    """Rewrites the header of the weights; the data stays."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])


def truncate(folder: Path, name: str, keep: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "does not exist"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config no JSON": (lambda f: truncate(f, "config.json", 20), "config.json"),
    "other architecture": (lambda f: edit_config(f, model_type="llama"), "model_type"),
    "other activation": (lambda f: edit_config(f, hidden_act="gelu"), "hidden_act"),
    "odd head_dim": (lambda f: edit_config(f, head_dim=80), "head_dim"),
    "quantized": (lambda f: edit_config(f, quantization_config={"quant_method": "fp8"}), "quantization_config"),
    "unknown rope": (lambda f: edit_config(f, rope_scaling={"type": "magic", "factor": 2.0}), "magic"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "empty weights": (lambda f: truncate(f, "model.safetensors", 0), "model.safetensors"),
    "header cut off": (lambda f: truncate(f, "model.safetensors", 100), "model.safetensors"),
    "data cut off": (lambda f: truncate(f, "model.safetensors", 500_000), "model.safetensors"),
    "missing tensor": (
        lambda f: edit_config(f, num_hidden_layers=5),
        "model.layers.4.self_attn.q_proj.weight is missing",
    ),
    "unexpected tensor": (lambda f: edit_config(f, num_hidden_layers=3), "model.layers.3.mlp.down_proj.weight"),
    "misshaped tensor": (lambda f: edit_config(f, intermediate_size=385), "[384, 128]"),
    "integer tensor": (
        lambda f: edit_header(f, lambda h: h["model.norm.weight"].update(dtype="I16")),
        "model.norm.weight",
    ),
    "index to nowhere": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
        ),
        "x.safetensors",
    ),
    "tokenizer no JSON": (lambda f: truncate(f, "tokenizer.json", 50), "tokenizer.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_broken_folders_give_one_line_and_exit_code_1(checkpoint: Path, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    damage(checkpoint)
    result = mili("generate", "--model", checkpoint, "Hello")
    assert result.returncode == 1
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("mili: error: ")]
    assert len(errors) == 1, result.stderr
    assert expected in errors[0]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "a prompt or --token-ids"),
        (["x", "--token-ids", "1"], "a prompt or --token-ids"),
        (["--token-ids", "1,x"], "--token-ids"),
        (["--token-ids", "2048"], "from 0 to 2047"),
        (["x", "--max-tokens", "4096"], "4096"),
        (["x", "--max-tokens", "0"], "max_tokens"),
        (["x", "--temperature", "-1"], "temperature"),
        (["x", "--top-p", "2"], "top_p"),
        (["x", "--logprobs", "21"], "logprobs"),
        (["x", "--dtype", "int3"], "dtype"),
        (["x", "--page-size", "0"], "page_size"),
        (["x", "--threads", "9999"], "threads is 9999; this process may use"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], expected: str) -> None:
    result = mili("generate", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert expected in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_settings_from_the_environment_yield_to_flags() -> None:
    assert "temperature" in mili("generate", "x", MILI_TEMPERATURE="-1").stderr
    result = mili("generate", "x", "--json", "--max-tokens", "2", MILI_MAX_TOKENS="3")
    assert len(json.loads(result.stdout)["tokens"]) == 2
    result = mili("generate", "x", "--json", MILI_MAX_TOKENS="3")
    assert len(json.loads(result.stdout)["tokens"]) == 3


def test_an_unwritable_cache_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = mili("generate", "--model", GOLDEN / "tied", "--token-ids", "1", MILI_CACHE_DIR=str(blocked))
    assert result.returncode == 1
    assert "MILI_CACHE_DIR" in result.stderr


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("simple_generation.py", "The capital of France is Paris."),
        ("streaming_response.py", "fox"),
        ("batch_processing.py", "Tuesday comes after Monday."),
    ],
)
def test_examples_run_without_arguments(name: str, answer: str) -> None:
    result = subprocess.run([sys.executable, ROOT / "examples" / name], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert answer in result.stdout


def chat(*lines: str, arguments: tuple[str, ...] = ()) -> list[str]:
    """What ``mili chat`` prints after each prompt."""
    result = subprocess.run(
        [Path(sys.executable).with_name("mili"), "chat", *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
    )
    assert result.returncode == 0, result.stderr
    return [answer.strip() for answer in result.stdout.split("> ")[1:]]


def test_chat_remembers_until_it_is_reset() -> None:
    answers = chat("My name is Anna.", "What is my name?", "/reset", "/stats", "/exit", arguments=("--no-think",))
    assert answers[0] == "Nice to meet you, Anna!"
    assert answers[1] == "Your name is Anna."
    assert answers[3].startswith("0 answers")


def test_chat_commands(tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    question = "What is the capital of Spain?"
    answers = chat(
        "/think on", question, "/think off", "/system Answer in capital letters.", question, "/stats", f"/save {saved}",
        "/save /no/such/folder/x", "/nonsense",
    )  # fmt: skip
    assert "<think>" not in answers[1]
    assert answers[1].endswith("The capital of Spain is Madrid.")
    assert len(answers[1]) > len("The capital of Spain is Madrid.")  # the thought
    assert answers[4] == "THE CAPITAL OF SPAIN IS MADRID."
    assert answers[5].startswith("2 answers")
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2]
    assert "can't write" in answers[7]
    assert "/reset" in answers[8]  # the help


def test_config_tells_where_values_come_from() -> None:
    result = mili("config", "--json", MILI_TOP_K="7")
    settings = json.loads(result.stdout)
    assert settings["top_k"] == {"value": 7, "source": "MILI_TOP_K"}
    assert settings["port"] == {"value": 8000, "source": "config/server_config.yaml"}
    assert "config/inference_config.json" in mili("config", COLUMNS="200").stdout
    wrong = mili("config", MILI_TOPK="7")
    assert wrong.returncode == 1
    assert "MILI_TOPK" in wrong.stderr


def test_generate_answers_questions() -> None:
    assert mili("generate", "--chat", "What is the capital of France?").stdout == "The capital of France is Paris.\n"
    assert "--token-ids" in mili("generate", "--chat", "--token-ids", "1").stderr


def test_bench_measures_an_engine(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    result = mili("bench", "--requests", "5", "--concurrent", "2", "--max-tokens", "4", "--json", "--plot", plot)
    figures = json.loads(result.stdout)
    assert (figures["requests"], figures["errors"]) == (5, 0)
    assert 0 < figures["ttft_p50_ms"] <= figures["e2e_p50_ms"]
    assert plot.read_bytes().startswith(b"\x89PNG")
