"""Frame-wise distillation: what counts, what the cache keeps, that the student comes to speak as the teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from asr_compress.compression.base import Context
from asr_compress.compression.distillation import Distillation, DistillationParams, delayed, frame_weights, soft_kl
from asr_compress.compression.teacher import Cache, Posteriors, Teacher, at_rate, pack, unpack
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.models.layers import FrameStack, Linear, Recurrent
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.tokens import Tokens
from tests.compression.speech import Outputs, batches, train_steps
from tests.models.small import BINS, TOKENS, small

SYMBOLS = Tokens("phone", ("<blank>", *(f"P{index}" for index in range(1, TOKENS))))


@pytest.fixture
def teacher_path(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    model = small("blstm", seed=21)
    with torch.no_grad():
        model.layers[-1].weight.mul_(6)  # posteriors that say something
    Bundle(to_network(model), FeatureConfig(bins=BINS), SYMBOLS).save(path)
    return path


def distances(student: torch.nn.Module, teacher: Teacher) -> float:
    total = 0.0
    for batch in batches():
        logits, _ = student(batch.features, batch.feature_lengths)
        target = teacher(batch)
        valid = torch.arange(logits.shape[1])[None] < target.lengths[:, None]
        total += float((soft_kl(logits.detach(), target.log_probs, 1.0) * valid).sum())
    return total


@given(st.integers(1, 40), st.integers(2, 30), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_packed_posteriors_keep_the_top_and_the_mass(frames: int, tokens: int, top_k: int) -> None:
    rng = np.random.default_rng(frames)
    log_probs = torch.from_numpy(rng.normal(size=(frames, tokens)) * 4).log_softmax(-1).numpy().astype(np.float32)
    k = min(top_k, tokens)
    frame = np.dtype([("ids", np.uint8, k), ("log_probs", np.float16, k)])
    back = unpack(pack(log_probs, frame), tokens)
    np.testing.assert_allclose(np.exp(back).sum(axis=1), 1, atol=1e-5)
    kept = np.sort(log_probs, axis=1)[:, tokens - k :]
    np.testing.assert_allclose(np.sort(back, axis=1)[:, -1], kept[:, -1], atol=0.02)
    if k == tokens:
        np.testing.assert_allclose(np.exp(back), np.exp(log_probs), atol=2e-3)


def test_cache_comes_back_and_survives_an_interrupt(tmp_path: Path) -> None:
    log_probs = {name: torch.randn(n, TOKENS).log_softmax(-1).numpy() for name, n in (("a", 7), ("b", 3), ("c", 4))}
    cache = Cache(tmp_path, TOKENS, 5, 10**6)
    for name, value in log_probs.items():
        cache.put(name, value)
    assert cache.nbytes == 14 * 5 * 3 == (tmp_path / "top5.bin").stat().st_size
    with (tmp_path / "top5.bin").open("rb+") as file:
        file.truncate(10 * 15 + 7)  # c was being written
    with (tmp_path / "top5.jsonl").open("a") as file:
        file.write('\n["d", 1')
    again = Cache(tmp_path, TOKENS, 5, 10**6)
    assert len(again) == 3 and again.get("c") is None and len(again) == 2
    np.testing.assert_array_equal(again.get("b"), cache.get("b"))
    again.put("c", log_probs["c"])
    np.testing.assert_array_equal(
        Cache(tmp_path, TOKENS, 5, 10**6).get("c"), unpack(pack(log_probs["c"], cache.frame), TOKENS)
    )


def test_full_cache_takes_no_more(tmp_path: Path) -> None:
    cache = Cache(tmp_path, TOKENS, 4, limit_bytes=100)
    cache.put("a", torch.randn(8, TOKENS).log_softmax(-1).numpy())
    cache.put("b", torch.randn(8, TOKENS).log_softmax(-1).numpy())
    assert len(cache) == 1 and cache.nbytes == 96


def test_cached_equals_computed(teacher_path: Path, tmp_path: Path) -> None:
    """The first epoch, a later one and a resumed run see the same posteriors, and another playing speed its own."""
    batch = next(batches())
    first = Teacher([teacher_path], SYMBOLS, tmp_path, 6, 10**6)
    computed, cached = first(batch), first(batch)
    resumed = Teacher([teacher_path], SYMBOLS, tmp_path, 6, 10**6)
    resumed.models.clear()  # so that it can only read
    for other in (cached, resumed(batch)):
        assert torch.equal(computed.log_probs, other.log_probs) and torch.equal(computed.lengths, other.lengths)
    faster = replace(batch, features=batch.features[:, ::2], feature_lengths=batch.feature_lengths // 2)
    assert len(first.cache) == 3
    assert first(faster).lengths.tolist() == [5, 4, 3] and len(first.cache) == 6


def test_exact_where_all_tokens_are_kept(teacher_path: Path, tmp_path: Path) -> None:
    batch = next(batches())
    teacher = Teacher([teacher_path], SYMBOLS, tmp_path, 99, 10**6)
    logits, lengths = teacher.models[0](batch.features, batch.feature_lengths)
    for row, length in enumerate(lengths.tolist()):
        theirs = teacher(batch).log_probs[row, :length].exp()
        torch.testing.assert_close(theirs, logits[row, :length].softmax(-1), rtol=0, atol=3e-3)


def test_several_teachers_are_averaged(teacher_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    Bundle(to_network(small("lstm", seed=8)), FeatureConfig(bins=BINS), SYMBOLS).save(other)
    batch = next(batches())
    both = Teacher([teacher_path, other], SYMBOLS, tmp_path, 99, 10**6)
    singles = [Teacher([path], SYMBOLS, tmp_path, 99, 10**6) for path in (teacher_path, other)]
    mean = sum(single(batch).log_probs[0].exp() for single in singles) / 2
    torch.testing.assert_close(both(batch).log_probs[0].exp(), mean, rtol=0, atol=5e-3)


def test_other_tokens_are_refused(teacher_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"teacher.safetensors: the teacher has other tokens"):
        Teacher([teacher_path], Tokens.characters(), tmp_path, 4, 10**6)


def test_loss_is_zero_for_the_teacher_itself_and_grows_away_from_it(teacher_path: Path, tmp_path: Path) -> None:
    for loss in ("kl", "l2"):
        params = DistillationParams(teacher=(teacher_path,), top_k=99, loss=loss, blank_weight=1.0, temperature=2.0)
        step = Distillation(params)
        step.prepare(small(), Context(folder=tmp_path, tokens=SYMBOLS))
        batch = next(batches())
        target = step.teacher(batch)
        values = []
        for noise in (0.0, 0.3, 3.0):
            logits = target.log_probs + noise * torch.randn(
                target.log_probs.shape, generator=torch.Generator().manual_seed(0)
            )
            values.append(float(step.losses(batch, Outputs(logits, target.lengths))["distillation"]))
        assert values[0] == pytest.approx(0, abs=1e-5) and values[0] < values[1] < values[2]


LABELS = 3  # of the one utterance that `taught` hears


def taught(logits: torch.Tensor, teacher: torch.Tensor, **params: Any) -> torch.Tensor:
    """The pass' loss on one utterance: the student's logits and the teacher's log probabilities, `(frames, tokens)`."""
    step = Distillation(DistillationParams(**params))
    step.teacher = lambda batch: Posteriors(teacher[None], torch.tensor([len(teacher)]))  # type: ignore[assignment]
    batch = next(batches()).rows(0, 3)
    assert batch.target_lengths.tolist() == [LABELS]
    return step.losses(batch, Outputs(logits[None], torch.tensor([len(logits)])))["distillation"]


def test_bounded_distance_by_hand() -> None:
    teacher = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]).log()
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.6, 0.3, 0.1]]).log() + 7  # softmax forgets the constant
    first, second = 0.25**2 + 0.25**2, 0.4**2 + 0.4**2
    both = taught(logits, teacher, loss="l2", weight=2.0, blank_weight=1.0)
    assert both.item() == pytest.approx(2 * (first + second) / LABELS, rel=1e-5)
    spikes = taught(logits, teacher, loss="l2", weight=2.0, blank_weight=0.0, blank_above=0.4)
    assert spikes.item() == pytest.approx(2 * second / LABELS, rel=1e-5)


def test_bounded_distance_is_bounded() -> None:
    """At most 2 a frame however sure both are of different tokens, and its gradient fades; KL has no bound."""
    teacher = torch.full((4, 3), -1e4)
    teacher[:, 0] = 0.0
    worst = torch.tensor([[-1e4, 1e4, 0.0]]).repeat(4, 1).requires_grad_()
    loss = taught(worst, teacher, loss="l2", blank_weight=1.0)
    assert loss.item() == pytest.approx(2.0 * 4 / LABELS, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, worst)
    assert not gradient.any()
    assert taught(worst, teacher, loss="kl", blank_weight=1.0) > 1e3
    generator = torch.Generator().manual_seed(4)
    for scale in (0.1, 1.0, 10.0, 1e3):
        logits, other = (scale * torch.randn(50, 6, generator=generator) for _ in range(2))
        assert 0 < taught(logits, other.log_softmax(-1), loss="l2", blank_weight=1.0) <= 2.0 * 50 / LABELS


def test_temperature_by_hand() -> None:
    """At 2 probabilities become their roots: 1:9 is 1:3. KL of (1/4, 3/4) from (3/4, 1/4) is ln(3) / 2, times 4."""
    teacher, logits = torch.tensor([[0.1, 0.9]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert taught(logits, teacher, temperature=2.0).item() == pytest.approx(2 * math.log(3) / LABELS, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_divides_both_and_is_made_up_for(temperature: float) -> None:
    generator = torch.Generator().manual_seed(9)
    logits, theirs = (3 * torch.randn(7, 5, generator=generator) for _ in range(2))
    written_out = functional.kl_div(
        functional.log_softmax(logits / temperature, -1),
        functional.softmax(theirs / temperature, -1),
        reduction="sum",
    )
    found = taught(logits, theirs.log_softmax(-1), temperature=temperature, blank_weight=1.0)
    assert found.item() == pytest.approx(temperature**2 * written_out.item() / LABELS, rel=1e-4)


def test_frame_weights() -> None:
    spikes = torch.tensor([[0, 0, 1, 0, 0, 0, 1, 0]], dtype=torch.bool)
    probs = torch.where(spikes[..., None], torch.tensor([0.1, 0.9]), torch.tensor([0.95, 0.05]))
    valid = torch.tensor([[True] * 7 + [False]])
    cases = {
        (0.0, 0): [0, 0, 1, 0, 0, 0, 1, 0],
        (0.2, 0): [0.2, 0.2, 1, 0.2, 0.2, 0.2, 1, 0],
        (1.0, 0): [1, 1, 1, 1, 1, 1, 1, 0],
        (0.0, 1): [0, 1, 1, 1, 0, 1, 1, 0],
        (0.1, 2): [1, 1, 1, 1, 1, 1, 1, 0],
    }
    for (blank, window), expected in cases.items():
        weights = frame_weights(probs.log(), valid, blank, 0.9, window)
        torch.testing.assert_close(weights, torch.tensor([expected], dtype=torch.float32))


def test_padding_is_not_learned_from(teacher_path: Path, tmp_path: Path) -> None:
    step = Distillation(DistillationParams(teacher=(teacher_path,), blank_weight=1.0, window=2))
    step.prepare(small(), Context(folder=tmp_path, tokens=SYMBOLS))
    batch = next(batches())
    logits = torch.randn(3, 10, TOKENS, requires_grad=True)
    lengths = torch.tensor([10, 8, 5])
    step.losses(batch, Outputs(logits, lengths))["distillation"].backward()
    for row, length in enumerate(lengths.tolist()):
        assert not logits.grad[row, length:].any() and logits.grad[row, :length].abs().sum(-1).all()


def test_delay_compares_later_frames_of_the_student() -> None:
    target = Posteriors(torch.arange(12.0).view(1, 6, 2), torch.tensor([5]))
    outputs = Outputs(torch.arange(100.0, 112.0).view(1, 6, 2), torch.tensor([5]))
    logits, theirs, valid = delayed(outputs, target, 2)
    assert logits[0, :, 0].tolist() == [104, 106, 108, 110] and theirs[0, :, 0].tolist() == [0, 2, 4, 6]
    assert valid.tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("loss", ["kl", "l2"])
def test_loss_with_a_delay_is_that_of_earlier_frames_of_the_teacher(loss: str) -> None:
    generator = torch.Generator().manual_seed(5)
    logits, theirs = torch.randn(9, 4, generator=generator), torch.randn(9, 4, generator=generator).log_softmax(-1)
    expected = 0.0
    for frame in range(3, 9):
        ours, heard = logits[frame].log_softmax(-1), theirs[frame - 3]
        each = heard.exp() * (heard - ours) if loss == "kl" else (heard.exp() - ours.exp()) ** 2
        expected += float(each.sum())
    found = taught(logits, theirs, delay=3, loss=loss, blank_weight=1.0)
    assert found.item() == pytest.approx(expected / LABELS, rel=1e-4)
    shifted = torch.cat([torch.zeros(3, 4), 50 * theirs.softmax(-1)])[:9]  # says what the teacher said, later
    assert taught(shifted, theirs, delay=3, loss="l2", blank_weight=1.0) < taught(
        shifted, theirs, loss="l2", blank_weight=1.0
    )


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("delay", [7, 8, 12])
def test_utterances_no_longer_than_the_delay_teach_nothing(delay: int, window: int) -> None:
    logits = torch.randn(7, 4, requires_grad=True)
    loss = taught(logits, torch.randn(7, 4).log_softmax(-1), delay=delay, window=window, blank_weight=1.0)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def bundle_of_stride(stride: int, path: Path) -> Path:
    torch.manual_seed(stride)
    layers = [FrameStack(stride, stride), Recurrent(stride * BINS, 9, bidirectional=True), Linear(18, TOKENS)]
    Bundle(to_network(AcousticModel(layers).eval()), FeatureConfig(bins=BINS), SYMBOLS).save(path)
    return path


def test_teachers_of_different_frame_rates_are_refused(tmp_path: Path) -> None:
    paths = [bundle_of_stride(stride, tmp_path / f"{stride}.safetensors") for stride in (2, 4)]
    with pytest.raises(InputError, match="teachers of different frame rates cannot be averaged"):
        Teacher(paths, SYMBOLS, tmp_path / "cache", 4, 10**6)
    assert Teacher(paths[:1] * 2, SYMBOLS, tmp_path / "cache", 4, 10**6).models[0].stride == 2


@pytest.mark.parametrize("stride", [2, 8])
def test_loss_on_a_teacher_of_another_frame_rate(stride: int, tmp_path: Path) -> None:
    """A student of stride 4: the mean of a faster teacher's frames, a slower one's twice."""
    path = bundle_of_stride(stride, tmp_path / "teacher.safetensors")
    step = Distillation(DistillationParams(teacher=(path,), top_k=99, blank_weight=1.0))
    student = small("lstm")
    step.prepare(student, Context(folder=tmp_path, tokens=SYMBOLS))
    batch = next(batches())
    with torch.no_grad():
        logits, lengths = student(batch.features, batch.feature_lengths)
    theirs = step.teacher(batch)
    assert lengths.tolist() == [10, 8, 5] and theirs.lengths.tolist() == [-(-n // stride) for n in (40, 32, 20)]
    total = 0.0
    for row, (ours, count) in enumerate(zip(lengths.tolist(), theirs.lengths.tolist(), strict=True)):
        probs = theirs.log_probs[row].exp()
        for frame in range(ours):
            heard = probs[2 * frame : 2 * frame + 2].mean(0) if stride == 2 else probs[frame * count // ours]
            total += float((heard * (heard.log() - logits[row, frame].log_softmax(-1))).sum())
    found = step.losses(batch, Outputs(logits, lengths))["distillation"].item()
    assert found == pytest.approx(total / int(batch.target_lengths.sum()), rel=1e-4)


def test_other_frame_rates() -> None:
    probs = torch.tensor([[[1.0, 0], [0, 1], [0.5, 0.5], [0, 1], [1, 0], [1, 0]]])
    slow = at_rate(Posteriors(probs.clamp_min(1e-9).log(), torch.tensor([6])), torch.tensor([3]), 4)
    torch.testing.assert_close(slow.log_probs[0, :3].exp(), torch.tensor([[0.5, 0.5], [0.25, 0.75], [1, 0]]))
    fast = at_rate(Posteriors(probs.clamp_min(1e-9).log(), torch.tensor([6])), torch.tensor([12]), 12)
    torch.testing.assert_close(fast.log_probs[0].exp(), probs[0].repeat_interleave(2, dim=0))


@pytest.mark.parametrize("loss", ["kl", "l2"])
def test_student_comes_to_speak_as_the_teacher(teacher_path: Path, tmp_path: Path, loss: str) -> None:
    """Against the same steps of CTC alone."""
    ends = {}
    for weight in (0.0, 1.0):
        student = small("lstm")
        step = Distillation(
            DistillationParams(teacher=(teacher_path,), weight=weight, loss=loss, blank_weight=1.0, hard=0.3)
        )
        step.prepare(student, Context(folder=tmp_path, tokens=SYMBOLS))
        before = distances(student, step.teacher)
        for _ in train_steps(student, [step], 15, lr=0.1):
            pass
        ends[weight] = distances(student, step.teacher) / before
        report = step.finalize(student).to_json()
    assert ends[1.0] < 0.8 * ends[0.0]
    assert report["figures"] == {"cached_utterances": 6, "cache_bytes": step.teacher.cache.nbytes}


def test_a_teacher_is_needed() -> None:
    with pytest.raises(InputError, match="distillation: no teacher"):
        Distillation(DistillationParams()).prepare(small(), Context())
