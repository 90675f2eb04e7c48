"""MILI on a GPU beside PyTorch, transformers and MAX's own ops, and next to what the GPU does at best, in one run.

    python -m tests.performance.benchmark_gpu [--device gpu:N] [--models 0.6B 8B DIR ...] [--rounds 5]
        [--json FILE] [--plot FILE]

In each case every system does the same work in turn, --rounds times; times are medians. What moves memory is given as a
share of the rate of a copy within the GPU, what multiplies as a share of the rate of a bfloat16 matrix product of
8,192 x 8,192 x 8,192, each by the fastest of the systems. Kernels have the shapes of Qwen3-8B. Models are shapes of
Qwen3, with random weights that are written to the cache folder once, or checkpoint folders.

torch and transformers take part where they are installed (pip install torch transformers, with a build for the GPU's
driver). --device cpu --small runs all of it on tiny sizes, for a look at whether it runs: its times mean nothing.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from python_layer.model.compile_cache import CompileCache
from python_layer.model.config import Qwen3Config
from python_layer.model.device import ComputeDevice, resolve_device
from python_layer.model.kernels import default_cache_dir
from python_layer.utils.errors import MiliError
from tests.performance.gpu import kernels, models
from tests.performance.gpu.contest import OURS, Case, Outcome, contest, reason
from tests.performance.gpu.models import MAX_SHARE, Lengths
from tests.performance.gpu.place import Place
from tests.performance.gpu.report import case_lines, plot, text
from tests.performance.gpu.result import Result
from tests.performance.gpu.sizes import QWEN3_8B, SMALL
from tests.performance.peers.checkpoint import CONFIG, make_checkpoint
from tests.performance.peers.checkpoint import QWEN3_8B as CONFIG_8B
from tests.performance.peers.process import ProgramError
from tests.random_model import ensure_random_model

SHAPES = {"0.6B": CONFIG, "8B": CONFIG_8B}
SMALL_LENGTHS = Lengths(prompt=48, batches=(1, 3), context=16, new=8)


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def checkpoint(name: str) -> tuple[str, Path]:
    """What a model of --models is called, and its folder; one of SHAPES is made unless it is there."""
    if name not in SHAPES:
        config = Qwen3Config.from_pretrained(name)
        same = (label for label, shape in SHAPES.items() if _size(Qwen3Config.from_dict(shape)) == _size(config))
        return next(same, Path(name).resolve().name), Path(name)
    folder = default_cache_dir() / "random" / name
    if not (folder / "config.json").exists():
        note(f"{name}: writing random weights to {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        make_checkpoint(folder, SHAPES[name])
    return name, folder


def _size(config: Qwen3Config) -> tuple[int, int, int]:
    return config.num_parameters, config.hidden_size, config.num_hidden_layers


def measure(options: argparse.Namespace, device: ComputeDevice) -> Result:
    """Measures what the command line asks for; cases appear as they are done."""
    outcomes: list[Outcome] = []
    memory: dict[str, float] = {}
    failures: dict[str, str] = {}
    versions = installed()

    def done() -> Result:
        return Result(describe(device), versions, options.rounds, outcomes, memory, failures)

    def run(cases: Sequence[Case]) -> None:
        for case in cases:
            if options.only in case.name or case.name in (kernels.COPY, kernels.MATMUL):
                outcomes.append(contest(case, options.rounds))
                note("\n".join(case_lines(done(), outcomes[-1])))

    lengths = SMALL_LENGTHS if options.small else Lengths()
    chosen: dict[str, Path] = {}
    for model in options.models:
        try:
            label, chosen[label] = checkpoint(model) if not options.small else ("small", small_model())
            memory[label] = models.memory_in_use(chosen[label], device, lengths)  # while nothing else has any
        except (MiliError, ProgramError, OSError) as error:
            failures[f"{model}: memory"] = reason(error)
    sizes = SMALL if options.small else QWEN3_8B
    place, ops = Place(device, CompileCache(default_cache_dir(), device)), kernels.Ops.of(device, sizes)
    wanted = kernels.KernelCases(place, ops, sizes).all()
    if any(options.only in case.name for case in wanted):
        place.compile(ops.all(), note)
    run(wanted)
    for label, folder in chosen.items():
        cases = models.ModelCases(label, folder, device, lengths)
        run(cases.all())
        cases.close()
    return done()


def small_model() -> Path:
    """A checkpoint of a few layers."""
    return ensure_random_model(default_cache_dir() / "random" / "small")


def installed() -> dict[str, str]:
    """Versions of the systems."""
    found = {}
    for name in ("mili", "max", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(device: ComputeDevice) -> str:
    """A device in words."""
    return f"{device.open().model_name}, {device.architecture}" if device.is_gpu else "CPU"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="gpu", help="gpu, gpu:N, or with --small cpu")
    parser.add_argument("--models", nargs="*", default=[*SHAPES], metavar="MODEL", help="0.6B, 8B, folders, or none")
    parser.add_argument("--only", default="", metavar="WORD", help="beside the limits, cases with this in their names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny sizes, and one tiny model instead of --models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot, .png or .svg")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="take this result instead of measuring")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    if options.device == "cpu" and not options.small and not options.from_json:
        parser.error("--device is cpu: this measures GPUs; give gpu or gpu:N, or --small to see whether it runs")
    if options.small:
        options.models = options.models[:1]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; 1 if MILI could not be measured somewhere."""
    options = parse(arguments)
    try:
        if options.from_json:
            result = Result.of_json(json.loads(options.from_json.read_text(encoding="utf-8")))
        else:
            if find_spec("torch"):
                os.environ.setdefault(MAX_SHARE, "50")
            result = measure(options, resolve_device(options.device))
    except (MiliError, OSError) as error:
        print(f"benchmark_gpu: error: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(result.to_json(), indent=1), encoding="utf-8")
    if options.plot:
        plot(result, options.plot)
    print(text(result))
    return int(any(name.startswith(OURS) for outcome in result.outcomes for name in outcome.missing))


if __name__ == "__main__":
    sys.exit(main())
