"""The verb that trains a recognizer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_compress.cli.output import show_json
from asr_compress.runtime.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: log, checkpoints, model.safetensors.")],
    initial: Annotated[Path | None, typer.Option(help="Bundle of the same model: its weights are the start.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    device: Annotated[str | None, typer.Option(help="Instead of the file's: cpu, cuda or auto.")] = None,
    threads: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    json: Json = False,
) -> None:
    """Train a recognizer and write it as one file, RUN/model.safetensors.

    Interrupted, the same command goes on where it stopped. Under torchrun it trains in several processes.

    \b
    Examples:
      asr-compress train recipes/speechocean762/train-1-ctc.yaml --out runs/first
      asr-compress train recipes/speechocean762/train-2-crf.yaml --initial runs/first/model.safetensors \\
          --out runs/second
      asr-compress train config.yaml --out runs/short --epochs 3 --device cpu

    \b
    A configuration needs four lines:
      model: lstm-small                         # see asr-compress models
      train: [manifests/train.jsonl.gz]         # see asr-compress prepare
      dev: [manifests/dev.jsonl.gz]
      tokens: {kind: char}                      # char, bpe or phone; phone needs a lexicon
    """
    from asr_compress.training.bundle import bundle_of
    from asr_compress.training.config import load_config
    from asr_compress.training.distributed import join
    from asr_compress.training.loop import Diverged
    from asr_compress.training.run import train_recognizer

    changed: dict[str, Any] = {"epochs": epochs, "device": device, "threads": threads}
    settings = load_config(config, **{key: value for key, value in changed.items() if value is not None})
    try:
        trained = train_recognizer(settings, out, initial)
    except Diverged as error:
        raise InputError(str(error)) from None
    if not join().first:
        return
    path = out / "model.safetensors"
    bundle_of(trained, settings).save(path)
    if json:
        show_json({"bundle": str(path), "size_bytes": path.stat().st_size, "dev": asdict(trained.dev)})
        return
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB, dev {trained.dev.unit} error {trained.dev.error:.2%}")
