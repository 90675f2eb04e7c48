"""The comparison with other engines: its arithmetic, and that setting up goes on where it ended."""

import json
import sys
from pathlib import Path

import pytest

from tests.performance.peers.in_turn import take_turns
from tests.performance.peers.process import Program, ProgramError, run_watched
from tests.performance.peers.report import Machine, Result, medians, page, table
from tests.performance.peers.setup import PeerSetup, SetupError
from tests.performance.peers.workload import RATES

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Machine("a CPU", 2, bandwidth=50e9, rates={"bf16": 400e9, "int8": 800e9}, flops_per_token=1e9)
FIGURES = dict.fromkeys(RATES, 100.0) | {"start": 1.5, "peak": 2.0**31}
RESULT = Result(
    MACHINE,
    rounds=3,
    systems={
        "MILI bf16": {"arithmetic": "bf16", "weight_bytes": 1e9, **FIGURES},
        "MILI int8": {"arithmetic": "int8", "weight_bytes": 0.5e9, **FIGURES},
    },
    missing={"another": "it is not here"},
)


def test_shares_of_the_nearer_bound() -> None:
    assert RESULT.fraction("MILI bf16", "prefill_512") == pytest.approx(100 / 400)
    assert RESULT.fraction("MILI int8", "prefill_512") == pytest.approx(100 / 800)
    assert RESULT.fraction("MILI bf16", "decode_1") == pytest.approx(100 / 50)  # 50 GB/s, 1 GB a step
    assert RESULT.fraction("MILI int8", "decode_1") == pytest.approx(100 / 100)
    assert RESULT.fraction("MILI bf16", "decode_16") == pytest.approx(100 / 400)  # reading would allow 800


def test_the_page_has_every_figure_and_what_is_missing() -> None:
    row = next(line for line in table(RESULT) if line.startswith("| MILI int8"))
    assert row.split(" | ")[1:] == ["100 (12%)"] * 3 + ["100 (100%)", "100 (12%)", "100 (12%)", "1.5 s", "2.00 GiB |"]
    text = page(RESULT, "images/peers.png")
    assert "- another: it is not here" in text and "50.0 GB/s" in text and "images/peers.png" in text


def test_a_result_survives_json() -> None:
    assert Result.of_json(json.loads(json.dumps(RESULT.to_json()))) == RESULT


def test_medians() -> None:
    assert medians([{"a": 1.0, "b": 5.0}, {"a": 9.0, "b": 6.0}, {"a": 2.0, "b": 4.0}]) == {"a": 2.0, "b": 5.0}


def test_the_peak_of_a_program() -> None:
    hold = "import time; x = bytearray(b'1') * (200 << 20); time.sleep(0.3); del x; time.sleep(0.3); print('done')"
    out, peak = run_watched([sys.executable, "-c", hold])
    assert out == "done\n"
    assert 200 << 20 < peak < 260 << 20


@pytest.mark.parametrize("command", [[sys.executable, "-c", "raise SystemExit('no such thing')"], ["/nowhere/x"]])
def test_a_program_that_fails_is_named(command: list[str]) -> None:
    with pytest.raises(ProgramError, match=r"python.* ended with 1: no such thing|/nowhere/x: No such file"):
        run_watched(command)


STAYING = """
import workload
class Fixed:
    weight_bytes = 1
    def first_token(self, prompt): return len(prompt) / 500
    def decode(self, prompts, tokens): return tokens / 10
    def settle(self): print("settled")
workload.measure(Fixed(), workload.options())
"""


def test_a_system_that_stays_measures_what_it_is_asked_for() -> None:
    command = [sys.executable, "-c", STAYING, "model", "--threads", 1, "--started", 0, "--in-turn"]
    program = Program(command, {"PYTHONPATH": str(ROOT / "tests/performance/peers")})
    assert [program.rate(name) for name in ("prefill_128", "decode_8", "decode_1")] == [500, 80, 10]
    with pytest.raises(ProgramError, match=r"python.* ended with 1: ValueError"):
        program.rate("decode_many")
    program.close()  # it is already
    with pytest.raises(ProgramError, match=r"/nowhere/x: No such file"):
        Program(["/nowhere/x"], {})


class Wandering:
    """A system on a machine that becomes slower with each measurement of any."""

    def __init__(self, speed: float, asked: list[str]) -> None:
        self._speed, self._asked = speed, asked

    def rate(self, name: str) -> float:
        self._asked.append(name)
        return self._speed / len(self._asked)

    def close(self) -> None:
        """Nothing is left to end."""


def test_systems_in_turn() -> None:
    asked: list[str] = []
    turns = take_turns({"a": Wandering(200, asked), "b": Wandering(100, asked)}, 2, lambda text: None)
    assert asked == [name for name in RATES for _ in range(2)] * 2
    first = RATES[0]
    assert turns.rates["a"][first] == [200, 200 / (2 * len(RATES) + 2)]  # it comes second in the second round
    ratios = [2 * 2, 2 * (2 * len(RATES) + 1) / (2 * len(RATES) + 2)]
    assert turns.ratio("b", first) == pytest.approx(sum(ratios) / 2)
    assert turns.table()[2].startswith("| a | 107 |")
    assert turns.table()[3].startswith(f"| b | {(50 + 100 / 13) / 2:.1f} ({sum(ratios) / 2:.2f}) |")


def test_setting_up_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("tests.performance.peers.setup.PACKAGES", {"openvino": ("--no-index", "mili-no-such-package")})
    setup = PeerSetup(tmp_path, notes.append)
    for _ in range(2):
        with pytest.raises(SetupError, match=r"ended with 1; see .*openvino\.log"):
            setup.python("openvino")
    assert len(notes) == 1  # a failure is not tried again in this run
    monkeypatch.setattr("tests.performance.peers.setup.PACKAGES", {"openvino": ("--help",)})
    again = PeerSetup(tmp_path, notes.append)
    assert again.python("openvino") == again.python("openvino") == tmp_path / "openvino" / "bin" / "python"
    assert len(notes) == 2
