"""A result as text and as a plot."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.performance.gpu.contest import OURS, Outcome
from tests.performance.gpu.result import Result
from tests.performance.gpu.targets import TARGETS

MOST_DIFFERENCE = 2e-2
"""Of results in bfloat16, over the largest one; more means that not the same was computed."""
UNITS = {"copy": (1e9, "GB/s"), "matmul": (1e12, "TFLOP/s")}
COLORS = {OURS: "tab:orange", "MAX": "tab:blue", "torch": "tab:gray", "transformers": "tab:green"}


def text(result: Result) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [f"{result.device}; {versions}; medians of {result.rounds} round{'s' if result.rounds > 1 else ''}"]
    for bound, what in (("copy", "copy"), ("matmul", "bfloat16 matrix product")):
        limit, (unit, name) = result.limit(bound), UNITS[bound]
        lines.append(f"limit: {what}, {limit / unit:,.1f} {name}" if limit else f"limit: {what}, not measured")
    lines.append(f"{'':28} {'time':>12} {'rate':>20} {'of the limit':>13} {'MILI is':>9}")
    for outcome in result.outcomes:
        lines += case_lines(result, outcome)
    lines += [f"{model}: {share:.0%} of the memory in use" for model, share in result.memory.items()]
    lines += [f"{what}: not measured: {why}" for what, why in result.failures.items()]
    return "\n".join([*lines, "", "Targets, for an H200:", *(target.line(result) for target in TARGETS)])


def case_lines(result: Result, outcome: Outcome) -> Iterator[str]:
    """A case: a line for each contender; after the time how many times as fast MILI is."""
    yield outcome.name
    for name, seconds in outcome.seconds.items():
        fraction = result.fraction(outcome, name)
        share = "" if fraction is None else f"{fraction:.1%}"
        ours = outcome.seconds.get(OURS)
        ratio = "" if ours is None or name == OURS else f"{seconds / ours:.2f} x"
        line = f"  {name:26} {seconds * 1e6:9,.1f} us {rate(outcome, seconds):>20} {share:>13} {ratio:>9}"
        difference = outcome.differences.get(name, 0.0)
        # NaN is no number of a result that is the same.
        yield line.rstrip() + ("" if difference <= MOST_DIFFERENCE else f"  DIFFERS by {difference:.2g}")
    for name, why in outcome.missing.items():
        yield f"  {name:26} not measured: {why}"


def rate(outcome: Outcome, seconds: float) -> str:
    """Tokens, bytes or operations per second."""
    if outcome.tokens:
        return f"{outcome.tokens / seconds:,.0f} tokens/s"
    if not outcome.bound:
        return ""
    unit, name = UNITS[outcome.bound]
    return f"{outcome.work / seconds / unit:,.1f} {name}"


def plot(result: Result, file: Path) -> None:
    """Bars of the fraction of the limit: a panel for each limit, a group for each case; marks at the targets."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = {
        bound: [o for o in result.outcomes if o.bound == bound and o.name != bound and o.seconds] for bound in UNITS
    }
    bars = max((sum(len(o.seconds) + 1 for o in outcomes) for outcomes in panels.values()), default=1)
    figure = Figure(figsize=(14, 2 + 0.16 * bars), layout="constrained")
    for axes, (bound, outcomes) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _draw(axes, result, outcomes)
        axes.set_title("share of the copy's bandwidth" if bound == "copy" else "share of the matrix product's rate")
    figure.legend(
        handles=[Patch(color=color, label=name) for name, color in COLORS.items()], loc="outside lower center"
    )
    figure.suptitle(result.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)


def _draw(axes: Any, result: Result, outcomes: list[Outcome]) -> None:
    marks = {target.case: target.value for target in TARGETS if target.figure == "fraction"}
    row, names = 0, []
    for outcome in outcomes:
        first = row
        for name in outcome.seconds:
            color = next(color for whose, color in COLORS.items() if name.startswith(whose))
            drawn = axes.barh(row, result.fraction(outcome, name) or 0, color=color)
            axes.bar_label(drawn, [f"{name} {result.fraction(outcome, name) or 0:.0%}"], padding=2, fontsize=6)
            row += 1
        if outcome.name in marks:
            axes.vlines(marks[outcome.name], first - 0.5, row - 0.5, colors="black", linewidth=1.5)
        names.append(((first + row - 1) / 2, outcome.name))
        row += 1
    axes.set_yticks([at for at, _ in names], [name for _, name in names], fontsize=7)
    axes.axvline(1, color="black", linestyle=":", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.25)
