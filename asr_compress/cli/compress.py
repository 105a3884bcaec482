"""Verbs that make recognizers small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr_compress.cli.output import say, show_json, show_table
from asr_compress.runtime.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def compress(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The recognizer to start from.")],
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="YAML file of stages and passes.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run: a bundle a stage, model.safetensors.")] = Path(
        "runs/compress"
    ),
    int8: Annotated[
        bool, typer.Option("--int8", help="Dynamic int8 of every map; needs no recipe and no data.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Features and teacher posteriors, to share between runs.")] = None,
    json: Json = False,
) -> None:
    """Compress a recognizer by a recipe, or to int8 at once, and write it as one file, RUN/model.safetensors.

    The recipe is checked in full before anything runs. Interrupted, the same command goes on where it stopped.

    \b
    Examples:
      asr-compress compress runs/teacher/model.safetensors --int8 --out runs/int8
      asr-compress compress runs/teacher/model.safetensors recipe.yaml --out runs/small

    \b
    A recipe names the passes of each stage (see asr-compress passes), and data where a stage trains:
      train: [manifests/train.jsonl.gz]
      dev: [manifests/dev.jsonl.gz]
      stages:
        - passes: [{block_pruning: {sparsity: 0.75}}]
          training: {epochs: 10}
        - passes: [dynamic_int8]
    """
    from asr_compress.compression.pipeline import compress as run
    from asr_compress.compression.recipe import Recipe, load_recipe

    if (recipe is None) == (not int8):
        raise InputError("compress: give a recipe, or --int8 without one")
    chosen = (
        load_recipe(recipe) if recipe else Recipe.from_json({"stages": [{"name": "int8", "passes": ["dynamic_int8"]}]})
    )
    result = run(bundle, chosen, out, cache, say=say)
    path = out / "model.safetensors"
    size_bytes = path.stat().st_size
    if json:
        show_json({"bundle": str(path), "size_bytes": size_bytes, "history": result.history})
        return
    was_bytes = bundle.stat().st_size
    typer.echo(f"{path}: {size_bytes / 1e6:.2f} MB, {was_bytes / size_bytes:.1f} x smaller than {bundle}")


def passes(
    name: Annotated[str | None, typer.Argument(metavar="[PASS]", help="Show this one with its parameters.")] = None,
    json: Json = False,
) -> None:
    """List the compression passes; with a name, its parameters and their defaults.

    \b
    Examples:
      asr-compress passes
      asr-compress passes block_pruning
      asr-compress passes --json
    """
    from asr_compress.compression.registry import describe_passes

    described = describe_passes()
    if name is not None:
        described = [entry for entry in described if entry["name"] == name]
        if not described:
            known = ", ".join(entry["name"] for entry in describe_passes())
            raise InputError(f"no pass is called {name!r}; there are {known}")
    if json:
        show_json(described)
        return
    for entry in described:
        typer.echo(f"{entry['name']:24} {entry['family']:14} {entry['what']}")
        for key, parameter in entry["parameters"].items() if name else ():
            typer.echo(f"  {key:22} {parameter['default']!s:14} {parameter['what']} ({parameter['type']})")
        for trait, reason in entry["cannot_follow"].items() if name else ():
            typer.echo(f"  cannot follow {trait}: {reason}")


def sensitivity(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A recognizer that is not compressed.")],
    data: Annotated[list[Path], typer.Option(help="Manifest of dev speech; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder for scan.jsonl and the pictures.")],
    cache: Annotated[Path | None, typer.Option(help="Features, to share between runs.")] = None,
    json: Json = False,
) -> None:
    """Compress every map, layer and gate alone, at several strengths, and measure what it costs.

    Maps and layers meet every pass, gates of LSTMs block pruning at 75 and 90 %.

    Writes a line of scan.jsonl for each (errors by kind, blank rate, KL divergence, bytes) and heat maps. Interrupted,
    the same command goes on.

    \b
    Examples:
      asr-compress sensitivity runs/teacher/model.safetensors --data manifests/dev.jsonl.gz --out runs/scan
    """
    from asr_compress.compression.sensitivity import scan_bundle

    lines = scan_bundle(bundle, data, out, cache, say)
    if json:
        show_json(lines)
        return
    baseline, *rest = lines
    typer.echo(f"untouched: error {baseline['error']:.2%}, blank rate {baseline['blank_rate']:.2f}")
    rows = [
        {
            "part": line["part"],
            "strength": line["strength"],
            "error": f"{line['error']:.2%}",
            "KL a frame": f"{line['kl']:.4f}",
            "smaller": f"{line['bytes_before'] / max(1, line['bytes']):.1f} x",
        }
        for line in sorted(rest, key=lambda line: -line["kl"])[:20]
    ]
    typer.echo("what hurts most:")
    show_table(rows, right=("error", "KL a frame", "smaller"))
    typer.echo(f"all of it: {out / 'scan.jsonl'}, {out / 'error.png'}, {out / 'kl.png'}")
