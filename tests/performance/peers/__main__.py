"""MILI beside llama.cpp, OpenVINO GenAI and transformers on the same weights and threads.

    python -m tests.performance.peers [--only NAME,...] [--rounds 3] [--threads 2] [--json FILE]
        [--write-docs | --in-turn]

Sets up what is missing (the first time: some gigabytes of downloads and half an hour), then measures all systems in
turn, a process each, --rounds times, and prints a table. --write-docs also writes docs/peers.md and its plot;
--from-json FILE does so for an earlier result, without measuring. --in-turn keeps all systems in memory, measures a
rate of one after the other, and prints how they compare, on machines whose speed wanders.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from python_layer.model.kernels import default_cache_dir
from python_layer.utils.cores import choose_threads
from python_layer.utils.cpu import cpu_description
from python_layer.utils.errors import ConfigError
from tests.performance.machine import measure_limits
from tests.performance.peers.checkpoint import flops_per_token
from tests.performance.peers.in_turn import Turns, take_turns
from tests.performance.peers.process import ProgramError
from tests.performance.peers.report import Machine, Result, medians, page, plot, table
from tests.performance.peers.setup import PeerSetup, SetupError
from tests.performance.peers.variants import NOT_MEASURED, ROOT, UnavailableError, Variant, variants

PAGE, IMAGE = Path("docs/peers.md"), Path("docs/images/peers.png")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prepare(chosen: Sequence[Variant], threads: int) -> tuple[list[Variant], dict[str, str]]:
    """Sets up and starts each variant once, which also fills the caches; which ones run, and why the others don't."""
    ready, missing = [], {}
    for variant in chosen:
        try:
            variant.prepare()
            note(f"{variant.name}: starting it once")
            variant.run(threads, True)
            ready.append(variant)
        except (SetupError, ProgramError, UnavailableError) as error:
            missing[variant.name] = str(error)
            note(f"{variant.name} is not available: {error}")
    return ready, missing


def compare(chosen: Sequence[Variant], rounds: int, threads: int) -> Result:
    """Measures the variants in turn."""
    ready, missing = prepare(chosen, threads)
    runs: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in ready}
    limits = [measure_limits(threads)]
    for number in range(rounds):
        for variant in ready:
            note(f"round {number + 1} of {rounds}: {variant.name}")
            limits.append(measure_limits(threads))  # of a shared machine's they change by the minute
            try:
                runs[variant.name].append(variant.run(threads, False))
            except ProgramError as error:
                note(f"{variant.name} failed: {error}")
                missing[variant.name] = str(error)
    limits.append(measure_limits(threads))
    machine = Machine(
        cpu=cpu_description().get("model name", "unknown"),
        threads=threads,
        bandwidth=max(each.bandwidth for each in limits),
        rates={
            "bf16": max(each.rate("bfloat16") for each in limits),
            "int8": max(each.rate("int8") for each in limits),
        },
        flops_per_token=flops_per_token(),
    )
    systems = {
        variant.name: {"arithmetic": variant.arithmetic, **medians(runs[variant.name])}
        for variant in ready
        if variant.name not in missing
    }
    return Result(machine, rounds, systems, {**missing, **NOT_MEASURED})


def compare_in_turn(chosen: Sequence[Variant], rounds: int, threads: int) -> Turns:
    """Keeps the variants that run in memory, and measures them in turn."""
    ready, _ = prepare(chosen, threads)
    if not ready:
        raise SystemExit("no system is available")
    with ExitStack() as stack:
        systems = {variant.name: stack.enter_context(closing(variant.open(threads))) for variant in ready}
        return take_turns(systems, rounds, note)


def main() -> None:
    """Parses the arguments, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of systems, or their beginnings, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of every system; 0 is one per physical core")
    parser.add_argument("--folder", type=Path, default=default_cache_dir() / "peers", help="where the peers are kept")
    parser.add_argument("--setup-only", action="store_true", help="set up and start everything once, measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="take this result instead of measuring")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE} and {IMAGE}")
    parser.add_argument("--in-turn", action="store_true", help="keep all in memory, a rate of one after the other")
    options = parser.parse_args()
    if options.in_turn and (options.write_docs or options.from_json or options.setup_only):
        parser.error("--in-turn measures rates alone: leave out --write-docs, --from-json and --setup-only")
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    try:
        threads = choose_threads(options.threads)
    except ConfigError as error:
        parser.error(f"--{error}")
    available = variants(PeerSetup(options.folder, note))
    names = [name.strip() for name in (options.only or "").split(",")]
    chosen = [variant for variant in available if variant.name.startswith(tuple(names))]
    if unknown := [name for name in names if not any(variant.name.startswith(name) for variant in available)]:
        known = ", ".join(variant.name for variant in available)
        parser.error(f"--only names {unknown[0]!r}, which is no system; known are {known}")
    if options.setup_only:
        prepare(chosen, threads)
        return
    if options.in_turn:
        try:
            turns = compare_in_turn(chosen, options.rounds, threads)
        except ProgramError as error:
            raise SystemExit(f"a system failed: {error}") from None
        if options.json:
            options.json.write_text(json.dumps(turns.rates, indent=1), encoding="utf-8")
        print("\n".join(turns.table()))
        return
    if options.from_json:
        result = Result.of_json(json.loads(options.from_json.read_text(encoding="utf-8")))
    else:
        result = compare(chosen, options.rounds, threads)
    if options.json:
        options.json.write_text(json.dumps(result.to_json(), indent=1), encoding="utf-8")
    print("\n".join([*table(result), *(f"{name}: not measured: {why}" for name, why in result.missing.items())]))
    if options.write_docs:
        (ROOT / PAGE).write_text(page(result, os.path.relpath(IMAGE, PAGE.parent)), encoding="utf-8")
        plot(result, ROOT / IMAGE)


if __name__ == "__main__":
    main()
