"""Verbs that measure recognizers and make the table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asr_compress.cli.output import show_json
from asr_compress.runtime.errors import InputError

WIDTH = 120  # a line that a narrow terminal breaks reads better than cells a few letters wide

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def evaluate(
    bundle: Annotated[list[Path], typer.Argument(metavar="[NAME=]BUNDLE", help="Recognizers, one a row.")],
    data: Annotated[Path, typer.Option(help="Manifest of the test set.")],
    out: Annotated[Path, typer.Option(help="Results, JSONL; runs are appended.")],
    decoder: Annotated[str, typer.Option(help="greedy, or beam: with the lexicon and weights of the bundle.")] = "",
    lm: Annotated[Path | None, typer.Option(help="n-gram language model for the beam.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Engine; several make several rows.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="cpu or cuda; several make several rows.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads; several make several rows.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Utterances at once; 1 measures latency.")] = None,
    rounds: Annotated[int, typer.Option(help="Times that the test set is recognized.")] = 3,
    limit: Annotated[int | None, typer.Option(help="Only so many utterances, for a quick look.")] = None,
    footprints: Annotated[bool, typer.Option(help="Measure memory and load time in fresh processes.")] = True,
    pin: Annotated[bool, typer.Option(help="Keep the process on as many cores as threads.")] = True,
    fresh: Annotated[bool, typer.Option(help="Repeat a run that is there already.")] = False,
    json: Json = False,
) -> None:
    """Recognize a test set with one or several recognizers side by side: texts, and the time of each stage.

    The first one is the baseline of the table. Interrupted, the same command goes on where it stopped. A file that
    cannot be read counts as deletions.

    \b
    Examples:
      asr-compress evaluate model.safetensors --data manifests/test.jsonl.gz --out results.jsonl
      asr-compress evaluate fp32=a.safetensors int8=b.safetensors --data manifests/test.jsonl.gz --out results.jsonl
      asr-compress evaluate phones.safetensors --lm lm.arpa.gz --data manifests/test.jsonl.gz --out results.jsonl
      asr-compress evaluate m.safetensors --backend native --backend onnx --data manifests/test.jsonl.gz --out r.jsonl
    """
    from asr_compress.evaluation.compare import compare as report_on
    from asr_compress.evaluation.evaluate import evaluate as run
    from asr_compress.evaluation.variants import combinations

    variants = combinations(
        _named(bundle),
        backends=backend or ["native"],
        devices=device or ["cpu"],
        threads=threads or [1],
        batches=batch or [1],
        decoder=decoder or ("beam" if lm else "greedy"),
        lm=lm,
    )
    settings = {"rounds": rounds, "limit": limit, "pin_cores": pin, "footprints": footprints, "fresh": fresh}
    run(variants, data, out, progress=not json, **settings)  # type: ignore[arg-type]
    _show(report_on([out]), json)


def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS", help="Files of asr-compress evaluate.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    baseline: Annotated[str | None, typer.Option(help="Row to compare with; the first by default.")] = None,
    scope: Annotated[str, typer.Option(help="What times cover: e2e, features+model or model.")] = "e2e",
    scoring: Annotated[str, typer.Option(help="jiwer, or sclite for NIST's split of the errors.")] = "jiwer",
    speakers_fixed: Annotated[bool, typer.Option(help="Intervals for just these speakers.")] = False,
    json: Json = False,
) -> None:
    """Make the table and the plots from results: Markdown, CSV, JSON, HTML, PNG and SVG, and listings of the errors.

    \b
    Examples:
      asr-compress compare results.jsonl --out report
      asr-compress compare results.jsonl --baseline fp32 --out report
      asr-compress compare laptop.jsonl server.jsonl --scope model --out report
    """
    from asr_compress.evaluation.compare import compare as report_on

    for what, value, allowed in (
        ("scope", scope, ("e2e", "features+model", "model")),
        ("scoring", scoring, ("jiwer", "sclite")),
    ):
        if value not in allowed:
            raise InputError(f"--{what} is {value!r}; choose one of {', '.join(allowed)}")
    report = report_on(results, out, baseline, scope, scoring, speakers_fixed)  # type: ignore[arg-type]  # just checked
    _show(report, json)
    if not json:
        typer.echo("\n".join(f"{kind}: {path}" for kind, path in report.files.items()))


def _named(bundles: list[Path]) -> dict[str, Path]:
    """Rows by name: what stands before `=`, else the file's name, else its folder's too."""
    found: dict[str, Path] = {}
    for given in bundles:
        name, equals, path = str(given).partition("=")
        if not equals:
            path, name = str(given), given.stem if given.stem not in ("model", *found) else f"{given.parent.name}"
        if not name or name in found:
            raise InputError(f"{given}: two bundles are called {name!r}; give names: NAME=BUNDLE")
        found[name] = Path(path)
    return found


def _show(report: object, json: bool) -> None:
    from rich.console import Console

    from asr_compress.evaluation import table
    from asr_compress.evaluation.compare import Report

    assert isinstance(report, Report)
    if json:
        show_json({"title": report.title, "rows": table.plain(report.rows), "notes": report.notes})
    else:
        report.show(Console(width=max(Console().width, WIDTH)))
