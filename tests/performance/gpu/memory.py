"""Prints how much of a device's memory MILI takes with its default settings, in a process of its own."""

import argparse
import json
from pathlib import Path

import numpy as np
import psutil

from python_layer.inference.build import build_engine
from python_layer.model.device import ComputeDevice
from python_layer.model.loading import load_model
from python_layer.utils.settings import load_settings
from tests.performance.engine_run import EngineRuns


def in_use(device: ComputeDevice) -> float:
    """The share of all memory."""
    if not device.is_gpu:
        return psutil.virtual_memory().percent / 100
    return 1 - device.free_memory() / device.open().stats["total_memory"]


def main() -> None:
    """Answers a batch of requests, then asks the device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--new", type=int, required=True)
    options = parser.parse_args()
    settings = load_settings({"model": str(options.model), "device": options.device})
    model = load_model(settings)
    engine = build_engine(model, settings)
    prompts = np.random.default_rng(0).integers(0, model.config.vocab_size, (options.requests, options.context))
    EngineRuns(engine).generate(prompts.tolist(), options.new)
    print(json.dumps({"in_use": in_use(model.device)}))
    engine.shutdown()


if __name__ == "__main__":
    main()
