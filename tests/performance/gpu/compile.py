"""Compiles the benchmark's graphs for a GPU that is not here, and says which compile.

    python -m tests.performance.gpu.compile [--target cuda:sm_90a]

What has run here compiles: they are built for the device that they get.
"""

import argparse
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from python_layer.model.compile_cache import compile_apart
from python_layer.model.device import ComputeDevice, parse_target
from python_layer.model.kernels import kernel_package
from python_layer.utils.errors import CompileError, ConfigError
from tests.performance.gpu.kernels import Ops
from tests.performance.gpu.op import Op
from tests.performance.gpu.sizes import QWEN3_8B


def check(name: str, op: Op, target: ComputeDevice, folder: Path) -> str:
    """Compiles one graph; gives what went wrong, or nothing."""
    started = time.perf_counter()
    file = folder / f"{name}.mef"
    try:
        compile_apart(op, kernel_package(), file, target, assembly=True)
    except CompileError as error:
        return f"{name}: {error}"
    data = file.read_bytes()
    kernels = len(re.findall(rb"\.visible \.entry (\w+)", data))
    products = {word: len(re.findall(word.encode(), data)) for word in (r"mma\.sync", r"wgmma\.mma_async")}
    print(
        f"{name}: {time.perf_counter() - started:.0f} s, {op.copies} copies, {kernels} kernels, {products}", flush=True
    )
    return ""


def main() -> int:
    """Prints each graph, and last what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cuda:sm_90a", help="as of mili compile")
    parser.add_argument("--only", default="", metavar="WORD", help="graphs with this in their names")
    parser.add_argument("--jobs", type=int, default=1, help="graphs to compile at once, a gigabyte or two each")
    options = parser.parse_args()
    try:
        target = parse_target(options.target)
    except ConfigError as error:
        parser.error(f"{error}")
    ops = {name: op for name, op in Ops.of(target, QWEN3_8B).all().items() if options.only in name}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(max(1, options.jobs)) as pool:
        wrong = [text for text in pool.map(lambda name: check(name, ops[name], target, Path(scratch)), ops) if text]
    print(*(wrong or ["all compile"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
