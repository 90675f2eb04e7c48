"""What the runs measured: medians, as a table, a page and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.performance.peers.workload import BATCHES, PREFILLS, RATES

HEADINGS = [f"prefill {length}" for length in PREFILLS] + [f"decode x{count}" for count in BATCHES]


@dataclass(frozen=True)
class Machine:
    """What the machine can do at most, measured in the same session.

    Attributes:
        cpu: Its name.
        threads: Threads that everything ran with.
        bandwidth: Bytes read from memory per second.
        rates: "bf16" and "int8" -> operations per second of the products of that type.
        flops_per_token: Operations of a token of a prompt.
    """

    cpu: str
    threads: int
    bandwidth: float
    rates: dict[str, float]
    flops_per_token: float


@dataclass(frozen=True)
class Result:
    """A whole comparison.

    Attributes:
        machine: Where it was made.
        rounds: How often each variant ran, in turn with the others.
        systems: Name -> arithmetic and medians of the figures.
        missing: Name -> why it was not measured.
    """

    machine: Machine
    rounds: int
    systems: dict[str, dict[str, Any]]
    missing: dict[str, str]

    @staticmethod
    def of_json(values: Mapping[str, Any]) -> "Result":
        """The inverse of :meth:`to_json`."""
        return Result(**{**values, "machine": Machine(**values["machine"])})

    def to_json(self) -> dict[str, Any]:
        """An object for JSON."""
        return asdict(self)

    def fraction(self, name: str, rate: str) -> float:
        """A rate as a share of its bound: one request's decode by reading the weights, prefill by arithmetic.

        A decode of several requests is held against the nearer one of the two bounds.
        """
        system, machine = self.systems[name], self.machine
        arithmetic = machine.rates[system["arithmetic"]] / machine.flops_per_token
        if rate.startswith("prefill"):
            return float(system[rate] / arithmetic)
        reading = int(rate.removeprefix("decode_")) * machine.bandwidth / system["weight_bytes"]
        return float(system[rate] / min(reading, arithmetic))


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def tokens_per_second(rate: float) -> str:
    """A rate as tables show it."""
    return f"{rate:,.{0 if rate >= 100 else 1}f}"


def table(result: Result) -> list[str]:
    """Lines of a Markdown table: tokens/s with the share of the bound, then start and memory."""
    lines = [
        f"| system | {' | '.join(HEADINGS)} | first token | peak memory |",
        "|---" * (len(HEADINGS) + 3) + "|",
    ]
    for name, system in result.systems.items():
        rates = [f"{tokens_per_second(system[rate])} ({result.fraction(name, rate):.0%})" for rate in RATES]
        lines.append(f"| {name} | {' | '.join(rates)} | {system['start']:.1f} s | {system['peak'] / 2**30:.2f} GiB |")
    return lines


def page(result: Result, image: str) -> str:
    """docs/peers.md."""
    machine = result.machine
    rates = ", ".join(f"{rate / 1e12:.2f} T operations/s in {name}" for name, rate in machine.rates.items())
    lines = [
        "# MILI beside other engines",
        "",
        "Made by `make bench-peers`: every system runs the same random weights of Qwen3-0.6B's shape, one after the",
        f"other in each of {result.rounds} round{'s' if result.rounds > 1 else ''}; figures are medians of the rounds.",
        "",
        f"- Machine: {machine.cpu}, {machine.threads} threads. It reads {machine.bandwidth / 1e9:.1f} GB/s from memory",
        f"  and multiplies {rates}, by `machine_limits.mojo` in the same session.",
        "- prefill N: tokens/s of a prompt of N tokens. decode xB: tokens/s of B requests together, 64 tokens each",
        "  after a prompt of 32. In brackets: the share of what the machine allows. Prefill is bound by arithmetic,",
        "  decode by reading the weights once per step or by arithmetic, whichever is nearer.",
        "- first token: from the start of the process, with warm caches. llama.cpp's has the end of its process in it.",
        "- peak memory: what the process had resident at most, mapped files included.",
        "",
        *table(result),
        "",
        f"![Tokens per second of each system]({image})",
    ]
    if result.missing:
        lines += ["", "Not measured:", "", *(f"- {name}: {why}" for name, why in result.missing.items())]
    return "\n".join(lines) + "\n"


def plot(result: Result, file: Path) -> None:
    """Bars of tokens per second: a panel for each figure, a bar for each system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, 3).flat
    names = list(result.systems)
    colors = ["tab:orange" if name.startswith("MILI") else "tab:gray" for name in names]
    for axes, rate, heading in zip(panels, RATES, HEADINGS, strict=True):
        values = [result.systems[name][rate] for name in names]
        axes.bar_label(axes.barh(names, values, color=colors), fmt="{:,.0f}", padding=2, fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(f"{heading}, tokens/s", fontsize=10)
        axes.tick_params(labelsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
