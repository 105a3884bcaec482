"""How long passes that need no training take on a large model.

    python benchmarks/passes.py --threads 1 --json benchmarks/results/passes.json

Weights are fresh: what is sorted, factorized and rounded takes as long whatever it holds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from asr_compress.compression.base import Context
from asr_compress.compression.registry import make_pass
from asr_compress.evaluation.environment import environment, machine
from asr_compress.models.zoo import build_model

PASSES: dict[str, dict[str, Any]] = {
    "pruning": {"sparsity": 0.9},
    "block_pruning": {"sparsity": 0.9},
    "structured_pruning": {"sparsity": 0.5},
    "low_rank": {"ratio": 2.0},
    "joint_low_rank": {"ratio": 2.0},
    "dynamic_int8": {},
    "quantization": {"numbers": "int4"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lstm-large")
    parser.add_argument("--tokens", type=int, default=41)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parameters, seconds = 0, {}
    for name, params in PASSES.items():
        torch.manual_seed(0)
        model = build_model(arguments.model, arguments.tokens)
        parameters = sum(p.numel() for p in model.parameters())
        step = make_pass(name, params)
        started = time.perf_counter()
        step.prepare(model, Context())
        step.finalize(model)
        seconds[name] = round(time.perf_counter() - started, 2)
        print(f"{name}: {seconds[name]} s")
    if arguments.json:
        command = f"python benchmarks/passes.py --threads {arguments.threads} --json {arguments.json}"
        result = {"command": command, "machine": machine(environment()), "model": arguments.model}
        result |= {"parameters": parameters, "threads": arguments.threads, "seconds": seconds}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
