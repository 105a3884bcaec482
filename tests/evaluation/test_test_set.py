"""A test set must be the same utterances for everybody, and lose none."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from asr_compress.corpora.manifests import write_manifests
from asr_compress.corpora.utterances import Utterance, to_cuts
from asr_compress.evaluation.test_set import batches, load_test_set
from asr_compress.runtime.errors import InputError
from tests.evaluation.bundles import noise_set


def test_order_is_shuffled_alike_and_limit_takes_the_first(tmp_path):
    manifest = noise_set(tmp_path, utterances=20)
    one, two = load_test_set(manifest), load_test_set(manifest)
    ids = [reference.id for reference in one.references]
    assert ids == [reference.id for reference in two.references] != sorted(ids)
    part = load_test_set(manifest, limit=5)
    assert [reference.id for reference in part.references] == ids[:5]
    assert one.fingerprint == two.fingerprint != part.fingerprint


def test_fingerprint_follows_the_content_not_the_place(tmp_path):
    manifests = []
    for place, text in (("a", "HELLO"), ("b", "HELLO"), ("c", "HALLO")):
        folder = tmp_path / place
        folder.mkdir()
        soundfile.write(folder / "x.wav", np.zeros(8000), 16000)
        cuts = to_cuts("test", [Utterance("x", folder / "x.wav", text, "s", "made up")])
        manifests.append(write_manifests({"test": cuts}, folder)["test"])
    prints = [load_test_set(manifest).fingerprint for manifest in manifests]
    assert prints[0] == prints[1] != prints[2]


def test_audio_is_read_or_its_failure_told(tmp_path):
    test_set = load_test_set(noise_set(tmp_path, utterances=6, broken=2))
    audio = test_set.read(test_set.references, 8000)
    assert len(audio) == 6
    failed = [id for id, found in audio.items() if isinstance(found, str)]
    assert sorted(failed) == ["u004", "u005"] and all("u" in str(audio[id]) for id in failed)
    for reference in test_set.references:
        if reference.broken is None:
            assert len(audio[reference.id]) == pytest.approx(reference.duration_s * 8000, abs=1)
    gone = tmp_path / "u0.wav"
    gone.unlink()
    assert "u0.wav: no such file" in str(test_set.read(test_set.references, 16000)["u000"])


def test_part_of_a_recording_is_cut_out(tmp_path):
    ramp = np.linspace(-0.5, 0.5, 16000, dtype=np.float32)
    soundfile.write(tmp_path / "x.wav", ramp, 16000, subtype="FLOAT")
    cuts = to_cuts("test", [Utterance("x", tmp_path / "x.wav", "A", "s", "made up")])
    part = cuts[0].truncate(offset=0.25, duration=0.5)
    part.id = "part"
    part.custom = dict(cuts[0].custom)
    from lhotse import CutSet

    test_set = load_test_set(write_manifests({"test": CutSet.from_cuts([part])}, tmp_path)["test"])
    np.testing.assert_allclose(test_set.read(test_set.references, 16000)["part"], ramp[4000:12000], atol=1e-6)


def test_takes_must_be_one_a_word(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(8000), 16000)
    utterance = Utterance("x", tmp_path / "x.wav", "ONE TWO", "s", "made up", custom={"takes": ["t1"]})
    manifest = write_manifests({"test": to_cuts("test", [utterance])}, tmp_path)["test"]
    with pytest.raises(InputError, match="1 takes for 2 words"):
        load_test_set(manifest)


def test_normalizers_must_agree(tmp_path):
    cuts = []
    for name, normalizer in (("x", "upper"), ("y", "spaces")):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(8000), 16000)
        cuts += to_cuts("test", [Utterance(name, tmp_path / f"{name}.wav", "A", "s", "made up")], normalizer)
    from lhotse import CutSet

    manifest = write_manifests({"test": CutSet.from_cuts(cuts)}, tmp_path)["test"]
    with pytest.raises(InputError, match="normalized by spaces and upper"):
        load_test_set(manifest)


def test_batches_hold_like_lengths(tmp_path):
    references = load_test_set(noise_set(tmp_path, utterances=10)).references
    parts = batches(references, 4)
    lengths = [reference.duration_s for batch in parts for reference in batch]
    assert [len(batch) for batch in parts] == [4, 4, 2] and lengths == sorted(lengths)
    assert [batch[0] for batch in batches(references, 1)] == list(references)
