"""The report must say what the results say, and refuse what does not compare."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from asr_compress.evaluation import plots, table
from asr_compress.evaluation.compare import compare
from asr_compress.evaluation.plots import Point, pareto
from asr_compress.evaluation.summary import NA
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import BLOCK_SPARSE, Float32, Int8
from tests.evaluation.bundles import bundle
from tests.evaluation.results_files import Made, Spoken, write

SPOKEN = [
    Spoken("u1", "THE CAT SAT", "anna", 1.0),
    Spoken("u2", "A DOG RAN HOME", "anna", 2.0),
    Spoken("u3", "BIRDS FLY", "ben", 1.0),
    Spoken("u4", "FISH SWIM IN THE SEA", "ben", 3.0),
    Spoken("u5", "THE SUN IS UP", "cleo", 1.0),
]
RIGHT = {s.id: s.text for s in SPOKEN}
TEACHER = {**RIGHT, "u2": "A DOG RAN", "u4": "FISH SWIM IN THE TREE"}
STUDENT = {**TEACHER, "u1": "THE HAT SAT", "u5": "THE THE SUN IS UP", "u4": RIGHT["u4"], "u3": None}


def half_zeros(weights: np.ndarray) -> np.ndarray:
    masked = weights.copy()
    masked[: len(masked) // 2] = 0
    return masked


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("results")
    bundles = {
        "teacher": bundle(tmp_path, "teacher", hidden=32, history=[{"step": "train", "epochs": 3}]),
        "student": bundle(tmp_path, "student", Int8.encode, history=[{"pass": "quantize", "bits": 8}]),
        "masked": bundle(tmp_path, "masked", lambda w: Float32.encode(half_zeros(w))),
        "blocks": bundle(tmp_path, "blocks", lambda w: BLOCK_SPARSE["float32"].encode(half_zeros(w))),
    }
    return write(
        tmp_path / "results.jsonl",
        SPOKEN,
        [
            Made("teacher", TEACHER, (0.4, 0.2, 0.3), bundles["teacher"]),
            Made("student", STUDENT, (0.1, 0.1, 0.1), bundles["student"]),
            Made("masked", TEACHER, (0.3, 0.3, 0.3), bundles["masked"]),
            Made("blocks in torch", TEACHER, (0.2, 0.2, 0.2), bundles["blocks"], "torch"),
            Made("batched", RIGHT, (0.05, 0.05), bundles["student"], batch=8),
            Made("absent", {}, (), bundles["student"], "openvino", extra={"unavailable": "OpenVINO is not installed"}),
        ],
    )


@pytest.fixture(scope="module")
def report(results):
    return compare([results], results.parent / "report")


def rows_of(results, **options):
    return {row.name: row for row in compare([results], **options).rows}


def test_counts_and_rates(results):
    rows = rows_of(results)
    teacher, student = rows["teacher"].accuracy, rows["student"].accuracy
    assert teacher.wer.point == pytest.approx(2 / 18)
    assert (teacher.counts.substitutions, teacher.counts.deletions, teacher.counts.insertions) == (1, 1, 0)
    # One substitution, the same deletion, one insertion, and the failed utterance's two words.
    assert (student.counts.substitutions, student.counts.deletions, student.counts.insertions) == (1, 3, 1)
    assert student.failed == 1 and teacher.against is None
    assert student.against.absolute.point == pytest.approx(3 / 18)
    assert student.against.relative.point == pytest.approx(1.5)
    assert rows["batched"].accuracy.against.relative.point == -1


def test_with_a_margin_differences_and_verdicts_are_in_points(results):
    wide, narrow = rows_of(results, margin=0.9), rows_of(results, margin=0.001)
    assert wide["batched"].accuracy.against.verdict == "within margin"
    assert narrow["student"].accuracy.against.verdict == "no evidence"
    assert narrow["masked"].accuracy.against.verdict == "within margin"
    text = table.markdown(list(wide.values()))
    assert "points" in text and "% rel." not in text
    assert "% rel." in table.markdown(list(rows_of(results).values()))


def test_speed_by_round_and_scope(results):
    speed = rows_of(results)["teacher"].speed
    assert (speed.rtf.median, speed.rtf.minimum, speed.rtf.maximum) == pytest.approx((0.3, 0.2, 0.4))
    assert (speed.rtfx.median, speed.rtfx.minimum, speed.rtfx.maximum) == pytest.approx((1 / 0.3, 2.5, 5))
    assert speed.stages.model_s == pytest.approx(0.21)
    assert speed.latency_s[50] == pytest.approx(0.3)  # the median utterance lasts a second
    assert speed.latency_s[90] == pytest.approx(0.3 * 2.6)
    model = rows_of(results, scope="model")["teacher"].speed
    assert model.rtf.median == pytest.approx(0.21)
    student = rows_of(results)["student"].speed
    assert student.rtf.median == pytest.approx(0.1)  # the failed utterance counts neither as time nor as audio


def test_every_na_has_its_reason(results):
    rows = rows_of(results)
    assert rows["student"].speed_ratio == pytest.approx(3)
    assert "masked weights run as dense" in rows["masked"].speed_ratio.reason
    assert "no kernel for block_sparse_float32" in rows["blocks in torch"].speed_ratio.reason
    assert rows["absent"].accuracy.reason == rows["absent"].speed.reason == "OpenVINO is not installed"
    assert "8 at a time" in rows["batched"].speed.latency_s[50].reason
    assert "p99 needs 1000" in rows["teacher"].speed.latency_s[99].reason
    assert rows["teacher"].gpu_rtfx.reason == "no GPU was used in these runs"
    assert rows["masked"].size_ratio > 1  # bytes and errors are there all the same
    for cells in table.plain(list(rows.values())):
        missing = {key for key, value in cells.items() if value is None}
        assert all(key in cells["why"] or f"{key[: key.rfind('_')]}" in cells for key in missing), missing


def test_report_files_agree(report):
    content = json.loads(report.files["json"].read_text())
    table_rows = list(csv.DictReader(io.StringIO(report.files["csv"].read_text())))
    for rows in (content["rows"], table_rows):
        assert [row["name"] for row in rows] == [row.name for row in report.rows]
    for ours, theirs in zip(content["rows"], table_rows, strict=True):
        for key, value in ours.items():
            if key != "why" and isinstance(value, float | int):
                assert float(theirs[key]) == pytest.approx(value)
    text = report.files["md"].read_text()
    for section in table.SECTIONS:
        for column in section.columns:
            assert column.title in text
    assert "11.11" in text and "(1) " in text and "a processor, 2 cores" in text
    widths = {}
    for line in text.splitlines():
        if line.startswith("|"):
            widths.setdefault(line.count("|"), []).append(line)
    assert all(len(lines) % (2 + len(report.rows)) == 0 for lines in widths.values())
    for name in ("wer_rtf.png", "wer_rtf.svg", "wer_bytes.png", "wer_bytes.svg"):
        assert report.files[name].stat().st_size > 1000
    assert report.files["wer_rtf.png"].read_bytes().startswith(b"\x89PNG")


def test_terminal_fits(report):
    console = Console(width=120, record=True, force_terminal=False)
    report.show(console)
    text = console.export_text()
    assert "WER % [95 %]" in text and "OpenVINO is not installed" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "…" not in text


def test_error_listings(report):
    utterances = list(csv.DictReader(io.StringIO(report.files["utterances"].read_text())))
    assert len(utterances) == 5 * 5
    student = {row["id"]: row for row in utterances if row["variant"] == "student"}
    assert student["u1"]["alignment"] == "the [CAT>HAT] sat"
    assert student["u3"]["alignment"] == "[BIRDS>-] [FLY>-]" and student["u3"]["failed"] == "no audio"
    words = list(csv.DictReader(io.StringIO(report.files["words"].read_text())))
    of_student = [row for row in words if row["variant"] == "student" and row["kind"] == "broken"]
    broken = {row["reference"]: (row["count"], row["mended"]) for row in of_student}
    assert broken == {"CAT": ("1", "0"), "BIRDS": ("1", "0"), "FLY": ("1", "0"), "SEA": ("0", "1")}
    assert not any(row["variant"] == "teacher" and row["kind"] == "broken" for row in words)
    groups = list(csv.DictReader(io.StringIO(report.files["groups"].read_text())))
    ben = next(row for row in groups if row["variant"] == "student" and row["group"] == "ben")
    assert (ben["words"], ben["errors"]) == ("7", "2")
    assert {row["group"] for row in groups if row["by"] == "words"} == {"0-2", "3-5"}


def test_baseline_can_be_chosen(results):
    rows = rows_of(results, baseline="student")
    assert rows["student"].accuracy.against is None
    assert rows["teacher"].accuracy.against.absolute.point == pytest.approx(-3 / 18)
    with pytest.raises(InputError, match="baseline 'nobody': no such row"):
        rows_of(results, baseline="nobody")
    with pytest.raises(InputError, match="was not recognized: OpenVINO"):
        rows_of(results, baseline="absent")
    with pytest.raises(InputError, match="scope is 'cpu'"):
        rows_of(results, scope="cpu")


def test_machines_merge(tmp_path):
    first = write(tmp_path / "a.jsonl", SPOKEN, [Made("teacher", TEACHER), Made("student", STUDENT)])
    second = write(tmp_path / "b.jsonl", SPOKEN, [Made("student", RIGHT, (0.01,))], cpu="another processor")
    rows = {row.name: row for row in compare([first, second]).rows}
    assert list(rows) == ["teacher", "student @ a processor, 2 cores", "student @ another processor, 2 cores"]
    assert "another run" in rows["student @ another processor, 2 cores"].speed_ratio.reason
    assert rows["student @ another processor, 2 cores"].accuracy.wer.point == 0


def test_later_run_on_one_machine_counts(tmp_path):
    path = write(tmp_path / "a.jsonl", SPOKEN, [Made("teacher", TEACHER), Made("student", STUDENT)])
    write(path, SPOKEN, [Made("student", RIGHT)])
    report = compare([path])
    assert [row.name for row in report.rows] == ["teacher", "student"]
    assert report.rows[1].accuracy.wer.point == 0
    assert any("more than once" in note and "student" in note for note in report.notes)


def test_what_does_not_compare_is_refused(tmp_path):
    first = write(tmp_path / "a.jsonl", SPOKEN, [Made("teacher", TEACHER)])
    other_text = write(tmp_path / "b.jsonl", SPOKEN, [Made("x", TEACHER)], normalizer="spaces")
    with pytest.raises(InputError, match="a.jsonl and b.jsonl do not compare: texts were normalized by 'upper' and by"):
        compare([first, other_text])
    other_set = write(tmp_path / "c.jsonl", SPOKEN[:3], [Made("x", TEACHER)], fingerprint="f2")
    with pytest.raises(InputError, match=r"5 utterances, f1\) and .*3 utterances, f2\) are not the same"):
        compare([first, other_set])
    with pytest.raises(InputError, match="no results files"):
        compare([])


def test_interrupted_run_is_left_out_with_a_note(tmp_path):
    path = write(tmp_path / "a.jsonl", SPOKEN, [Made("teacher", TEACHER), Made("student", STUDENT, (0.1,))])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")  # the student's last utterance is missing
    report = compare([path])
    assert [row.name for row in report.rows] == ["teacher"]
    assert any("student: left out" in note for note in report.notes)


def test_seeds_are_averaged(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        SPOKEN,
        [Made("teacher", TEACHER), Made("student", RIGHT, seed=1), Made("student", STUDENT, seed=2)],
    )
    row = compare([path]).rows[1]
    assert row.name == "student" and len(row.results) == 2
    assert row.accuracy.wer.point == pytest.approx(2.5 / 18)
    assert row.accuracy.wer.low < 2.5 / 18 < row.accuracy.wer.high
    assert isinstance(row.accuracy.against.mapsswe, NA)


def test_takes_are_units_where_all_utterances_have_them(tmp_path):
    spoken = [
        Spoken(f"s{i}", "ONE TWO", f"speaker{i % 2}", takes=(f"one{i}", f"two{i // 2 * 2 + i % 2}")) for i in range(6)
    ]
    texts = {s.id: ("ONE" if s.id == "s3" else "ONE TWO") for s in spoken}
    report = compare([write(tmp_path / "a.jsonl", spoken, [Made("m", texts)])])
    assert report.scored.units.kind == "takes" and len(report.scored.units.words) == 12
    assert report.scored.errors[0].sum() == 1
    assert "takes within them" in report.notes[0]
    fixed = compare([tmp_path / "a.jsonl"], speakers_fixed=True)
    assert "nothing about other speakers" in fixed.notes[0]


def test_pareto_front():
    places = [(1, 9), (2, 5), (3, 6), (4, 5), (5, 1), (1, 8)]
    made = [Point(i, str(i), cost, wer, math.nan, math.nan) for i, (cost, wer) in enumerate(places)]
    assert [point.name for point in pareto(made)] == ["5", "1", "4"]


def test_dishonest_times_are_not_plotted(report):
    by_axis = {axis.name: {point.name for point in plots.points(report.rows, axis)} for axis in plots.AXES}
    assert by_axis["wer_rtf"] == {"teacher", "student", "batched"}
    assert by_axis["wer_bytes"] == {"teacher", "student", "masked", "blocks in torch", "batched"}


def test_units_of_numbers():
    assert [table.bytes_text(x) for x in (999, 1000, 1234567, 999_600_000)] == ["999 B", "1 kB", "1.23 MB", "1 GB"]
    assert [table.count_text(x) for x in (12, 2_600_000)] == ["12", "2.6 M"]
