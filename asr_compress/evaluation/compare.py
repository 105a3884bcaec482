"""From results files to a report: tables, plots, error listings and a page, in one folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console, Group
from rich.text import Text

from asr_compress.evaluation import errors, html, plots, table
from asr_compress.evaluation.benchmark_report import BenchmarkTable, benchmark_tables
from asr_compress.evaluation.cost import ENERGY_ASSUMPTIONS
from asr_compress.evaluation.errors import ErrorReport
from asr_compress.evaluation.recognition import Scope
from asr_compress.evaluation.results import Results, load_results
from asr_compress.evaluation.scoring import Scored, score_results
from asr_compress.evaluation.summary import Row, summarize
from asr_compress.evaluation.wer import Scoring
from asr_compress.runtime.files import atomic_write

_BUSY = 0.5  # load a core at the start of a run above which its times are not to be trusted
_SCOPES = {
    "e2e": "from a waveform in memory to text",
    "features+model": "from a waveform in memory to logits",
    "model": "from features to logits",
}


@dataclass(frozen=True)
class Report:
    """What `compare` found.

    Attributes:
        rows: of the table, in order.
        benchmarks: tables of `benchmark` runs that are in the same files.
        files: what was written, by kind: "md", "csv", "json", "html", "png", "svg", and error listings.
    """

    scored: Scored
    rows: tuple[Row, ...]
    title: str
    notes: tuple[str, ...]
    benchmarks: tuple[BenchmarkTable, ...]
    files: dict[str, Path]

    def show(self, console: Console | None = None) -> None:
        """Print the tables."""
        console = console or Console()
        console.print(Group(Text(self.title, style="bold"), Text(), *table.terminal(self.rows)))
        for benchmark in self.benchmarks:
            benchmark.show(console)
        for note in self.notes:
            console.print(Text(note, style="dim"))


def compare(
    results: Sequence[str | Path],
    out: str | Path | None = None,
    baseline: str | None = None,
    scope: Scope = "e2e",
    scoring: Scoring = "jiwer",
    speakers_fixed: bool = False,
    margin: float | None = None,
) -> Report:
    """Score results files together and write the report.

    Args:
        results: files of `evaluate`, from one machine or several.
        out: folder to write to; None writes nothing.
        baseline: the row that others are compared with; the first by default.
        scope: what real-time factors and latencies cover.
        scoring: "jiwer", or "sclite" for NIST's split into S, D and I.
        margin: absolute difference of word error rates that matters, for verdicts at low error rates (0.005 is half a
            point); by default verdicts are about differences from zero.
        speakers_fixed: intervals for just these speakers, as for test sets of a few known ones.

    Raises:
        InputError: see `load_results` and `summarize`.
        OSError: the folder cannot be written.
    """
    merged = load_results(results)
    scored = score_results(merged, scoring, speakers_fixed)
    rows = summarize(scored, scope, baseline, margin)
    chosen = baseline or next(row.name for row in rows if row.first.texts)
    notes = tuple(_notes(merged, scored, rows, scope, chosen, margin))
    report = Report(scored, tuple(rows), _title(merged), notes, tuple(benchmark_tables(results)), {})
    return report if out is None else _written(report, Path(out), chosen)


def _written(report: Report, folder: Path, baseline: str) -> Report:
    scored, rows = report.scored, report.rows
    reports = _error_reports(scored, baseline)
    first, *rest = report.notes
    texts = {
        "md": ("report.md", _markdown(report)),
        "csv": ("report.csv", table.csv_text(rows)),
        "json": ("report.json", _json(report)),
        "html": ("report.html", html.page(scored, rows, reports, report.title, first, rest)),
        "utterances": ("errors/utterances.csv", errors.utterances_csv(scored)),
        "words": ("errors/words.csv", errors.words_csv(scored, reports)),
        "groups": ("errors/groups.csv", errors.groups_csv(scored, reports)),
    }
    written: dict[str, Path] = {}
    for kind, (name, text) in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written[kind] = folder / name
    for path in plots.draw(rows, folder, note=_plot_note(report)):
        written[path.name] = path
    return replace(report, files=written)


def _plot_note(report: Report) -> str:
    machines = dict.fromkeys(run.machine for run in report.scored.results.runs)
    return "\n".join([report.title, *machines])


def _error_reports(scored: Scored, baseline: str) -> dict[int, ErrorReport]:
    """Errors of every recognized variant, beside the first of the baseline's."""
    variants = scored.results.variants
    reference = next(i for i in scored.scores if variants[i].label == baseline)
    return {i: errors.report_errors(scored, i, reference) for i in scored.scores}


def _title(results: Results) -> str:
    test_set = results.runs[0].test_set
    return (
        f"{test_set['name']}: {test_set['utterances']} utterances of {test_set['speakers']} speakers, "
        f"{test_set['audio_s'] / 3600:.2f} h"
    )


def _notes(
    results: Results, scored: Scored, rows: Sequence[Row], scope: Scope, baseline: str, margin: float | None
) -> list[str]:
    """How the numbers were made; a table without them means nothing."""
    counted = next(iter(scored.scores.values())).scoring
    rounds = sorted({run.settings["rounds"] for run in results.runs})
    notes = [
        f"Baseline: {baseline}. WER by {counted} counts, texts normalized by {results.normalizer!r}. 95 % intervals: "
        f"{scored.how}; differences are paired on the same draws. {_verdict_note(margin)}",
        f"RTF and latency {_SCOPES[scope]} ({scope}), files read apart; median (smallest-largest) of "
        f"{' or '.join(map(str, rounds))} rounds in which variants took turns; latency by utterance, its median round. "
        "On disk: the bundle, whatever an engine makes of it. MACs and energy a second of audio. Peak memory and load "
        "time of a fresh process a variant.",
    ]
    for run in results.runs:
        e = run.environment
        packages = ", ".join(f"{name} {version}" for name, version in e["packages"].items())
        gpu = f"; {e['gpu']['name']}, CUDA {e['gpu']['cuda']}, cuDNN {e['gpu']['cudnn']}" if e.get("gpu") else ""
        kernels = f"; native engine with {e['kernels']}" if e.get("kernels") else ""  # older records lack it
        notes.append(
            f"Measured {e['date']} on {run.machine} ({', '.join(e['instruction_sets'])}{kernels}){gpu}; {e['system']}; "
            f"Python {e['python']}; {packages}; commit {e['commit']}; load at the start {e['load']}; "
            f"process {'pinned to as many cores as threads' if run.settings['pin_cores'] else 'not pinned to cores'}."
        )
        if (load := e["load"] or 0) > _BUSY * (e["cores"] or 1):
            notes.append(
                f"The machine was busy when this began (load {load} on {e['cores']} cores): its times are too long and "
                "say little about each other. Measure again on an idle machine."
            )
    notes.append(f"Energy, an estimate: {ENERGY_ASSUMPTIONS}")
    failed = {row.name: row.accuracy.failed for row in rows if not isinstance(row.accuracy, table.NA)}
    notes += [f"{name}: failed utterances, counted as deletions: {count}." for name, count in failed.items() if count]
    unsteady = {row.name: row.accuracy.unsteady for row in rows if not isinstance(row.accuracy, table.NA)}
    notes += [f"{name}: utterances that changed between rounds: {count}." for name, count in unsteady.items() if count]
    return [*notes, *results.notes]


def _verdict_note(margin: float | None) -> str:
    if margin is None:
        return "Verdict: 'better' or 'worse' where that interval excludes zero."
    points = f"{100 * margin:g} points"
    return (
        f"Verdict: 'within margin' where all of that interval is below +{points}, 'beyond margin' where all of it is "
        f"above; 'no evidence' where it is neither, or wider than +-{points}."
    )


def _markdown(report: Report) -> str:
    pictures = "\n".join(f"![{axis.title}]({axis.name}.svg)" for axis in plots.AXES if plots.points(report.rows, axis))
    notes = "\n".join(f"- {note}" for note in report.notes)
    benchmarks = "".join(f"{benchmark.markdown()}\n" for benchmark in report.benchmarks)
    return f"## {report.title}\n\n{table.markdown(report.rows)}\n{pictures}\n\n{benchmarks}{notes}\n"


def _json(report: Report) -> str:
    results = report.scored.results
    content = {
        "title": report.title,
        "test_set": results.runs[0].test_set,
        "scoring": next(iter(report.scored.scores.values())).scoring,
        "intervals": report.scored.how,
        "environments": [run.environment for run in results.runs],
        "notes": report.notes,
        "rows": table.plain(report.rows),
        "benchmarks": [{"title": made.title, "rows": made.rows, "notes": made.notes} for made in report.benchmarks],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
