"""The GPU benchmark: its arithmetic, its report, and what its peers compute; no test measures anything."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from python_layer.model.compile_cache import CompileCache
from python_layer.model.device import CPU_DEVICE
from tests.performance import benchmark_gpu
from tests.performance.engine_run import Arrivals
from tests.performance.gpu import kernels, models
from tests.performance.gpu.contest import OURS, Case, Contender, Once, Outcome, UnavailableError, contest
from tests.performance.gpu.numbers import bfloat16_bits, widened
from tests.performance.gpu.place import Place
from tests.performance.gpu.report import plot, text
from tests.performance.gpu.result import Result
from tests.performance.gpu.sizes import QWEN3_8B, SMALL
from tests.performance.gpu.targets import TARGETS, Target
from tests.performance.gpu.torch_ops import INSTALL, TorchPlace
from tests.performance.gpu.transformers_model import TransformersModel
from tests.performance.gpu.work import AttentionWork, LinearWork
from tests.random_model import ensure_random_model
from tests.unit.kernels import reference


def outcome(name: str, bound: str, work: float, tokens: int = 0, **seconds: float) -> Outcome:
    return Outcome(name, bound, work, tokens, {label.replace("_", " "): taken for label, taken in seconds.items()})


RESULT = Result(
    device="a GPU",
    versions={"mili": "1", "torch": "not installed"},
    rounds=3,
    outcomes=[
        outcome("copy", "copy", 8e9, MAX=2e-3, torch=4e-3),
        outcome("matmul", "matmul", 1e12, torch=2e-3),
        Outcome(
            "attention, prompt of 8192", "matmul", 1e12, 0, {OURS: 4e-3, "torch flash": 5e-3, "torch math": 9e-3},
            {"torch cuDNN": "no such backend"}, {"torch flash": 1e-3, "torch math": math.nan},
        ),
        outcome("8B: decode of 1", "copy", 16e9, 1, MILI=6e-3, transformers=30e-3),
        outcome("8B: decode of 64", "copy", 20e9, 64, MILI=8e-3),
        outcome("8B: 512 + 128 tokens", "", 0, MILI=0.9),
    ],
    memory={"8B": 0.85},
    failures={"0.6B: memory": "it is not here"},
)  # fmt: skip


def test_contenders_take_turns_and_failures_are_named() -> None:
    turns: list[str] = []
    taken = {"a": iter([9.0, 1.0, 5.0, 2.0]), "b": iter([9.0, 3.0, 4.0, 5.0])}

    def make(name: str, result: list[float]) -> Callable[[], Contender]:
        def seconds() -> float:
            turns.append(name)
            return next(taken[name])

        return lambda: Contender(seconds, lambda: np.float32(result), lambda: turns.append(f"{name} closed"))

    def unavailable() -> Contender:
        raise UnavailableError("not installed")

    def breaks() -> float:
        if turns.count("c") == 2:
            raise RuntimeError("CUDA error: out of memory\nmore")
        turns.append("c")
        return 1.0

    makers = {"a": make("a", [2, -4]), "b": make("b", [2, -3]), "c": lambda: Contender(breaks), "d": unavailable}
    found = contest(Case("case", "copy", 7.0, makers, 3), rounds=3)
    assert turns == ["a", "b", "c", "a", "b", "c", "a", "b", "a", "b", "a closed", "b closed"]
    assert found.seconds == {"a": 2.0, "b": 4.0}  # medians, without the first turn, which warms up
    assert found.missing == {"c": "RuntimeError: CUDA error: out of memory", "d": "not installed"}
    assert found.differences == {"b": 0.25}
    assert (found.name, found.bound, found.work, found.tokens) == ("case", "copy", 7.0, 3)


def test_results_beside_nothing_but_zeros_differ() -> None:
    both = {name: Contender(lambda: 1.0, lambda name=name: np.float32([0, name])) for name in (0, 1)}
    assert math.isnan(
        contest(Case("case", "", 0, {f"{n}": lambda c=c: c for n, c in both.items()}), 1).differences["1"]
    )


def test_what_is_shared_is_made_once_or_fails_once() -> None:
    made: list[int] = []

    def fail() -> None:
        made.append(2)
        raise UnavailableError("no memory")

    good, bad = Once(lambda: made.append(1) or "value"), Once(fail)
    assert [good(), good(), good.made] == ["value"] * 3
    for _ in range(2):
        with pytest.raises(UnavailableError, match="no memory"):
            bad()
    assert made == [1, 2]


def test_limits_are_those_of_the_fastest_and_fractions_of_them() -> None:
    assert RESULT.limit("copy") == pytest.approx(4e12)
    assert RESULT.limit("matmul") == pytest.approx(5e14)
    assert RESULT.fraction(RESULT.outcomes[2], OURS) == pytest.approx(0.5)
    assert RESULT.fraction(RESULT.outcomes[3], OURS) == pytest.approx(16 / 24)
    assert RESULT.fraction(RESULT.outcomes[5], OURS) is None


def test_targets_are_met_or_not_or_not_measured() -> None:
    verdicts = {(t.case, t.figure): (t.reached(RESULT), t.line(RESULT).split("  ")[0].strip()) for t in TARGETS}
    assert verdicts["attention, prompt of 8192", "fraction"] == (pytest.approx(0.5), "met")  # just
    assert verdicts["attention, prompt of 8192", "torch"] == (pytest.approx(1.25), "met")
    assert verdicts["8B: decode of 1", "fraction"] == (pytest.approx(2 / 3), "NOT MET")
    assert verdicts["8B: decode of 64", "tokens/s"] == (pytest.approx(8000), "met")
    assert verdicts["8B: 512 + 128 tokens", "seconds"] == (0.9, "NOT MET")
    assert verdicts["8B", "memory"] == (0.85, "met")
    assert verdicts["0.6B: decode of 1", "tokens/s"] == (None, "not measured")
    assert sum(verdict == "not measured" for _, verdict in verdicts.values()) == len(TARGETS) - 6


def test_the_report_says_everything() -> None:
    lines = text(RESULT).splitlines()
    assert lines[0] == "a GPU; mili 1, torch not installed; medians of 3 rounds"
    assert "limit: copy, 4,000.0 GB/s" in lines and "limit: bfloat16 matrix product, 500.0 TFLOP/s" in lines
    [flash], [math_] = ([line.split() for line in lines if f"torch {name}" in line] for name in ("flash", "math"))
    assert flash == ["torch", "flash", "5,000.0", "us", "200.0", "TFLOP/s", "40.0%", "1.25", "x"]
    assert math_[-3:] == ["DIFFERS", "by", "nan"]
    assert any(" ".join(line.split()) == "transformers 30,000.0 us 33 tokens/s 13.3% 5.00 x" for line in lines)
    assert "  torch cuDNN                not measured: no such backend" in lines
    assert "8B: 85% of the memory in use" in lines and "0.6B: memory: not measured: it is not here" in lines
    assert "NOT MET       8B: 512 + 128 tokens: <= 0.8 seconds; is 0.9 seconds" in lines


def test_a_result_survives_json_and_becomes_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "result.json").write_text(json.dumps(RESULT.to_json()))
    read = json.loads((tmp_path / "result.json").read_text())
    assert read["fractions"]["8B: decode of 1"]["MILI"] == pytest.approx(2 / 3)
    assert Result.of_json(read).outcomes[3:] == RESULT.outcomes[3:]
    arguments = ["--from-json", str(tmp_path / "result.json"), "--plot", str(tmp_path / "a" / "plot.png")]
    assert benchmark_gpu.main(arguments) == 0
    assert capsys.readouterr().out.strip() == text(RESULT)
    plot(RESULT, tmp_path / "again.svg")
    drawn = (tmp_path / "again.svg").read_text()
    assert drawn.count("<!-- MILI 50% -->") == 1 and "<!-- 8B: decode of 64 -->" in drawn
    assert (tmp_path / "a" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--device", "cpu"], "--small to see whether it runs"), (["--rounds", "0"], "it must be 1 or more")],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark_gpu.parse(arguments)
    assert message in capsys.readouterr().err


def test_every_target_has_its_case(tmp_path: Path) -> None:
    place = Place(CPU_DEVICE, CompileCache(tmp_path))
    ops = kernels.Ops.of(CPU_DEVICE, QWEN3_8B)
    names = {case.name for case in kernels.KernelCases(place, ops, QWEN3_8B).all()}
    for label, shape in benchmark_gpu.SHAPES.items():
        (tmp_path / label).mkdir()
        (tmp_path / label / "config.json").write_text(json.dumps(shape))
        cases = models.ModelCases(label, tmp_path / label, CPU_DEVICE, models.Lengths()).all()
        names |= {label, *(case.name for case in cases)}
        assert benchmark_gpu.checkpoint(str(tmp_path / label)) == (label, tmp_path / label)
    assert {target.case for target in TARGETS} <= names
    assert Target("no such case", "fraction", 1).reached(RESULT) is None


def test_work_of_a_model_is_its_weights_and_its_cache(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(benchmark_gpu.SHAPES["8B"]))
    cases = models.ModelCases("8B", tmp_path, CPU_DEVICE, models.Lengths()).all()
    work = {case.name: case.work for case in cases}
    layers = 36 * (4096 * (4096 + 2048) + 4096 * 4096 + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128) + 4096
    assert work["8B: prompt of 2048"] == 2048 * 2 * layers
    assert work["8B: decode of 64"] == 2 * (layers + 151936 * 4096) + 64 * 576 * 36 * 2 * 1024 * 2


def test_rounds_of_decoding_are_counted_while_all_decode() -> None:
    # The first request decodes twice before the second begins, and ends one step before it.
    arrivals = Arrivals([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3.0, 4.0, 5.0, 6.0, 7.0]], 7.5)
    assert arrivals.first == 3.0
    assert arrivals.per_round == pytest.approx(1.0)
    with pytest.raises(ValueError, match="ask for more tokens"):
        Arrivals([[1.0, 2.0], [3.0, 4.0]], 4.0).per_round  # noqa: B018


def test_numbers_are_bfloat16_of_unit_size() -> None:
    rows = widened(bfloat16_bits(3, 5, 64, unit=64)).astype(np.float64)
    np.testing.assert_allclose(np.sqrt((rows**2).mean(-1)), 1, rtol=4e-3)
    whole = widened(bfloat16_bits(1 << 20, seed=1, scale=0.5))
    assert whole.std() == pytest.approx(0.5, rel=1e-2) and abs(whole.mean()) < 2e-3
    np.testing.assert_array_equal(bfloat16_bits(2, 1 << 20)[0], bfloat16_bits(1 << 20))


def test_pairs_of_queries_and_keys() -> None:
    work = AttentionWork(SMALL, 2, 3, 10)
    assert work.pairs == 2 * (8 + 9 + 10) and work.rows == 6
    assert work.whole_context().pairs == 2 * 55


def test_without_torch_its_columns_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match=INSTALL):
        TorchPlace(CPU_DEVICE)


class TestTorch:
    """What PyTorch's contenders compute; where it is installed."""

    @pytest.fixture
    def place(self) -> TorchPlace:
        pytest.importorskip("torch")
        return TorchPlace(CPU_DEVICE)

    @staticmethod
    def result(contender: Contender) -> np.ndarray:
        assert contender.result is not None
        contender.seconds()
        return contender.result()

    @pytest.mark.parametrize("tokens", [1, 20])
    def test_attention(self, place: TorchPlace, tokens: int) -> None:
        work = AttentionWork(SMALL, 2, tokens, 20)
        found = self.result(place.attention(work, "flash")).reshape(2, tokens, SMALL.q_heads, SMALL.head_dim)
        q, k, v = (widened(x).astype(np.float64) for x in (work.queries(), work.keys(), work.values()))
        positions = np.arange(20 - tokens, 20)
        for r in range(2):
            wanted = reference.attention(q.reshape(found.shape)[r], k[r], v[r], positions)
            np.testing.assert_allclose(found[r], wanted, atol=1e-5)

    def test_store(self, place: TorchPlace) -> None:
        work = AttentionWork(SMALL, 1, 20, 20)
        heads = widened(work.qkv()).astype(np.float64)[:, : SMALL.q_size].reshape(20, SMALL.q_heads, SMALL.head_dim)
        half = SMALL.head_dim // 2
        wanted = reference.rotate(reference.rms_norm(heads, np.float64(1), 1e-6), np.arange(20), work_frequencies(half))
        np.testing.assert_allclose(self.result(place.store(work)).reshape(wanted.shape), wanted, atol=1e-4)

    def test_linear(self, place: TorchPlace) -> None:
        work = LinearWork(3, 50, 40)
        wanted = widened(work.x()).astype(np.float64) @ widened(work.w()).astype(np.float64).T
        np.testing.assert_allclose(self.result(place.linear(work, 2)), wanted, atol=1e-5)

    def test_steps_of_transformers_are_its_own_answers(self, place: TorchPlace, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        torch: Any = place.torch
        folder = ensure_random_model(tmp_path / "model")
        model = TransformersModel(folder, place)
        ids = torch.randint(0, 256, (3, 9), generator=torch.Generator().manual_seed(0))
        own = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        wanted = own.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        assert model.tokens(ids, 12, compiled=False).tolist() == wanted[:, 9:].tolist()
        assert model.tokens(ids, 12, compiled=False).tolist() == wanted[:, 9:].tolist()  # its cache is empty again


def work_frequencies(half: int) -> np.ndarray:
    return (1e6 ** (-np.arange(half) / half)).astype(np.float32)


def test_a_device_without_a_gpu_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("python_layer.model.device.accelerator_count", lambda: 0)
    assert benchmark_gpu.main(["--models"]) == 1
    assert "MAX finds no GPU on this machine" in capsys.readouterr().err


def test_installed_versions_are_named() -> None:
    found = SimpleNamespace(**benchmark_gpu.installed())
    assert found.max.startswith("26.") and found.torch
