"""Verbs that measure recognizers and make the table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_compress.cli.output import show_json
from asr_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from asr_compress.evaluation.variants import Variant

WIDTH = 132  # a line that a narrow terminal breaks reads better than cells a few letters wide

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Decoder = Annotated[str, typer.Option(help="auto, greedy, or beam. auto: beam where there is a lexicon or an lm.")]
LanguageModel = Annotated[Path | None, typer.Option(help="n-gram language model for the beam.")]
Backends = Annotated[list[str] | None, typer.Option(help="Engine; several make several rows.")]
Devices = Annotated[list[str] | None, typer.Option(help="cpu or cuda; several make several rows.")]
Threads = Annotated[list[int] | None, typer.Option(help="Threads; several make several rows.")]
Baseline = Annotated[str | None, typer.Option(help="Row to compare with; the first by default.")]
SpeakersFixed = Annotated[bool, typer.Option(help="Intervals for just these speakers.")]


def evaluate(
    bundle: Annotated[list[Path], typer.Argument(metavar="[NAME=]BUNDLE", help="Recognizers, one a row.")],
    data: Annotated[Path, typer.Option(help="Manifest of the test set.")],
    out: Annotated[Path, typer.Option(help="Results, JSONL; runs are appended.")],
    decoder: Decoder = "auto",
    lm: LanguageModel = None,
    backend: Backends = None,
    device: Devices = None,
    threads: Threads = None,
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

    variants = _variants(bundle, decoder, lm, backend, device, threads, batch)
    settings = {"rounds": rounds, "limit": limit, "pin_cores": pin, "footprints": footprints, "fresh": fresh}
    run(variants, data, out, progress=not json, **settings)  # type: ignore[arg-type]
    _show(report_on([out]), json)


def compare(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS", help="Files of asr-compress evaluate.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    baseline: Baseline = None,
    scope: Annotated[str, typer.Option(help="What times cover: e2e, features+model or model.")] = "e2e",
    scoring: Annotated[str, typer.Option(help="jiwer, or sclite for NIST's split of the errors.")] = "jiwer",
    speakers_fixed: SpeakersFixed = False,
    margin: Annotated[
        float | None, typer.Option(help="Points of WER that matter; verdicts are then by it, for low error rates.")
    ] = None,
    json: Json = False,
) -> None:
    """Make the table and the plots from results: Markdown, CSV, JSON, HTML, PNG and SVG, and listings of the errors.

    \b
    Examples:
      asr-compress compare results.jsonl --out report
      asr-compress compare results.jsonl --baseline fp32 --out report
      asr-compress compare digits.jsonl --margin 0.5 --out report
      asr-compress compare laptop.jsonl server.jsonl --scope model --out report
    """
    from asr_compress.evaluation.compare import compare as report_on

    for what, value, allowed in (
        ("scope", scope, ("e2e", "features+model", "model")),
        ("scoring", scoring, ("jiwer", "sclite")),
    ):
        if value not in allowed:
            raise InputError(f"--{what} is {value!r}; choose one of {', '.join(allowed)}")
    if margin is not None and not 0 < margin < 100:
        raise InputError(f"--margin is {margin}; it is in points and must lie between 0 and 100 (0.5 is half a point)")
    share = None if margin is None else margin / 100
    report = report_on(results, out, baseline, scope, scoring, speakers_fixed, share)  # type: ignore[arg-type]
    _show(report, json)
    if not json:
        typer.echo("\n".join(f"{kind}: {path}" for kind, path in report.files.items()))


def benchmark(
    bundle: Annotated[list[Path] | None, typer.Argument(metavar="[NAME=]BUNDLE", help="Recognizers.")] = None,
    data: Annotated[Path | None, typer.Option(help="Manifest of utterances to time; without, cold start only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results, JSONL; runs are appended.")] = None,
    mode: Annotated[str, typer.Option(help="throughput or streaming; evaluate measures latency.")] = "throughput",
    decoder: Decoder = "auto",
    lm: LanguageModel = None,
    backend: Backends = None,
    device: Devices = None,
    threads: Threads = None,
    features: Annotated[
        str,
        typer.Option(help="numpy (on the CPU, compiled where it can be), or torch: on the device, for torch engines."),
    ] = "numpy",
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes of throughput.")] = None,
    chunk: Annotated[list[float] | None, typer.Option(help="Seconds of the chunks of streaming.")] = None,
    look_ahead: Annotated[
        list[float] | None, typer.Option(help="Seconds that a model that reads backwards sees ahead in streaming.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times that throughput is measured.")] = 3,
    limit: Annotated[int, typer.Option(help="Utterances.")] = 200,
    suite: Annotated[str | None, typer.Option(help="engine: the engine against others, in the source tree.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(help="Of the engine's suite: each draws six shapes.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="Of the suite, for its fixed ones: 2xBiLSTM-32.")] = None,
    pin: Annotated[bool, typer.Option(help="Keep the process on as many cores as threads.")] = True,
    json: Json = False,
) -> None:
    """Time the cold start of recognizers, and batches, as on a server, or streams, as from a microphone.

    The cold start is a fresh process that loads a bundle and recognizes 5 s: its time and its memory.

    \b
    Examples:
      asr-compress benchmark model.safetensors
      asr-compress benchmark --suite engine --seeds 1 --seeds 2 --batch 1 --threads 1 --json
      asr-compress benchmark model.safetensors --data manifests/test.jsonl.gz --out batches.jsonl --batch 1 --batch 16
      asr-compress benchmark m.safetensors --mode streaming --chunk 0.1 --data manifests/test.jsonl.gz --out s.jsonl
      asr-compress benchmark m.safetensors --backend torch-fp16 --device cuda --features torch --batch 64 \\
          --data manifests/test.jsonl.gz --out gpu.jsonl
    """
    if suite is not None:
        _suite(suite, bundle, seeds, shape, batch, threads, rounds, json)
        return
    if not bundle or (data is None) != (out is None):
        raise InputError("benchmark: give bundles, and --data together with --out; or --suite engine")
    from asr_compress.evaluation.benchmark import Sweep
    from asr_compress.evaluation.benchmark import benchmark as run
    from asr_compress.evaluation.benchmark_report import benchmark_tables
    from asr_compress.evaluation.cold_start import cold_start, cold_start_table

    started = [(name, cold_start(path)) for name, path in _named(bundle).items()]
    tables = [cold_start_table(started)]
    if data is not None and out is not None:
        standard = Sweep()
        sweep = Sweep(
            tuple(batch or standard.batches),
            tuple(chunk or standard.chunks_s),
            tuple(look_ahead or standard.look_aheads_s),
        )
        variants = _variants(bundle, decoder, lm, backend, device, threads, None, features=features)
        run(variants, data, out, mode, limit, rounds, sweep, pin, progress=not json)  # type: ignore[arg-type]
        tables += benchmark_tables([out])
    if json:
        show_json([{"title": table.title, "rows": table.rows, "notes": table.notes} for table in tables])
    for table in [] if json else tables:
        table.show(_console())


def gate(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS", help="Files of asr-compress evaluate.")],
    margin: Annotated[float, typer.Option(help="Largest increase of the WER: a share of the baseline's.")] = 0.01,
    absolute: Annotated[bool, typer.Option(help="The margin is a rate: 0.005 is half a point.")] = False,
    baseline: Baseline = None,
    candidate: Annotated[list[str] | None, typer.Option(help="Rows to test; all others by default.")] = None,
    speakers_fixed: SpeakersFixed = False,
    json: Json = False,
) -> None:
    """Say PASS or FAIL: is the word error rate surely within a margin of the baseline's? Exit code 1 if not.

    Sure is what the paired 95 % interval of the difference says: its upper end must be within the margin, and a test
    set too small to tell passes nothing.

    \b
    Examples:
      asr-compress gate results.jsonl --margin 0.01
      asr-compress gate results.jsonl --baseline fp32 --candidate int8 --margin 0.02
      asr-compress gate digits.jsonl --absolute --margin 0.005
    """
    from asr_compress.evaluation.gate import gate as test

    tested = test(results, margin, not absolute, baseline, candidate, speakers_fixed)
    if json:
        show_json(tested.to_json())
    else:
        typer.echo("\n".join(map(str, tested.verdicts)))
    raise typer.Exit(tested.exit_code)


def _suite(
    suite: str,
    bundle: list[Path] | None,
    seeds: list[int] | None,
    shapes: list[str] | None,
    batches: list[int] | None,
    threads: list[int] | None,
    rounds: int,
    json: bool,
) -> None:
    if suite != "engine" or bundle:
        raise InputError(f"--suite {suite}: the one suite is engine, and it makes its own models: give no bundles")
    clone = Path(__file__).parents[2]
    if not (clone / "benchmarks" / "engine.py").is_file():
        raise InputError(
            "--suite engine runs benchmarks/engine.py, which is in the source tree and not in the installed package: "
            "clone the repository and install it from there (pip install -e '.[train,peers]')"
        )
    sys.path.insert(0, str(clone))
    from benchmarks import engine

    values = {"--seeds": seeds, "--shapes": shapes, "--batches": batches, "--threads": threads, "--rounds": [rounds]}
    given = [text for option, those in values.items() if those for text in (option, *map(str, those))]
    if shapes and not seeds:
        given += ["--seeds"]  # these shapes alone
    record = engine.main(given, show=(lambda text: None) if json else typer.echo)
    if json:
        show_json(record)


def _variants(
    bundles: list[Path],
    decoder: str,
    lm: Path | None,
    backend: list[str] | None,
    device: list[str] | None,
    threads: list[int] | None,
    batch: list[int] | None,
    **common: str,
) -> list[Variant]:
    from asr_compress.evaluation.variants import combinations

    return combinations(
        _named(bundles),
        backends=backend or ["native"],
        devices=device or ["cpu"],
        threads=threads or [1],
        batches=batch or [1],
        decoder=decoder,
        lm=lm,
        **common,
    )


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
    from asr_compress.evaluation import table
    from asr_compress.evaluation.compare import Report

    assert isinstance(report, Report)
    if json:
        show_json({"title": report.title, "rows": table.plain(report.rows), "notes": report.notes})
    else:
        report.show(_console())


def _console() -> Console:
    from rich.console import Console

    return Console(width=max(Console().width, WIDTH))
