"""Trains models/mili-tiny from scratch.

Run as ``python -m models.train.train`` after ``train_tokenizer`` and ``make_data``. It goes on from its last checkpoint
when there is one. The learning rate is constant, and falls to zero over the last part of the steps (Haegele et al.
2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations"); matrices are trained with Muon
(Jordan et al. 2024), the rest with AdamW.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor

from models.train.network import Network, Shape
from models.train.train_tokenizer import MODEL_DIR

LENGTHS = (*range(16, 256, 16), *range(256, 512, 32), *range(512, 1024, 128), *range(1024, 2049, 256))
Batch = tuple[Tensor, Tensor]


def batches(data: Path, tokens: int, seed: int) -> Iterator[Batch]:
    """Batches of conversations of about the same length, without end.

    Args:
        data: File from make_data.
        tokens: Size of a batch, padding included.
        seed: Decides the order.

    Yields:
        Ids and learned, both [B, T].
    """
    with np.load(data) as file:
        ids, learned, offsets = file["tokens"].astype(np.int64), file["learned"].astype(bool), file["offsets"]
    sizes = np.diff(offsets)
    random = np.random.default_rng(seed)
    waiting: dict[int, list[int]] = {length: [] for length in LENGTHS}
    while True:
        for document in random.permutation(len(sizes)):
            length = next(length for length in LENGTHS if length >= sizes[document])
            waiting[length].append(document)
            if len(waiting[length]) * length < tokens:
                continue
            batch = np.zeros((len(waiting[length]), length), np.int64)
            mask = np.zeros(batch.shape, bool)
            for row, each in enumerate(waiting[length]):
                span = slice(offsets[each], offsets[each + 1])
                batch[row, : sizes[each]], mask[row, : sizes[each]] = ids[span], learned[span]
            waiting[length] = []
            yield torch.from_numpy(batch), torch.from_numpy(mask)


class Trainer:
    """The network, its optimizers and where it is in its steps.

    Args:
        network: What is trained.
        lr: Learning rate of AdamW; Muon's is ``muon_lr``.
        muon_lr: Learning rate of the matrices.
        cooldown: Share of the steps over which both fall to zero.
    """

    def __init__(self, network: Network, lr: float, muon_lr: float, cooldown: float) -> None:
        self.network, self.cooldown, self.step = network, cooldown, 0
        self.device = next(network.parameters()).device
        matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in network.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        ]
        self._rates = (lr, muon_lr)

    def train(self, parts: list[Batch], steps: int) -> float:
        """One step over several batches; returns the mean loss per token learned."""
        warm, left = (self.step + 1) / 100, (steps - self.step) / (self.cooldown * steps)
        for optimizer, rate in zip(self.optimizers, self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, warm, left)
        learned = sum(int(mask[:, 1:].sum()) for _, mask in parts)
        total = 0.0
        for ids, mask in parts:
            loss = self.network.loss(ids.to(self.device), mask.to(self.device)) / learned
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return total

    def save(self, file: Path) -> None:
        """Writes everything needed to go on."""
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {"step": self.step, "network": self.network.state_dict()}
        torch.save({**state, "optimizers": [o.state_dict() for o in self.optimizers]}, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def resume(self, file: Path) -> None:
        """Goes on from a checkpoint."""
        state = torch.load(file, map_location=self.device)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def export(network: Network, shape: Shape, folder: Path) -> None:
    """Writes the checkpoint in Hugging Face's format."""
    weights = {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ends = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    generation = {"do_sample": False, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
    for name, values in (("config.json", {**shape.config(), **ends}), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Trains, with a progress bar, and exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/train/data.npz"))
    parser.add_argument("--checkpoint", type=Path, default=Path("build/train/checkpoint.pt"))
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR)
    parser.add_argument("--steps", type=int, default=2950)
    parser.add_argument("--batch", type=int, default=12288, help="tokens per step")
    parser.add_argument("--part", type=int, default=4096, help="tokens per forward pass")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--cooldown", type=float, default=0.4, help="share of the steps with a falling rate")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    shape = Shape()
    trainer = Trainer(Network(shape).to(args.device), args.lr, args.muon_lr, args.cooldown)
    if args.checkpoint.exists():
        trainer.resume(args.checkpoint)
    source = batches(args.data, args.part, args.seed)
    per_step = max(1, args.batch // args.part)
    for _ in range(trainer.step * per_step):
        next(source)
    count = sum(p.numel() for p in trainer.network.parameters())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(f"{count:,} parameters", total=args.steps, completed=trainer.step)
        seen, mean, began = 0, 0.0, time.monotonic()
        while trainer.step < args.steps:
            parts = [next(source) for _ in range(per_step)]
            loss = trainer.train(parts, args.steps)
            mean += loss
            seen += sum(ids.numel() for ids, _ in parts)
            if trainer.step % 50 == 0:
                speed = seen / (time.monotonic() - began)
                text = f"loss {mean / 50:.4f}  {speed:,.0f} tokens/s"
                progress.update(task, completed=trainer.step, description=text)
                progress.console.print(f"step {trainer.step}  {text}")
                seen, mean, began = 0, 0.0, time.monotonic()
            if trainer.step % args.save_every == 0:
                trainer.save(args.checkpoint)
    trainer.save(args.checkpoint)
    export(trainer.network, shape, args.model_dir)
    print(f"wrote {args.model_dir}")


if __name__ == "__main__":
    main()
