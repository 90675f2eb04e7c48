"""Compiles the GPU kernels, and with ``--shape`` whole models, for GPUs that are not here, and checks what came out.

The kernels: each assembles, without local memory, and attention and linear layers multiply on tensor cores, attention
on Hopper with wgmma. A model: its graph compiles and is exported, and has MILI's kernels and products on tensor cores.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from max.dtype import DType

from python_layer.model.compile_cache import compile_apart
from python_layer.model.config import Qwen3Config
from python_layer.model.device import ARCHITECTURES, parse_target
from python_layer.model.graph import ModelGraph
from python_layer.model.kernels import kernel_package
from python_layer.model.kv_cache import KVCacheLayout
from python_layer.model.loading import DEFAULT_MODEL
from python_layer.model.quantization import FLOAT8_KINDS
from python_layer.model.sample_graph import SampleGraph
from tests.performance.peers.checkpoint import CONFIG, QWEN3_8B
from tests.ptx.assembler import Assembler
from tests.ptx.compiled import LINEAR, compile_kernels
from tests.ptx.copies import REGISTERS

SHAPES = {"0.6B": CONFIG, "8B": QWEN3_8B}
LAYERS = 2
"""Of the whole models that are compiled: all layers are one subgraph, which is compiled once."""
KERNELS = ("attention", "qk_norm_rope", "normalization", "elementwise", "linear")
"""Parts of the names of MILI's kernels in a model's graph."""
HOPPER_KERNELS = ("attention_hop", "linear_hop")
"""Those that only Hopper has; MAX cuts names off."""

MOST_SPILLS = {("sm_89", "attention_128"): 16, ("sm_90a", "attention_128"): 48}
"""Bytes that a thread may store because registers are short; elsewhere none."""


def config_of(shape: str) -> Qwen3Config:
    """The configuration of a Qwen3 model with fewer layers, or of models/mili-tiny."""
    if shape == "tiny":
        return Qwen3Config.from_pretrained(DEFAULT_MODEL)
    return Qwen3Config.from_dict(SHAPES[shape] | {"num_hidden_layers": LAYERS})


def check_kernels(architecture: str) -> Iterator[str]:
    """Compiles and assembles every kernel, prints what each takes, and gives what is wrong."""
    assembler = Assembler()
    for name, ptx in (compile_kernels(architecture) | compile_kernels(architecture, LINEAR)).items():
        taken = assembler.resources(ptx, architecture)
        counts = {word: ptx.count(word) for word in ("mma.sync", "wgmma.mma_async", "cp.async.bulk")}
        products = f"{counts['mma.sync']:5} mma.sync {counts['wgmma.mma_async']:3} wgmma"
        print(
            f"{architecture} {name:28} {taken.registers:4} registers {taken.shared:6} bytes shared{products}",
            flush=True,
        )
        most = MOST_SPILLS.get((architecture, name), 0)
        if taken.spills > most or (taken.stack and not most):
            yield f"{architecture} {name}: {taken.stack} bytes of local memory, {taken.spills} bytes of spills"
        attends, hopper = "attention" in name and "merge" not in name, name.startswith("hopper")
        wanted = {
            "mma.sync": name.startswith("linear") or (attends and not hopper),
            "wgmma.mma_async": hopper,
            "cp.async.bulk": hopper and attends,
        }
        yield from (f"{architecture} {name}: {n} {word}" for word, n in counts.items() if bool(n) != wanted[word])
        # setmaxnreg moves registers within what the block has, and waits for ever for more.
        threads = re.search(r"\.maxntid (\d+)", ptx) if "setmaxnreg" in ptx else None
        if threads is not None and taken.registers != REGISTERS // int(threads[1]) // 8 * 8:
            yield f"{architecture} {name}: {taken.registers} registers do not fill the pool that setmaxnreg needs"
        if taken.serialized:
            yield f"{architecture} {name}: the assembler runs wgmma one by one"


def check_graphs(architecture: str, shape: str, float8: bool, folder: Path) -> Iterator[str]:
    """Compiles and exports a model's graph and the sampler's, prints what is in them, and gives what is wrong."""
    target, config = parse_target(f"cuda:{architecture}"), config_of(shape)
    layout = KVCacheLayout.of(config, 16, DType.bfloat16)
    kinds = FLOAT8_KINDS if float8 else ()
    model = ModelGraph(config, layout, DType.bfloat16, architecture, device=target.ref, float8=kinds)
    kernels = KERNELS + HOPPER_KERNELS if architecture == "sm_90a" else KERNELS
    for request, wanted in ((model, kernels), (SampleGraph(target.ref), ("sampling",))):
        what, started = f"{architecture} {shape} {type(request).__name__}", time.perf_counter()
        file = folder / f"{architecture}-{shape}-{type(request).__name__}.mef"
        compile_apart(request, kernel_package(), file, target, assembly=True)
        data = file.read_bytes()
        names = re.findall(rb"\.visible \.entry (\w+)", data)
        counts = {word: len(re.findall(word.encode(), data)) for word in (r"mma\.sync", r"wgmma\.mma_async")}
        took = time.perf_counter() - started
        print(f"{what}: {took:.0f} s, {len(data) / 2**20:.1f} MiB, {len(names)} kernels, {counts}", flush=True)
        for part in wanted:
            if not any(part.encode() in name for name in names):
                yield f"{what}: no kernel named {part}"
        if request is model and not any(counts.values()):
            yield f"{what}: no matrix product on tensor cores"


def main() -> int:
    """Prints what was compiled, and last what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--shape", nargs="*", choices=["tiny", *SHAPES], default=[], help="whole models to compile")
    parser.add_argument("--float8", action="store_true", help="with matrices of e4m3, as FP8 checkpoints have them")
    options = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        for architecture in options.architecture:
            wrong += check_kernels(architecture)
            for shape in options.shape:
                wrong += check_graphs(architecture, shape, options.float8, Path(scratch))
    print(*(wrong or ["all is as it should be"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
