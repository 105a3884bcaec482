"""Every engine must say what the reference says, and every n/a must carry its reason."""

from __future__ import annotations

import numpy as np
import pytest

from asr_compress.evaluation.backends import BACKENDS, Unavailable
from asr_compress.evaluation.recognition import Recognition
from asr_compress.evaluation.variants import Variant, check_unique, combinations
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.formats import Int8
from tests.evaluation.bundles import BINS, bundle
from tests.runtime.networks import Maker


def load(path, backend: str, device: str = "cpu"):
    try:
        return BACKENDS[backend].load(Bundle.load(path), device, 1)
    except Unavailable as reason:
        pytest.skip(f"{backend}: {reason}")


# How far from the reference, as a share of the largest logit: float engines by rounding, the others by their numbers.
TOLERANCE = {"torch": 1e-4, "onnx": 1e-4, "openvino": 1e-4, "native": 1e-4, "reference": 0.0}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_engine_equals_reference_in_batches(backend, bidirectional, tmp_path):
    path = bundle(tmp_path, bidirectional=bidirectional)
    make = Maker(4)
    batch = [make.frames(frames, BINS) for frames in (40, 3, 21, 40, 1)]
    expected = load(path, "reference").run(batch)
    given = load(path, backend).run(batch)
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= TOLERANCE.get(backend, 0.1) * np.abs(theirs).max()


def test_torch_runs_what_integer_weights_mean(tmp_path):
    path = bundle(tmp_path, encode=Int8.encode)
    x = [Maker(5).frames(30, BINS)]
    theirs, ours = load(path, "reference").run(x)[0], load(path, "torch").run(x)[0]
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()  # the engine also quantizes activations
    module = load(path, "torch").module
    assert not any(hasattr(part, "parametrizations") for part in module.modules())  # nothing computed at every call


def test_projection_has_no_int8_in_torch(tmp_path):
    make = Maker(1)
    small = Bundle.load(bundle(tmp_path, bidirectional=False))
    network = (make.lstm(BINS, 8, projection=4), make.linear(4, len(small.tokens)))
    with pytest.raises(Unavailable, match="projection"):
        BACKENDS["torch-int8"].load(Bundle(network, small.features, small.tokens), "cpu", 1)


def test_float16_is_unavailable_on_a_cpu(tmp_path):
    with pytest.raises(Unavailable, match="no float16 LSTM"):
        BACKENDS["torch-fp16"].load(Bundle.load(bundle(tmp_path)), "cpu", 1)


def test_recognition_times_stages_and_takes_short_audio(tmp_path):
    recognition = Recognition(Variant("small", bundle(tmp_path), "reference"))
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32) * 0.1
    result = recognition.recognize([noise, noise[:100], noise[:8000]])
    assert len(result.texts) == 3 and result.texts[1] == ""
    alone = recognition.recognize([noise[:8000]])
    assert alone.texts[0] == result.texts[2]
    stages = result.times
    assert min(stages.features_s, stages.model_s, stages.decode_s) > 0
    assert stages.total_s == pytest.approx(stages.features_s + stages.model_s + stages.decode_s)
    assert recognition.recognize([noise[:100]]).texts == ("",)


def test_variants_are_checked(tmp_path):
    path = bundle(tmp_path)
    with pytest.raises(InputError, match=r"backend is 'tensorrt'; choose one of native"):
        Variant("a", path, "tensorrt")
    with pytest.raises(InputError, match="not on 'cuda'"):
        Variant("a", path, "native", "cuda")
    with pytest.raises(InputError, match="threads is 0"):
        Variant("a", path, threads=0)
    with pytest.raises(InputError, match="no use for a language model"):
        Variant("a", path, decoder="greedy", lm=tmp_path / "lm.arpa")
    with pytest.raises(InputError, match="two variants are called 'a'"):
        check_unique([Variant("a", path), Variant("a", path)])
    check_unique([Variant("a", path, seed=1), Variant("a", path, seed=2)])
    with pytest.raises(InputError, match="nothing to evaluate"):
        check_unique([])


def test_combinations_name_what_differs(tmp_path):
    path = bundle(tmp_path)
    found = combinations({"x": path}, backends=["native", "torch"], devices=["cpu", "cuda"], threads=[1])
    assert [(v.name, v.backend, v.device) for v in found] == [
        ("x, native, cpu", "native", "cpu"),
        ("x, torch, cpu", "torch", "cpu"),
        ("x, torch, cuda", "torch", "cuda"),
    ]
    assert [v.name for v in combinations({"x": path, "y": path}, batches=[1, 8])] == [
        "x, batch 1", "x, batch 8", "y, batch 1", "y, batch 8",
    ]  # fmt: skip
