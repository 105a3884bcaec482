"""Audio without transcripts: the teacher alone says what is in it."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.criteria import gains
from asr_compress.compression.distillation import Distillation, DistillationParams
from asr_compress.compression.pipeline import compress
from asr_compress.compression.recipe import Recipe
from asr_compress.compression.teacher import Posteriors, label_count
from asr_compress.corpora.batches import Batch
from asr_compress.corpora.manifests import read_manifest, write_manifests
from asr_compress.models.convert import to_network
from asr_compress.models.maps import maps_of
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.training.objective import ctc
from tests.compression.speech import Outputs, batches
from tests.compression.test_distillation import SYMBOLS
from tests.models.small import BINS, small

TRAINING = {"epochs": 1, "batch_s": 3.0, "device": "cpu", "augment": {"speeds": [1.0], "time_masks": 0}}
TEACHERS: list[Any] = [
    {"distillation": {"blank_weight": 0.5}},
    {"guided_ctc": {"weight": 0.1}},
    {"sequence_distillation": {"count": 2}},
    "hidden_regression",
]


def without_text(path: str, folder: Path, every: int = 1) -> str:
    """The manifest with every `every`-th transcript gone, speakers too."""
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line) for line in file]
    for line in lines[::every]:
        for key in ("text", "speaker"):
            del line["supervisions"][0][key]
    silent = folder / "silent.jsonl.gz"
    with gzip.open(silent, "wt") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    return str(silent)


def muted(batch: Batch, rows: list[int]) -> Batch:
    lengths = batch.target_lengths.clone()
    lengths[rows] = 0
    return replace(batch, target_lengths=lengths)


def test_ctc_counts_only_what_has_a_transcript() -> None:
    batch = next(batches())
    logits = torch.randn(3, 40, 12, requires_grad=True)
    one = batch.rows(1, 3)
    alone = ctc(logits[1:2], batch.feature_lengths[1:2], one)
    loss = ctc(logits, batch.feature_lengths, muted(batch, [0, 2]))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[[0, 2]].any() and gradient[1].any()
    nothing = ctc(logits, batch.feature_lengths, replace(muted(batch, [0, 1, 2]), targets=batch.targets[:, :0]))
    assert nothing.item() == 0


def test_labels_of_the_teacher_stand_in_for_the_transcript() -> None:
    batch = next(batches())
    best = torch.tensor([[0, 1, 1, 0, 1, 2, 2], [3, 3, 3, 3, 4, 4, 4], [0, 0, 0, 0, 0, 5, 5]])
    posteriors = Posteriors(torch.nn.functional.one_hot(best, 12).float().log(), torch.tensor([7, 7, 5]))
    assert label_count(batch, posteriors) == 3 + 2 + 1
    assert label_count(muted(batch, [0, 1]), posteriors) == 3 + 2 + 1
    assert label_count(muted(batch, [1, 2]), posteriors) == 3 + 2 + 0
    assert label_count(muted(batch, [0, 1, 2]), Posteriors(posteriors.log_probs[:, :1], torch.tensor([0, 0, 0]))) == 1


def test_manifests_without_text(data: dict[str, list[str]], tmp_path: Path) -> None:
    silent = without_text(data["train"][0], tmp_path)
    with pytest.raises(InputError, match="cut 'u00' must have one supervision with text and speaker"):
        read_manifest(silent)
    cuts = read_manifest(silent, transcribed=False)
    assert len(cuts) == 12 and not any(cut.supervisions[0].text for cut in cuts)
    with pytest.raises(InputError, match="text and speaker"):
        write_manifests({"train": cuts}, tmp_path / "again")
    (path,) = write_manifests({"train": cuts}, tmp_path / "again", transcribed=False).values()
    assert list(read_manifest(path, transcribed=False)) == list(cuts)


@pytest.mark.parametrize("taught", [*TEACHERS, TEACHERS], ids=lambda taught: str(len(taught)))
def test_a_student_learns_from_audio_alone(
    taught: Any, bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]
) -> None:
    """Every pass with a teacher, and all together; the next stage takes statistics of the same speech."""
    passes = taught if isinstance(taught, list) else [taught]
    stages = [
        {"name": "distil", "passes": passes, "training": TRAINING},
        {"name": "int8", "passes": [{"quantization": {"activations": "static"}}]},
    ]
    silent = [without_text(data["train"][0], tmp_path)]
    recipe = Recipe.from_json({"student": "lstm-tiny", "stages": stages, "train": silent, "dev": data["dev"]})
    result = compress(bundle_path, recipe, tmp_path / "run")
    assert np.isfinite(result.history[1]["after"]["dev"]["loss"])
    assert {stored["pass"] for stored in result.history[1]["reports"]} == {
        next(iter(spec)) if isinstance(spec, dict) else spec for spec in passes
    }


def test_the_student_comes_closer_to_the_teacher(tmp_path: Path) -> None:
    teacher_path, student = tmp_path / "teacher.safetensors", small("lstm")
    Bundle(to_network(small("blstm", seed=21)), FeatureConfig(bins=BINS), SYMBOLS).save(teacher_path)
    step = Distillation(DistillationParams(teacher=(teacher_path,), blank_weight=1.0, top_k=99))
    step.prepare(student, Context(folder=tmp_path, tokens=SYMBOLS))
    silent = [muted(batch, [0, 1, 2]) for batch in batches()]
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        total = torch.zeros(())
        for batch in silent:
            logits, lengths = student(batch.features, batch.feature_lengths)
            total = total + step.losses(batch, Outputs(logits, lengths))["distillation"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]


def test_some_with_and_some_without(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    """A teacher hears all; CTC alone leaves out what it has no transcript of, and says so."""
    mixed = [without_text(data["train"][0], tmp_path, every=3)]
    stages = [
        {"name": "distil", "passes": ["distillation"], "training": TRAINING},
        {"name": "more", "training": TRAINING},
    ]
    said: list[str] = []
    recipe = Recipe.from_json({"stages": stages, "train": mixed, "dev": data["dev"]})
    result = compress(bundle_path, recipe, tmp_path / "run", say=said.append)
    assert result.history[1]["reports"][0]["figures"]["cached_utterances"] == 12
    assert "stage more: utterances left out: 4 (no transcript)" in said
    assert not any("stage distil: utterances left out" in line for line in said)


def test_what_needs_transcripts_says_so(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    silent = [without_text(data["train"][0], tmp_path)]
    cases = {
        "no utterance is left to train on .*no transcript": {"name": "a", "training": TRAINING},
        "stage 'b': cr_ctc is a term for each label": {
            "name": "b",
            "passes": ["distillation"],
            "training": {**TRAINING, "cr_ctc": 0.2},
        },
        "pruning: fisher needs transcripts": {"passes": [{"pruning": {"sparsity": 0.5, "criterion": "fisher"}}]},
    }
    for number, (message, stage) in enumerate(cases.items()):
        recipe = Recipe.from_json({"stages": [stage], "train": silent, "dev": data["dev"]})
        with pytest.raises(InputError, match=message):
            compress(bundle_path, recipe, tmp_path / f"run{number}", cache=tmp_path / "cache")
    recipe = Recipe.from_json({"stages": [{"passes": ["dynamic_int8"]}], "train": silent, "dev": silent})
    with pytest.raises(InputError, match="must have one supervision with text"):
        compress(bundle_path, recipe, tmp_path / "dev")


def test_gradients_are_of_the_transcribed_batches() -> None:
    model = small()
    maps = maps_of(model, ["recurrent"])
    first, second = batches()
    silent = muted(second, [0, 1, 2])
    mixed = gains(model, maps, "fisher", Context(batches=lambda: [first, silent]), "x")
    alone = gains(model, maps, "fisher", Context(batches=lambda: [first]), "x")
    for one, other in zip(mixed, alone, strict=True):
        np.testing.assert_array_equal(one, other)
