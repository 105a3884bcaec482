"""Sequence distillation, guided and intermediate CTC, hidden-state regression: each against its definition."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from asr_compress.compression.base import Context, Pass
from asr_compress.compression.guided_ctc import GuidedCtc, GuidedCtcParams
from asr_compress.compression.hidden_regression import HiddenRegression, HiddenRegressionParams
from asr_compress.compression.intermediate_ctc import IntermediateCtc, IntermediateCtcParams
from asr_compress.compression.layer_outputs import LayerOutputs
from asr_compress.compression.nbest import nbest
from asr_compress.compression.pipeline import finished
from asr_compress.compression.sequence_distillation import SequenceDistillation, SequenceDistillationParams
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.layers import Recurrent
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.network import walk
from tests.compression.speech import Outputs, batches, train_steps
from tests.compression.test_distillation import SYMBOLS, bundle_of_stride
from tests.models.small import BINS, TOKENS, small


@pytest.fixture
def teacher_path(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    model = small("blstm", seed=21)
    with torch.no_grad():
        model.layers[-1].weight.mul_(6)
    Bundle(to_network(model), FeatureConfig(bins=BINS), SYMBOLS).save(path)
    return path


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token)


def test_nbest_is_the_sum_over_all_alignments() -> None:
    """Against every path of a small lattice."""
    log_probs = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).log_softmax(-1).numpy()
    exact: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        probability = float(np.exp(sum(log_probs[frame, token] for frame, token in enumerate(path))))
        exact[collapsed(path)] = exact.get(collapsed(path), 0.0) + probability
    best = sorted(exact.items(), key=lambda item: -item[1])[:6]
    found = nbest(log_probs, 6, beam=100)
    assert [labels for labels, _ in found] == [labels for labels, _ in best]
    np.testing.assert_allclose([np.exp(score) for _, score in found], [value for _, value in best], rtol=1e-5)


def test_nbest_of_nothing() -> None:
    assert nbest(np.zeros((0, 4), np.float32), 3) == [((), 0.0)]


def test_sequence_loss_is_the_weighted_ctc(teacher_path: Path, tmp_path: Path) -> None:
    step = SequenceDistillation(SequenceDistillationParams(teacher=(teacher_path,), count=3, weight=1.0, top_k=99))
    step.prepare(small(), Context(folder=tmp_path, tokens=SYMBOLS))
    batch = next(batches())
    posteriors = step.teacher(batch)
    logits = torch.randn(3, posteriors.log_probs.shape[1], TOKENS)
    total = 0.0
    for row, length in enumerate(posteriors.lengths.tolist()):
        ranked = nbest(posteriors.log_probs[row, :length].numpy(), 3)
        weights = torch.tensor([score for _, score in ranked]).softmax(0)
        for weight, (labels, _) in zip(weights, ranked, strict=True):
            log_probs = logits[row, :length].log_softmax(-1)[:, None]
            ctc = functional.ctc_loss(log_probs, torch.tensor([labels]), [length], [len(labels)], reduction="sum")
            total += float(weight * ctc)
    found = step.losses(batch, Outputs(logits, posteriors.lengths))["sequence_distillation"]
    assert found.item() == pytest.approx(total / int(batch.target_lengths.sum()), rel=1e-4)
    again = step.losses(batch, Outputs(logits, posteriors.lengths))["sequence_distillation"]
    assert again.item() == found.item()


def test_guided_loss_is_minus_the_posteriors_at_spikes(teacher_path: Path, tmp_path: Path) -> None:
    step = GuidedCtc(GuidedCtcParams(teacher=(teacher_path,), weight=2.0))
    step.prepare(small(), Context(folder=tmp_path, tokens=SYMBOLS))
    batch = next(batches())
    posteriors = step.teacher(batch)
    logits = torch.randn(posteriors.log_probs.shape)
    total = 0.0
    for row, length in enumerate(posteriors.lengths.tolist()):
        for frame in range(length):
            best = int(posteriors.log_probs[row, frame].argmax())
            total -= float(logits[row, frame].softmax(-1)[best]) if best else 0.0
    found = step.losses(batch, Outputs(logits, posteriors.lengths))["guided_ctc"].item()
    assert found == pytest.approx(2.0 * total / int(batch.target_lengths.sum()), rel=1e-5) and found < 0


@pytest.mark.parametrize("kind", ["sequence", "guided", "intermediate", "hidden l2", "hidden cosine"])
def test_training_lowers_the_term_and_leaves_nothing_behind(kind: str, teacher_path: Path, tmp_path: Path) -> None:
    steps: dict[str, Pass] = {
        "sequence": SequenceDistillation(SequenceDistillationParams(teacher=(teacher_path,), hard=0.0)),
        "guided": GuidedCtc(GuidedCtcParams(teacher=(teacher_path,), hard=0.0)),
        "intermediate": IntermediateCtc(IntermediateCtcParams(weight=1.0)),
        "hidden l2": HiddenRegression(HiddenRegressionParams(teacher=teacher_path, weight=3.0)),
        "hidden cosine": HiddenRegression(HiddenRegressionParams(teacher=teacher_path, loss="cosine", weight=3.0)),
    }
    step, model = steps[kind], small("lstm")
    parameters = set(dict(model.named_parameters()))
    step.prepare(model, Context(folder=tmp_path, tokens=SYMBOLS))

    def term() -> float:
        batch = next(batches())
        logits, lengths = model(batch.features, batch.feature_lengths)
        return sum(value.item() for value in step.losses(batch, Outputs(logits, lengths)).values())

    before = term()
    for _ in train_steps(model, [step], 12, lr=0.1):
        pass
    assert term() < before
    step.finalize(model)
    network = finished(model)
    assert set(dict(model.named_parameters())) == parameters
    assert not any(layer._forward_hooks for layer in model.layers)
    assert len(list(walk(network))) == 5 and from_network(network) is not None


def test_intermediate_heads_learn_with_ctc_at_the_end_kept() -> None:
    model = small("blstm")
    step = IntermediateCtc(IntermediateCtcParams(layers=(0, 1), weight=0.4))
    report = step.prepare(model, Context())
    assert report.touched.keys() == {"LSTM layer 0", "LSTM layer 1"}
    assert step.ctc_weight == pytest.approx(0.6)
    batch = next(batches())
    logits, lengths = model(batch.features, batch.feature_lengths)
    terms = step.losses(batch, Outputs(logits, lengths))
    assert terms.keys() == {"intermediate_ctc_0", "intermediate_ctc_1"}
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in model.auxiliary.parameters())
    with pytest.raises(InputError, match="LSTM layer 5 is not supported: there are 2"):
        IntermediateCtc(IntermediateCtcParams(layers=(5,))).prepare(small(), Context())


def test_a_student_that_holds_the_teachers_states_has_no_distance(teacher_path: Path) -> None:
    student = from_network(Bundle.load(teacher_path).network).eval()
    step = HiddenRegression(HiddenRegressionParams(pairs=((0, 0), (1, 1))))
    step.prepare(student, Context(start=teacher_path))
    with torch.no_grad():
        for linear in step.maps.values():
            linear.weight.copy_(torch.eye(len(linear.weight)))
            linear.bias.zero_()
    batch = next(batches())
    logits, lengths = student(batch.features, batch.feature_lengths)
    terms = step.losses(batch, Outputs(logits, lengths))
    assert terms.keys() == {"hidden_0_0", "hidden_1_1"}
    assert all(term.item() == pytest.approx(0, abs=1e-10) for term in terms.values())


@pytest.mark.parametrize("loss", ["l2", "cosine"])
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_states_of_a_teacher_of_another_frame_rate(stride: int, loss: str, tmp_path: Path) -> None:
    """A student of stride 4 meets the mean of a faster teacher's states, and a slower one's as long as they last."""
    path = bundle_of_stride(stride, tmp_path / "teacher.safetensors")
    student = small("lstm")
    step = HiddenRegression(HiddenRegressionParams(teacher=path, loss=loss, weight=2.0, pairs=((1, 0),)))
    step.prepare(student, Context())
    batch = next(batches()).rows(0, 3)  # one utterance of 40 frames: no padding
    seen: dict[str, torch.Tensor] = {}
    ours = [layer for layer in student.layers if isinstance(layer, Recurrent)][1]
    theirs = next(layer for layer in step.teacher.layers if isinstance(layer, Recurrent))
    for name, layer in (("ours", ours), ("theirs", theirs)):
        layer.register_forward_hook(lambda module, given, result, name=name: seen.update({name: result[0][0].detach()}))
    logits, lengths = student(batch.features, batch.feature_lengths)
    found = step.losses(batch, Outputs(logits, lengths))["hidden_1_0"].item()
    assert len(seen["ours"]) == 10 and len(seen["theirs"]) == 40 // stride
    mapped = step.maps["1-0"](seen["ours"]).detach()
    target = torch.stack(
        [
            seen["theirs"][frame * 4 // stride : max(frame * 4 // stride + 1, (frame + 1) * 4 // stride)].mean(0)
            for frame in range(10)
        ]
    )
    if loss == "cosine":
        each = 1 - (mapped * target).sum(-1) / (mapped.norm(dim=-1) * target.norm(dim=-1))
    else:
        each = (mapped - target).square().mean(-1) / target.var()
    assert found == pytest.approx(2 * each.mean().item(), rel=1e-4)


def test_only_the_first_view_is_taken() -> None:
    """Consistency regularization runs two maskings side by side; the first is that of the batch."""
    model = small("lstm")
    watched = LayerOutputs(model, [0])
    batch = next(batches())
    model(torch.cat([batch.features, batch.features * 0]), batch.feature_lengths.repeat(2))
    hidden, lengths = watched.take(0, 3)
    model(batch.features, batch.feature_lengths)
    torch.testing.assert_close(watched.take(0, 3)[0], hidden, rtol=0, atol=1e-6)
    assert lengths.tolist() == [10, 8, 5]
