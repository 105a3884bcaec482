"""Made-up results files: texts and times are given, nothing is recognized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_compress.evaluation import cost
from asr_compress.evaluation.records import SCHEMA, Journal
from asr_compress.runtime.bundle import Bundle
from tests.evaluation.bundles import bundle


@dataclass
class Made:
    """A variant with its texts; `rtf` is its real-time factor in each round."""

    name: str
    texts: Mapping[str, str | None]
    rtf: Sequence[float] = (0.1, 0.2, 0.3)
    bundle: Path | None = None
    backend: str = "native"
    device: str = "cpu"
    batch: int = 1
    seed: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Spoken:
    """An utterance of a made-up test set."""

    id: str
    text: str
    speaker: str = "anna"
    duration_s: float = 1.0
    takes: tuple[str, ...] = ()


def write(
    path: Path,
    spoken: Sequence[Spoken],
    variants: Sequence[Made],
    normalizer: str = "upper",
    cpu: str = "a processor",
    fingerprint: str = "f1",
) -> Path:
    """A complete run in a results file."""
    run = f"run of {path.name} {len(path.read_text()) if path.exists() else 0}"
    journal = Journal(path, run)
    test_set = {
        "name": "made", "fingerprint": fingerprint, "normalizer": normalizer, "utterances": len(spoken),
        "speakers": len({s.speaker for s in spoken}), "audio_s": sum(s.duration_s for s in spoken),
    }  # fmt: skip
    environment = {
        "cpu": cpu, "cores": 2, "instruction_sets": ["avx2"], "packages": {"numpy": "2"}, "system": "Linux",
        "gpu": None, "python": "3.11", "commit": "abc", "load": 0.1, "date": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    settings = {"rounds": 3, "warmup": 1, "pin_cores": True, "scope": "e2e"}
    lines: list[dict] = [
        {
            "kind": "run", "schema": SCHEMA, "id": run, "key": run, "mode": "evaluate", "settings": settings,
            "test_set": test_set, "environment": environment,
        }
    ]  # fmt: skip
    lines += [
        {"kind": "reference", "id": s.id, "speaker": s.speaker, "duration_s": s.duration_s, "text": s.text,
         "takes": list(s.takes), "broken": None}
        for s in spoken
    ]  # fmt: skip
    for variant in variants:
        lines += _variant_lines(path.parent, spoken, variant)
    journal.write(lines)
    journal.close()
    return path


def _variant_lines(folder: Path, spoken: Sequence[Spoken], made: Made) -> list[dict]:
    file = made.bundle or bundle(folder, hidden=4)
    content = Bundle.load(file)
    key = made.name if made.seed is None else f"{made.name}#{made.seed}"
    variant = {
        "name": made.name, "bundle": file.name, "backend": made.backend, "device": made.device, "threads": 1,
        "batch": made.batch, "decoder": "greedy", "lm": None, "seed": made.seed,
    }  # fmt: skip
    record = {
        "kind": "variant", "key": key, "variant": variant, "sha256": file.name, "model": {},
        "cost": cost.measure(content, file.stat().st_size).to_json(), "history": content.history,
        "footprint": {"peak_bytes": 50_000_000, "start_bytes": 1, "load_s": 0.2}, **made.extra,
    }  # fmt: skip
    lines = [record]
    if "unavailable" in made.extra:
        return lines
    for round_, rtf in enumerate(made.rtf):
        for s in spoken:
            text = made.texts[s.id]
            total = rtf * s.duration_s if text is not None else 0.0
            line = {"kind": "timed", "variant": key, "round": round_, "block": 0, "id": s.id, "text": text}
            times = {"features_s": 0.1 * total, "model_s": 0.7 * total, "decode_s": 0.2 * total}
            lines.append({**line, **times, **({} if text is not None else {"failed": "no audio"})})
    return lines
