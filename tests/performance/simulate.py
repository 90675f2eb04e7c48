"""The real scheduler and cache on virtual time: how a policy would do on a machine that is not at hand.

    python tests/performance/simulate.py --rate 2 --requests 500                     # every policy, a table
    python tests/performance/simulate.py --fit DIR                                   # measure a model's steps
    python tests/performance/simulate.py --cost '{"step": 1e-3, ...}' --arrivals bursty --plot out.png

A step takes step + token x tokens + key x (tokens times the keys they see) + sequence x sequences seconds; --fit finds
these four by running steps of many shapes on a model and prints them. Requests arrive by a Poisson process, or
in bursts of it, with prompts and answers of log-normal lengths; a share of the prompts begins alike.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
from rich.progress import track

from python_layer.inference.cache_manager import CacheManager
from python_layer.inference.params import GenerationParams
from python_layer.inference.policies import POLICIES
from python_layer.inference.scheduler import ContinuousBatchScheduler, SchedulerConfig, StepPlan
from python_layer.inference.sequence import Sequence
from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.loading import load_model
from python_layer.utils.settings import load_settings

PAGE = 16
VOCAB = 1 << 30


@dataclass(frozen=True)
class Cost:
    """Seconds of a step; the defaults were fitted to a model of the Qwen3-0.6B shape on two CPU cores."""

    step: float = 4.8e-2
    token: float = 4.4e-3
    key: float = 2.2e-6
    sequence: float = 1.1e-3

    def of(self, plan: StepPlan) -> float:
        """Seconds of a planned step."""
        tokens = sum(count for _, count in plan.rows)
        keys = sum(count * (s.computed + (count + 1) / 2) for s, count in plan.rows)
        return self.step + self.token * tokens + self.key * keys + self.sequence * len(plan.rows)


@dataclass
class Record:
    """When things happened to a request, in virtual seconds."""

    arrival: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0

    @property
    def ttft(self) -> float:
        return self.first - self.arrival

    @property
    def tpot(self) -> float:
        return (self.last - self.first) / max(1, self.tokens - 1)


def make_load(options: argparse.Namespace) -> list[Sequence]:
    """The same requests for every policy, from the seed."""
    rng = np.random.default_rng(options.seed)
    count = options.requests
    if options.arrivals == "poisson":
        arrivals = np.cumsum(rng.exponential(1 / options.rate, count))
    else:  # bursts of 20 at once, as far apart as keeps the rate
        arrivals = np.repeat(np.cumsum(rng.exponential(20 / options.rate, -(-count // 20))), 20)[:count]

    def lengths(median: int) -> np.ndarray:
        return np.clip(rng.lognormal(np.log(median), 0.7, count), 1, 16 * median).astype(int)

    prompts, answers = lengths(options.prompt_tokens), lengths(options.new_tokens)
    prefixes = rng.integers(0, VOCAB, (8, options.prefix_tokens))
    load = []
    for i in range(count):
        tokens = rng.integers(0, VOCAB, prompts[i]).tolist()
        if rng.random() < options.prefix_share:
            tokens = [*rng.choice(prefixes).tolist(), *tokens]
        params = GenerationParams(max_tokens=int(answers[i]))
        fields = {"priority": int(rng.integers(3)), "user": f"user{int(rng.zipf(1.6)) % 20}"}
        load.append(Sequence(str(i), 0, params, tokens, len(tokens), arrival=float(arrivals[i]), **fields))
    return load


def simulate(options: argparse.Namespace, policy: str, cost: Cost) -> dict[str, float]:
    """Replays the load under one policy and sums up."""
    now = 0.0
    cache = CacheManager(options.pages, PAGE)
    config = SchedulerConfig(options.token_budget, options.max_running, max_waiting=options.requests, policy=policy)
    scheduler = ContinuousBatchScheduler(config, cache, lambda: now)
    arriving = make_load(options)[::-1]
    records = {s: Record(s.arrival) for s in arriving}
    steps = 0
    while arriving or scheduler.running or scheduler.waiting:
        if not (scheduler.running or scheduler.waiting):
            now = max(now, arriving[-1].arrival)
        while arriving and arriving[-1].arrival <= now:
            sequence = arriving.pop()
            scheduler.check(sequence.prompt_length, sequence.params.max_tokens)
            scheduler.add(sequence)
        plan = scheduler.plan()
        now += cost.of(plan)
        steps += 1
        for sequence, count in plan.rows:
            scheduler.computed(sequence, count)
            if sequence.remaining:
                continue
            record = records[sequence]
            record.first = record.first or now
            record.last = now
            record.tokens += 1
            sequence.tokens.append(steps)
            if sequence.generated == sequence.params.max_tokens:
                scheduler.finish(sequence)
    cache.check_integrity([])
    return summary(list(records.values()), options) | {
        "steps": steps,
        "preemptions": scheduler.stats.preemptions,
        "prefix_hit_rate": cache.prefix_stats.hit / max(1, cache.prefix_stats.queried),
    }


def summary(records: list[Record], options: argparse.Namespace) -> dict[str, float]:
    """Percentiles, throughput, and goodput: requests per second that met both limits."""
    ttft, tpot = np.array([r.ttft for r in records]), np.array([r.tpot for r in records])
    span = max(r.last for r in records) - min(r.arrival for r in records)
    met = (ttft <= options.ttft_limit) & (tpot <= options.tpot_limit)
    result = {"tokens_per_s": sum(r.tokens for r in records) / span, "goodput_per_s": float(met.sum()) / span}
    for name, values in (("ttft", ttft), ("tpot", tpot)):
        result |= {f"{name}_p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
    return result


def fit(folder: str) -> Cost:
    """Runs steps of many shapes and finds the four numbers by least squares, none of them negative."""
    model = load_model(load_settings({"model": folder}))
    model.settle_weights()
    pages = model.layout.pages_for(2048)
    cache = model.layout.allocate(16 * pages)
    rng = np.random.default_rng(0)
    rows, seconds = [], []
    shapes = [(1, t, c) for t in (1, 16, 64, 256) for c in (0, 500, 1500)]
    shapes += [(b, 1, c) for b in (2, 4, 8, 16) for c in (50, 500, 1500)]
    for sequences, tokens, context in track(shapes * 3, "Measuring steps"):
        requests = [
            RequestRows(rng.integers(0, 1000, tokens).tolist(), context, range(b * pages, (b + 1) * pages))
            for b in range(sequences)
        ]
        batch = RaggedBatch.of(requests)
        started = time.perf_counter()
        model.step(batch, cache)
        seconds.append(time.perf_counter() - started)
        total = sequences * tokens
        rows.append([1.0, total, total * (context + (tokens + 1) / 2), sequences])
    matrix, target = np.array(rows), np.array(seconds)
    active = list(range(4))
    while True:
        # Relative errors, so that short steps count as much as long ones.
        solution = np.linalg.lstsq(matrix[:, active] / target[:, None], np.ones(len(target)), rcond=None)[0]
        if (solution >= 0).all():
            break
        active.pop(int(np.argmin(solution)))
    values = np.zeros(4)
    values[active] = solution
    return Cost(*values.tolist())


def plot(results: dict[str, dict[str, float]], file: str) -> None:
    """Bars of the percentiles, a group per policy."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4))
    for axis, name in zip(axes, ("ttft", "tpot", "goodput_per_s"), strict=True):
        keys = [name] if name == "goodput_per_s" else [f"{name}_p{q}" for q in (50, 95, 99)]
        for offset, key in enumerate(keys):
            places = np.arange(len(results)) + offset * 0.25
            axis.bar(places, [result[key] for result in results.values()], 0.25, label=key)
        axis.set_xticks(range(len(results)), list(results))
        axis.set_title("requests/s within the limits" if name == "goodput_per_s" else f"{name}, seconds")
        axis.legend()
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Parses the arguments, simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", metavar="DIR", help="measure this model's steps, print their cost and end")
    parser.add_argument("--cost", help="a JSON object as --fit prints it")
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--arrivals", choices=("poisson", "bursty"), default="poisson")
    parser.add_argument("--rate", type=float, default=0.5, help="requests per second")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--prompt-tokens", type=int, default=128, help="median length of prompts")
    parser.add_argument("--new-tokens", type=int, default=64, help="median length of answers")
    parser.add_argument("--prefix-share", type=float, default=0.5, help="share of prompts with a common beginning")
    parser.add_argument("--prefix-tokens", type=int, default=256, help="length of the common texts")
    parser.add_argument("--pages", type=int, default=4096, help=f"pages of {PAGE} tokens in the KV cache")
    parser.add_argument("--token-budget", type=int, default=512)
    parser.add_argument("--max-running", type=int, default=64)
    parser.add_argument("--ttft-limit", type=float, default=2.0, help="seconds to the first token that are good")
    parser.add_argument("--tpot-limit", type=float, default=0.2, help="seconds per further token that are good")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", metavar="FILE", help="write a PNG; needs matplotlib")
    options = parser.parse_args()
    if options.fit:
        print(json.dumps(asdict(fit(options.fit))))
        return
    cost = Cost(**json.loads(options.cost)) if options.cost else Cost()
    results = {policy: simulate(options, policy, cost) for policy in options.policy}
    if options.plot:
        plot(results, options.plot)
    if options.json:
        print(json.dumps(results))
        return
    print(f"{'':18}" + "".join(f"{policy:>12}" for policy in results))
    for name in next(iter(results.values())):
        print(f"{name:18}" + "".join(f"{result[name]:12.3f}" for result in results.values()))


if __name__ == "__main__":
    main()
