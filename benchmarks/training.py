"""How much of the machine a training step uses, and how fast features are.

    python benchmarks/training.py --threads 2 --json benchmarks/results/training.json

A step of the base model (forward, CTC, backward, update) is timed in turn with a square float32 matrix product, so
that both see the same machine; the ratio of their arithmetic rates is the utilization. Products of the weights alone
are counted as the arithmetic of a step (2 operations a weight and frame, three times with the gradients), so gates, CTC
and the optimizer cost utilization, as they should.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from asr_compress.corpora.batches import Batch
from asr_compress.evaluation.environment import environment, machine
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.zoo import build_model
from asr_compress.runtime.features import FeatureConfig, log_mel
from asr_compress.training.config import OptimizerConfig
from asr_compress.training.loop import make_optimizer
from asr_compress.training.objective import ctc

PRODUCT = 1024  # rows and columns of the reference product
PHONES = 40


def random_batch(utterances: int, frames: int) -> Batch:
    labels = frames // 10
    return Batch(
        features=torch.randn(utterances, frames, 80),
        feature_lengths=torch.full((utterances,), frames),
        targets=torch.randint(1, PHONES, (utterances, labels)),
        target_lengths=torch.full((utterances,), labels),
        ids=("",) * utterances,
        texts=("",) * utterances,
    )


def training_step(model: AcousticModel, batch: Batch) -> Callable[[], None]:
    optimizer = make_optimizer(model, OptimizerConfig())

    def step() -> None:
        logits, lengths = model(batch.features, batch.feature_lengths)
        (ctc(logits, lengths, batch) / int(batch.target_lengths.sum())).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def operations(model: AcousticModel, batch: Batch) -> float:
    """Operations of the weight products of one step; layers after the frame stacking run at its rate."""
    frames = int(model.output_lengths(batch.feature_lengths).sum())
    return 6.0 * frames * sum(p.numel() for p in model.parameters() if p.dim() == 2)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(name: str, utterances: int, frames: int, rounds: int) -> dict[str, float | str | int]:
    model, batch = build_model(name, PHONES).train(), random_batch(utterances, frames)
    step = training_step(model, batch)
    left, right = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    wave, config = np.random.default_rng(0).standard_normal(160000).astype(np.float32) * 0.1, FeatureConfig()
    for _ in range(2):
        step(), left @ right, log_mel(wave, config)
    rates = []
    for _ in range(rounds):
        product_s = statistics.median(seconds(lambda: left @ right) for _ in range(9))
        step_s = seconds(step)
        features_s = statistics.median(seconds(lambda: log_mel(wave, config)) for _ in range(9))
        rates.append((operations(model, batch) / step_s, 2 * PRODUCT**3 / product_s, 10 / features_s))
    shares = sorted(own / product for own, product, _ in rates)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": f"{utterances} x {frames / 100:g} s",
        "threads": torch.get_num_threads(),
        "product_gflops": round(statistics.median(rate for _, rate, _ in rates) / 1e9, 1),
        "step_gflops": round(statistics.median(rate for rate, _, _ in rates) / 1e9, 1),
        "utilization": round(statistics.median(shares), 3),
        "utilization_min": round(shares[0], 3),
        "utilization_max": round(shares[-1], 3),
        "features_x_real_time": round(statistics.median(rate for _, _, rate in rates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["blstm-base", "lstm-base"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [measure(name, arguments.utterances, arguments.frames, arguments.rounds) for name in arguments.models]
    for row in rows:
        print(row)
    if arguments.json:
        result = {
            "command": f"python benchmarks/training.py --threads {arguments.threads} --json {arguments.json}",
            "torch": torch.__version__,
            "machine": machine(environment()),
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
