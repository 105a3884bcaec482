"""Masked units are as good as gone: removing them changes nothing that comes out, in any LSTM that torch can build."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr_compress.compression.base import Context
from asr_compress.compression.structured import StructuredParams, StructuredPruning
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.adopt import adopt
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.layers import Conv, FrameStack, LayerNorm, Linear, Recurrent
from asr_compress.models.lstm import LSTM
from asr_compress.models.maps import directions_of
from asr_compress.models.select import removable, select_hidden, select_projection, sites_of
from tests.compression.speech import batches, measure_by, train_steps
from tests.models.small import BUILDERS, assert_close, engine_logits, logits, small

ADOPTED = list(itertools.product((1, 2, 3), (False, True), (0, 4), (False, True)))


def randomize(model: nn.Module) -> None:
    """Untrained layer norms are the identity and hide mistakes."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)


def masked_then_shrunk(model: AcousticModel, **params: object) -> tuple[list, list]:
    randomize(model)
    step = StructuredPruning(StructuredParams(**{"multiple": 1, **params}))
    step.prepare(model, Context(batches=batches))
    step._mask(1.0)
    masked = logits(model)
    report = step.finalize(model)
    assert report.figures["parameters"] < report.figures["parameters_before"]
    assert report.figures["parameters"] == sum(p.numel() for p in model.parameters())
    assert not any("parametrizations" in key for key in model.state_dict())
    return masked, logits(model)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("scope", ["direction", "global"])
def test_masked_equals_shrunk(name: str, scope: str) -> None:
    model = small(name)
    masked, shrunk = masked_then_shrunk(model, sparsity=0.4, scope=scope)
    assert_close(shrunk, masked, 1e-5)
    network = to_network(model)
    assert_close(engine_logits(network), shrunk, 1e-5)
    assert_close(logits(from_network(network).eval()), shrunk, 1e-6)


@pytest.mark.parametrize("keep", [12, 10, 6])
def test_fewer_hidden_units_than_projected_ones(keep: int) -> None:
    """As many, which torch takes for no projection at all, and fewer."""
    model = small("lstmp")
    masked, shrunk = masked_then_shrunk(model, keep=keep)
    assert_close(shrunk, masked, 1e-5)
    assert_close(engine_logits(to_network(model)), shrunk, 1e-5)


def test_masked_equals_shrunk_projection() -> None:
    model = small("lstmp")
    masked, shrunk = masked_then_shrunk(model, sparsity=0.4, unit="projection")
    assert_close(shrunk, masked, 1e-5)
    assert model.layers[2].outputs == 6 and model.layers[2].directions[0].hidden == 20
    assert_close(engine_logits(to_network(model)), shrunk, 1e-5)


def test_outputs_read_through_stacked_frames_and_convolutions() -> None:
    torch.manual_seed(0)
    first, second = Recurrent(8, 10, bidirectional=True), Recurrent(40, 10)
    conv = Conv(10, 6, kernel=(3, 1))
    model = AcousticModel([first, FrameStack(2, 2), LayerNorm(40), second, conv, Linear(6, 12)]).eval()
    masked, shrunk = masked_then_shrunk(model, sparsity=0.5)
    assert_close(shrunk, masked, 1e-5)
    assert conv.in_channels == 5 and second.directions[0].inputs == 20


@pytest.mark.parametrize(("layers", "bi", "projection", "bias"), ADOPTED)
@pytest.mark.parametrize("how", ["padded", "packed", "lengths"])
def test_adopted_masked_equals_shrunk(layers: int, bi: bool, projection: int, bias: bool, how: str) -> None:
    """Outputs and carried states keep their shapes; what was removed is zero in them."""
    torch.manual_seed(layers)
    lstm = adopt(nn.LSTM(5, 9, layers, bias, batch_first=True, bidirectional=bi, proj_size=projection)).eval()
    step = StructuredPruning(StructuredParams(sparsity=0.4, multiple=1))
    step.prepare(lstm, Context())
    step._mask(1.0)
    x, lengths = torch.randn(3, 6, 5), torch.tensor([6, 2, 4])
    count = layers * (1 + bi)
    hx = (torch.randn(count, 3, projection or 9), torch.randn(count, 3, 9))
    dropped = [~step.targets[i].masks[0][1].mask.flatten(1).any(1)[:9] for i in range(count)]
    for position, gone in enumerate(dropped):  # a removed unit cannot carry a state
        hx[1][position][:, gone] = 0
        if not projection:
            hx[0][position][:, gone] = 0

    def run() -> tuple[torch.Tensor, ...]:
        if how == "packed":
            packed, state = lstm(pack_padded_sequence(x, lengths, True, False), hx)
            return pad_packed_sequence(packed, batch_first=True)[0], *state
        output, state = lstm(x, hx, lengths=lengths if how == "lengths" else None)
        return output, *state

    with torch.no_grad():
        masked = run()
        step.finalize(lstm)
        shrunk = run()
    for one, other in zip(shrunk, masked, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert isinstance(lstm, LSTM) and all(d.hidden == 6 for d in directions_of(lstm).values())


def test_adopted_twice() -> None:
    """Places are counted from the very first shape."""
    lstm = adopt(nn.LSTM(4, 8, batch_first=True)).eval()
    x = torch.randn(2, 5, 4)
    full, _ = lstm(x)
    for keep in (6, 3):
        step = StructuredPruning(StructuredParams(keep=keep, multiple=1))
        step.prepare(lstm, Context())
        step.finalize(lstm)
    output, (h, c) = lstm(x)
    assert output.shape == full.shape and h.shape == c.shape == (1, 2, 8)
    assert int((output.abs().sum((0, 1)) > 0).sum()) == 3
    torch.testing.assert_close(lstm(x, (h, c))[0].shape, full.shape)


@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp"])
def test_permuting_units_changes_nothing(name: str) -> None:
    model = small(name)
    randomize(model)
    before = logits(model)
    generator = torch.Generator().manual_seed(0)
    for site in sites_of(model):
        select_hidden(model, site.name, torch.randperm(site.direction.hidden, generator=generator))
        if site.direction.weight_hr is not None:
            select_projection(model, site.name, torch.randperm(site.direction.outputs, generator=generator))
    assert_close(logits(model), before, 1e-5)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "fisher"])
def test_units_without_influence_go_first(criterion: str) -> None:
    model = small("lstm")
    direction = model.layers[2].directions[0]
    with torch.no_grad():  # units 3 and 11 say nothing that anyone hears, however they are fed
        for unit in (3, 11):
            model.layers[3].weight[unit] = 0
            model.layers[3].bias[unit] = 0
            model.layers[5].directions[0].weight_ih[:, unit] = 0
            direction.weight_hh[:, unit] = 0
            if criterion == "magnitude":
                direction.weight_ih[unit::18] *= 0.01
                direction.weight_hh[unit::18] *= 0.01
    params = StructuredParams(keep=16, multiple=1, criterion=criterion, include=("layers.2.*",))
    step = StructuredPruning(params)
    step.prepare(model, Context(batches=batches))
    step._mask(1.0)
    assert sorted(set(range(18)) - set(step.targets[0].kept().tolist())) == [3, 11]


def test_kept_units_are_rounded_up() -> None:
    model = small("lstm")
    step = StructuredPruning(StructuredParams(sparsity=0.7, multiple=4))
    step.prepare(model, Context())
    step.finalize(model)
    assert [d.hidden for d in directions_of(model).values()] == [8, 8]


def quieted(units: int) -> AcousticModel:
    """The first layer's last units have weights a tenth as large, in everything that is tied to them."""
    model = small("lstm")
    direction = model.layers[2].directions[0]
    last = range(18 - units, 18)
    with torch.no_grad():
        for unit in last:
            for weight in (direction.weight_ih, direction.weight_hh):
                weight[unit::18] *= 0.1
            direction.weight_hh[:, unit] *= 0.1
            model.layers[5].directions[0].weight_ih[:, unit] *= 0.1
    return model


def test_a_threshold_is_a_number_of_times_the_rms_of_the_units() -> None:
    model = quieted(5)
    step = StructuredPruning(StructuredParams(threshold=0.3, multiple=1))
    step.prepare(model, Context())
    assert [target.drop for target in step.targets] == [5, 0]
    step.finalize(model)
    assert [d.hidden for d in directions_of(model).values()] == [13, 18]


def test_threshold_auto_stays_under_the_ceiling() -> None:
    model = quieted(5)

    def error(candidate: nn.Module) -> float:  # the quiet units do not matter; each of the others costs a tenth
        silent = [
            int((d.weight_hh.view(4, d.hidden, -1) == 0).all(2).all(0).sum()) for d in directions_of(candidate).values()
        ]
        return 0.5 * (1 + 0.1 * (max(silent[0] - 5, 0) + silent[1]))

    context = Context(measure=measure_by(error))
    step = StructuredPruning(StructuredParams(threshold="auto", ceiling=0.35, multiple=1))
    report = step.prepare(model, context)
    assert len(report.figures["dev"]) == 8 and error(model) == 0.5  # nothing is masked before its time
    step.finalize(model)
    dropped = 36 - sum(d.hidden for d in directions_of(model).values())
    assert dropped in (7, 8)  # three more than the quiet ones, or two where the next two go at the same threshold


def test_gradual_in_training() -> None:
    model = small("blstm")
    step = StructuredPruning(StructuredParams(sparsity=0.5, multiple=1, schedule="cubic", every=1, end=0.6))
    step.prepare(model, Context())
    counts = [[len(target.kept()) for target in step.targets] for _ in train_steps(model, [step], 10)]
    assert counts[0] == [21] * 4 and counts[-1] == [11] * 4
    assert all(a[0] >= b[0] for a, b in itertools.pairwise(counts))
    masked = logits(model)
    step.finalize(model)
    assert_close(logits(model), masked, 1e-5)


def test_shrunk_model_trains_and_exports() -> None:
    model = small("blstm")
    step = StructuredPruning(StructuredParams(keep=7, multiple=1))
    step.prepare(model, Context())
    step.finalize(model)
    before = logits(model)
    for _ in train_steps(model, [], 2):
        pass
    assert any((a != b).any() for a, b in zip(logits(model), before, strict=True))
    assert all(layer.forward.hidden == 7 for layer in to_network(model) if hasattr(layer, "backward"))


def test_layers_that_can_go() -> None:
    model = small("blstm")
    assert {index: list(span) for index, span in removable(model).items()} == {5: [5, 6, 7]}
