"""What removing units and layers is worth in time, on every engine: the model that is left is an ordinary, smaller one.

    python -m benchmarks.structured --json benchmarks/results/structured.json

Weights are fresh and float32; one utterance, one thread. Variants of an engine are timed in turns, each round from
another start, after their outputs were compared with torch's. A device that is not there is n/a.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_compress.compression.base import Context, Pass
from asr_compress.compression.registry import make_pass
from asr_compress.evaluation.backends import BACKENDS, Model, Unavailable
from asr_compress.evaluation.environment import environment, machine
from asr_compress.evaluation.table import bytes_text, markdown_table
from asr_compress.evaluation.timing import Spread, ThreadPinning, rotated
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.models.layers import Recurrent
from asr_compress.models.zoo import build_model
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.network import walk
from asr_compress.runtime.tokens import Tokens

WHOLE = "whole"
ENGINES = (("native", "cpu"), ("torch", "cpu"), ("onnx", "cpu"), ("openvino", "cpu"), ("torch", "cuda"))
TOLERANCE = 1e-3  # of logits between engines in float32


def variants(model: str) -> dict[str, Bundle]:
    """A zoo model whole, and without some of its units or its last LSTM layer."""
    tokens = Tokens("char", ("<blank>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"))

    def built() -> AcousticModel:
        torch.manual_seed(0)
        return build_model(model, len(tokens)).eval()

    last = sum(isinstance(layer, Recurrent) for layer in built().layers) - 1
    steps: dict[str, Pass | None] = {WHOLE: None}
    steps |= {
        f"{share} % of units": make_pass("structured_pruning", {"sparsity": share / 100}) for share in (25, 50, 75)
    }
    steps["last LSTM layer"] = make_pass("layer_removal", {"layers": [last]})
    bundles = {}
    for name, step in steps.items():
        pruned = built()
        if step is not None:
            step.prepare(pruned, Context())
            step.finalize(pruned)
        bundles[name] = Bundle(to_network(pruned), FeatureConfig(), tokens)
    return bundles


def measure(models: dict[str, Model], x: np.ndarray, rounds: int) -> dict[str, Spread]:
    """Seconds of each variant, in turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(1 + rounds):
        for name in rotated(list(models), turn):
            begin = time.perf_counter()
            models[name].run([x])
            seconds[name].append(time.perf_counter() - begin)
    return {name: Spread.of(taken[1:]) for name, taken in seconds.items()}


def rows_of(model: str, frames: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each engine and variant of a zoo model."""
    bundles = variants(model)
    sizes = {name: sum(weights.nbytes for _, weights in walk(bundle.network)) for name, bundle in bundles.items()}
    x = np.random.default_rng(0).normal(size=(frames, bundles[WHOLE].features.bins)).astype(np.float32)
    expected = {name: BACKENDS["torch"].load(bundle, "cpu", 1).run([x])[0] for name, bundle in bundles.items()}
    rows: list[dict[str, Any]] = []
    for engine, device in ENGINES:
        try:
            models = {name: BACKENDS[engine].load(bundle, device, 1) for name, bundle in bundles.items()}
        except Unavailable as reason:
            rows.append({"model": model, "engine": engine, "device": device, "unavailable": str(reason)})
            continue
        for name, loaded in models.items():
            np.testing.assert_allclose(loaded.run([x])[0], expected[name], atol=TOLERANCE)
        found = measure(models, x, rounds)
        for name, spread in found.items():
            times = {"median_s": spread.median, "min_s": spread.minimum, "max_s": spread.maximum}
            rows.append(
                {"model": model, "engine": engine, "device": device, "variant": name, "weights_bytes": sizes[name]}
                | times
                | {"faster": found[WHOLE].median / spread.median}
            )
    return rows


def page(command: str, record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown, a table for each model."""
    parts = ["# What removing units and layers is worth in time", f"`{command}`", machine(record)]
    for model in dict.fromkeys(row["model"] for row in rows):
        table = []
        for row in (row for row in rows if row["model"] == model):
            where = row["engine"] + ("" if row["device"] == "cpu" else f", {row['device']}")
            if "unavailable" in row:
                table.append([where, f"n/a: {row['unavailable']}", "", "", "", ""])
                continue
            low, high = 1e3 * row["min_s"], 1e3 * row["max_s"]
            figures = [f"{1e3 * row['median_s']:.1f}", f"{low:.1f}-{high:.1f}", f"{row['faster']:.2f} x"]
            table.append([where, row["variant"], bytes_text(row["weights_bytes"]), *figures])
        titles = ["engine", "without", "weights", "median ms", "min-max", "faster"]
        parts += [f"## {model}", "\n".join(markdown_table(titles, table, left=2))]
    return "\n\n".join(parts) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["lstm-base", "blstm-base"], help="zoo models")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="results; the page stands beside it, as .md")
    given = sys.argv[1:] if words is None else list(words)
    arguments = parser.parse_args(given)
    with ThreadPinning().threads(1):
        rows = [row for model in arguments.models for row in rows_of(model, arguments.frames, arguments.rounds)]
    command, record = shlex.join(["python", "-m", "benchmarks.structured", *given]), environment()
    text = page(command, record, rows)
    print(text)
    if arguments.json:
        result = {"command": command, "environment": record, "frames": arguments.frames, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
        arguments.json.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
