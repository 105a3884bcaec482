"""How long a sensitivity scan of a base model takes.

    python benchmarks/sensitivity.py --threads 2 --json benchmarks/results/sensitivity.json

blstm-base on half an hour of training speech that the recipe speechocean762 has prepared. Its weights are fresh: the
products take the same time whatever they hold, but it hears next to nothing, so that comparing texts, which is a small
part of a probe, is left out of the time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from asr_compress.compression.sensitivity import scan_bundle
from asr_compress.corpora.manifests import read_manifest, write_manifests
from asr_compress.corpora.splits import take_hours
from asr_compress.evaluation.environment import environment, machine
from asr_compress.models.convert import to_network
from asr_compress.models.zoo import build_model
from asr_compress.runtime.bundle import Bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="blstm-base")
    parser.add_argument("--like", type=Path, default=Path("recipes/speechocean762/models/teacher-fp32.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("runs/speechocean762/manifests/train.jsonl.gz"))
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = Path(tempfile.mkdtemp())
    try:
        result = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    print(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, str | int | float]:
    like = Bundle.load(arguments.like)
    torch.manual_seed(0)
    model = build_model(arguments.model, len(like.tokens), like.features.bins)
    fresh = replace(like, network=to_network(model), model={"name": arguments.model}, history=[])
    fresh.save(folder / "model.safetensors")
    cuts = take_hours(read_manifest(arguments.data), arguments.hours)
    write_manifests({"speech": cuts}, folder)
    started = time.perf_counter()
    lines = scan_bundle(folder / "model.safetensors", [folder / "speech.jsonl.gz"], folder / "scan", say=print)
    spent_s = time.perf_counter() - started
    return {
        "command": f"python benchmarks/sensitivity.py --threads {arguments.threads} --json {arguments.json}",
        "machine": machine(environment()),
        "model": arguments.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes_of_speech": round(sum(cut.duration for cut in cuts) / 60, 1),
        "threads": torch.get_num_threads(),
        "probes": len(lines) - 1,
        "minutes": round(spent_s / 60, 2),
    }


if __name__ == "__main__":
    main()
