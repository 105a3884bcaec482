"""An adopted module computes what it computed before: outputs, states and gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from asr_compress.compression.base import Context
from asr_compress.compression.low_rank import SVD, LowRankParams
from asr_compress.compression.pruning import Pruning, PruningParams
from asr_compress.compression.quantization import DynamicInt8, DynamicInt8Params
from asr_compress.compression.structured import StructuredParams, StructuredPruning
from asr_compress.models.activations import ActivationQuantizer, Activations
from asr_compress.models.adopt import LSTMCell, adopt, release, unreleased
from asr_compress.models.lstm import LSTM, ShrunkLSTM
from asr_compress.models.maps import constant_rows, directions_of, make_constant, maps_of
from asr_compress.models.parametrizations import Mask
from asr_compress.models.select import select_hidden
from asr_compress.runtime.errors import InputError

LENGTHS = torch.tensor([4, 7, 1, 7])
INPUTS, HIDDEN = 5, 6
KINDS = list(itertools.product((1, 2, 3), (False, True), (0, 3), (False, True)))
LAYOUTS = list(itertools.product((False, True), (torch.float32, torch.float64)))
# Every kind in one layout always; the other three layouts in the slow run.
GRID = [
    pytest.param(*kind, *layout, marks=() if (i + i // 4) % 4 == j else pytest.mark.slow)
    for i, kind in enumerate(KINDS)
    for j, layout in enumerate(LAYOUTS)
]


def make(layers: int, bi: bool, projection: int, bias: bool, batch_first: bool, dtype: torch.dtype) -> nn.LSTM:
    torch.manual_seed(layers + 10 * bi + 100 * projection)
    return nn.LSTM(INPUTS, HIDDEN, layers, bias, batch_first, bidirectional=bi, proj_size=projection, dtype=dtype)


def states(lstm: nn.LSTM, batch: int | None, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    stacked = lstm.num_layers * (2 if lstm.bidirectional else 1)
    middle = () if batch is None else (batch,)
    outputs = lstm.proj_size or lstm.hidden_size
    return (
        torch.randn(stacked, *middle, outputs, dtype=dtype, requires_grad=True),
        torch.randn(stacked, *middle, lstm.hidden_size, dtype=dtype, requires_grad=True),
    )


def call(lstm: nn.Module, x: torch.Tensor, mode: str, hx: object) -> list[torch.Tensor]:
    """Output and states as a list of tensors; packed output as data, batch sizes and order."""
    if mode == "packed":
        packed = pack_padded_sequence(x, LENGTHS, batch_first=lstm.batch_first, enforce_sorted=False)
        output, (h, c) = lstm(packed, hx)
        assert isinstance(output, PackedSequence)
        assert output.sorted_indices is not None
        return [output.data, output.batch_sizes, output.sorted_indices, h, c]
    output, (h, c) = lstm(x, hx)
    return [output, h, c]


@pytest.mark.parametrize(("layers", "bi", "projection", "bias", "batch_first", "dtype"), GRID)
@pytest.mark.parametrize("mode", ["padded", "packed", "unbatched"])
@pytest.mark.parametrize("carried", [False, True])
def test_equal_to_torch(
    layers: int, bi: bool, projection: int, bias: bool, batch_first: bool, dtype: torch.dtype, mode: str, carried: bool
) -> None:
    theirs = make(layers, bi, projection, bias, batch_first, dtype)
    ours = adopt(copy.deepcopy(theirs))
    assert isinstance(ours, LSTM)
    shape = (7, INPUTS) if mode == "unbatched" else (4, 7, INPUTS) if batch_first else (7, 4, INPUTS)
    x = torch.randn(*shape, dtype=dtype, requires_grad=True)
    hx = states(theirs, None if mode == "unbatched" else 4, dtype) if carried else None
    results = []
    for lstm in (theirs, ours):
        tensors = call(lstm, x, mode, hx)
        total = sum((t * torch.arange(1, t.numel() + 1).view(t.shape)).sum() for t in tensors if t.is_floating_point())
        leaves = [x, *(hx or ())]
        parameters = dict(lstm.named_parameters())
        gradients = torch.autograd.grad(total, [*leaves, *parameters.values()])
        scale = max(float(g.abs().max()) for g in gradients)
        results.append([*tensors, *(g / scale for g in gradients)])
    for theirs_part, ours_part in zip(*results, strict=True):
        torch.testing.assert_close(ours_part, theirs_part, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("bi", [False, True])
@pytest.mark.parametrize("projection", [0, 3])
def test_lengths_equal_packing(bi: bool, projection: int) -> None:
    theirs = make(2, bi, projection, True, True, torch.float32)
    ours = adopt(theirs, copy=True)
    x = torch.randn(4, 7, INPUTS)
    packed, state = theirs(pack_padded_sequence(x, LENGTHS, True, False))
    expected, _ = pad_packed_sequence(packed, batch_first=True)
    x[torch.arange(7)[None] >= LENGTHS[:, None]] = float("nan")  # what lies in the padding must not matter
    output, own_state = ours(x, lengths=LENGTHS)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(own_state, state, rtol=0, atol=1e-6)


def test_empty_utterance_keeps_its_state() -> None:
    ours = adopt(make(1, False, 0, True, True, torch.float32))
    h, c = torch.randn(1, 2, HIDDEN), torch.randn(1, 2, HIDDEN)
    _, (h_end, c_end) = ours(torch.randn(2, 3, INPUTS), (h, c), lengths=torch.tensor([3, 0]))
    assert torch.equal(h_end[:, 1], h[:, 1]) and torch.equal(c_end[:, 1], c[:, 1])
    assert not torch.equal(h_end[:, 0], h[:, 0])


def test_output_can_be_viewed_as_before() -> None:
    theirs = make(1, True, 0, True, False, torch.float32)
    x = torch.randn(7, 4, INPUTS)
    assert adopt(theirs, copy=True)(x)[0].view(28, -1).shape == theirs(x)[0].view(28, -1).shape


def test_in_place_keeps_parameters_and_idempotent() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.LSTM(3, 4)), "b": nn.Linear(4, 2)})
    before = {id(p) for p in model.parameters()}
    assert adopt(model) is model
    assert {id(p) for p in model.parameters()} == before
    first = model["a"][0]
    assert adopt(model) is model and model["a"][0] is first


def test_copy_leaves_the_original() -> None:
    model = nn.Sequential(nn.LSTM(3, 4))
    copied = adopt(model, copy=True)
    assert isinstance(model[0], nn.LSTM) and isinstance(copied[0], LSTM)
    assert {id(p) for p in model.parameters()}.isdisjoint(id(p) for p in copied.parameters())


def test_shared_module_stays_shared() -> None:
    shared = nn.LSTM(4, 4)
    model = adopt(nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared, nn.LSTM(4, 4)])}))
    assert model["a"] is model["b"][0] and model["a"] is not model["b"][1]


def test_state_dict_of_the_original_loads() -> None:
    original = nn.ModuleDict({"rnn": nn.LSTM(3, 4, 2, bidirectional=True), "cell": nn.LSTMCell(3, 4)})
    fresh = adopt(nn.ModuleDict({"rnn": nn.LSTM(3, 4, 2, bidirectional=True), "cell": nn.LSTMCell(3, 4)}))
    fresh.load_state_dict(original.state_dict())
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(fresh["rnn"](x)[0], original["rnn"](x)[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(fresh["cell"](x[0]), original["cell"](x[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_cell(bias: bool) -> None:
    theirs = nn.LSTMCell(3, 4, bias)
    ours = adopt(theirs)
    assert isinstance(ours, LSTMCell) and (ours.input_size, ours.hidden_size) == (3, 4)
    x, hx = torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4))
    torch.testing.assert_close(ours(x, hx), theirs(x, hx), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layers", "bi", "projection"), [(1, False, 0), (2, True, 3)])
def test_release_is_the_way_back(layers: int, bi: bool, projection: int) -> None:
    theirs = make(layers, bi, projection, True, True, torch.float32)
    back = release(nn.Sequential(adopt(theirs, copy=True)))[0]
    x = torch.randn(2, 3, INPUTS)
    assert type(back) is nn.LSTM and torch.equal(back(x)[0], theirs(x)[0])
    assert all(torch.equal(p, dict(theirs.named_parameters())[name]) for name, p in back.named_parameters())


def adopted(layers: int, bi: bool, projection: int, bias: bool, batch_first: bool = True) -> LSTM:
    ours = adopt(make(layers, bi, projection, bias, batch_first, torch.float32)).eval()
    assert isinstance(ours, LSTM)
    return ours


@torch.no_grad()
def assert_same_calls(ours: LSTM, back: nn.Module) -> None:
    """Padded, packed and unbatched, from zeros and from a state of the sizes before compression."""
    stacked, outputs = ours.num_layers * ours.num_directions, ours.proj_size or HIDDEN
    x = torch.randn(4, 7, INPUTS)
    x = x if ours.batch_first else x.transpose(0, 1)
    start = torch.randn(stacked, 4, outputs), torch.randn(stacked, 4, HIDDEN)
    alone = x[0] if ours.batch_first else x[:, 0]
    calls = [
        (x, "padded", None),
        (x, "padded", start),
        (x, "packed", start),
        (alone, "unbatched", (start[0][:, 0], start[1][:, 0])),
    ]
    for inputs, mode, hx in calls:
        for found, expected in zip(call(back, inputs, mode, hx), call(ours, inputs, mode, hx), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layers", "bi", "projection", "bias"), KINDS)
def test_masked_weights_are_released_as_zeros(layers: int, bi: bool, projection: int, bias: bool) -> None:
    ours = adopted(layers, bi, projection, bias)
    step = Pruning(PruningParams(sparsity=0.5))
    step.prepare(ours, Context())
    step.finalize(ours)
    back = release(copy.deepcopy(ours), strict=True)
    assert type(back) is nn.LSTM
    zeros = sum(int((p == 0).sum()) for p in back.parameters())
    assert zeros == sum(int((~item.masks()[0].mask).sum()) for item in maps_of(ours)) > 0
    assert_same_calls(ours, back)


@pytest.mark.parametrize(("layers", "bi", "projection", "bias"), KINDS)
@pytest.mark.parametrize("include", ["*", "*0.*", "*.forward"])
def test_shrunk_is_released_as_smaller_lstms(layers: int, bi: bool, projection: int, bias: bool, include: str) -> None:
    """All directions, one layer of several, or one direction of two."""
    ours = adopted(layers, bi, projection, bias, batch_first=layers != 2)
    whole = sum(p.numel() for p in ours.parameters())
    step = StructuredPruning(StructuredParams(keep=4, multiple=1, include=(include,)))
    step.prepare(ours, Context())
    step.finalize(ours)
    back = release(copy.deepcopy(ours), strict=True)
    assert isinstance(back, ShrunkLSTM) and all(type(stage) is nn.LSTM for stage in back.stages)
    smaller = sum(p.numel() for p in back.parameters())
    if include == "*":
        assert [stage.hidden_size for stage in back.stages] == [4]
        assert smaller == sum(p.numel() for p in ours.parameters()) < whole
    elif include == "*0.*":
        assert len(back.stages) == min(layers, 2) and smaller < whole
    assert_same_calls(ours, back)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("bi", [False, True])
def test_fewer_units_than_outputs(keep: int, bi: bool) -> None:
    """`nn.LSTM` wants more units than outputs, so silent ones fill up; and outputs themselves may be removed."""
    ours = adopted(2, bi, 3, True)
    for unit in ("hidden", "projection"):
        step = StructuredPruning(StructuredParams(keep=keep, multiple=1, unit=unit))
        step.prepare(ours, Context())
        step.finalize(ours)
        back = release(copy.deepcopy(ours), strict=True)
        assert back.stages[0].hidden_size > back.stages[0].proj_size
        assert_same_calls(ours, back)


def test_shrunk_trains_adopts_and_moves_its_buffers() -> None:
    ours = adopted(3, True, 0, True)
    step = StructuredPruning(StructuredParams(keep=4, multiple=1, include=("1.*",)))
    step.prepare(ours, Context())
    step.finalize(ours)
    back = release(copy.deepcopy(ours), strict=True)
    assert [stage.hidden_size for stage in back.stages] == [HIDDEN, 4, HIDDEN]
    x = torch.randn(2, 5, INPUTS)
    back(x)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in back.parameters())
    again = adopt(nn.Sequential(back), copy=True)[0]
    assert all(isinstance(stage, LSTM) for stage in again.stages)
    torch.testing.assert_close(again(x), back(x), rtol=0, atol=1e-6)
    assert back.double()(x.double())[0].dtype == torch.float64


@pytest.mark.parametrize(("layers", "bi", "projection", "bias"), KINDS)
def test_constant_gates_are_released_as_zero_rows(layers: int, bi: bool, projection: int, bias: bool) -> None:
    """With their units in another order, as gate pruning leaves them: released, they stand where they stood."""
    ours = adopted(layers, bi, projection, bias)
    for name, direction in directions_of(ours).items():
        make_constant(direction, torch.rand(4 * HIDDEN) > 0.4)
        select_hidden(ours, name, torch.randperm(HIDDEN))
    back = release(copy.deepcopy(ours), strict=True)
    assert type(back) is nn.LSTM
    assert int((back.weight_ih_l0 == 0).all(dim=1).sum()) == int(constant_rows(ours.layer(0)[0]).sum()) > 0
    assert_same_calls(ours, back)


def test_masked_cells_and_linears_are_released() -> None:
    model = adopt(nn.ModuleDict({"cell": nn.LSTMCell(3, 4), "out": nn.Linear(4, 2), "conv": nn.Conv1d(2, 3, 3)}))
    step = Pruning(PruningParams(sparsity=0.5, include=("*",)))
    step.prepare(model, Context())
    step.finalize(model)
    back = release(copy.deepcopy(model), strict=True)
    assert [type(part) for part in back.values()] == [nn.LSTMCell, nn.Linear, nn.Conv1d]
    assert not any(parametrize.is_parametrized(part) for part in back.modules())
    x, hx = torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4))
    torch.testing.assert_close(back["cell"](x, hx), model["cell"](x, hx), rtol=0, atol=1e-6)
    assert torch.equal(back["out"](hx[0]), model["out"](hx[0])) and int((back["out"].weight == 0).sum()) == 4
    x = torch.randn(1, 2, 6)
    assert torch.equal(back["conv"](x), model["conv"](x))


def test_folding_a_mask_leaves_a_tied_weight_alone() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "out": nn.Linear(4, 6, bias=False)})
    model["out"].weight = model["embedding"].weight
    before = model["embedding"].weight.detach().clone()
    parametrize.register_parametrization(model["out"], "weight", Mask(torch.rand(6, 4) > 0.5, "weight"))
    release(model, strict=True)
    assert torch.equal(model["embedding"].weight, before) and not torch.equal(model["out"].weight, before)


LEFT = {
    "factorized": (lambda: SVD(LowRankParams(rank=1, multiple=1, exclude=("other.*",))), "weight_ih is factorized"),
    "int8": (lambda: DynamicInt8(DynamicInt8Params(exclude=("other.*",))), "weight_ih is quantized to int8"),
}


@pytest.mark.parametrize("how", list(LEFT))
def test_release_leaves_what_has_no_plain_form_and_says_so(how: str) -> None:
    make_step, reason = LEFT[how]
    model = adopt(nn.ModuleDict({"rnn": nn.LSTM(5, 6), "other": nn.LSTM(5, 6)}))
    step = make_step()
    step.prepare(model, Context())
    step.finalize(model)
    x = torch.randn(5, 2, 5)
    expected = model["rnn"](x)[0]
    assert unreleased(model) == {"rnn": f"directions.0.{reason}"}
    with pytest.raises(InputError, match=f"release: rnn has no plain form: directions.0.{reason}$"):
        release(model, strict=True)
    assert isinstance(model["other"], LSTM)  # strict changes nothing
    with pytest.warns(UserWarning, match="release leaves .*: rnn has no plain form"):
        assert release(model) is model
    assert isinstance(model["rnn"], LSTM) and type(model["other"]) is nn.LSTM
    assert torch.equal(model["rnn"](x)[0], expected)


def test_other_reasons_to_stay() -> None:
    lstm, linear = adopt(nn.LSTM(3, 4)), nn.Linear(3, 4)
    assert unreleased(lstm) == {}
    lstm.directions[0].activations = Activations(*(ActivationQuantizer() for _ in range(3)))
    assert unreleased(lstm) == {"": "directions.0 quantizes its activations, as the engine does"}
    lstm.directions[0].activations = None
    parametrize.register_parametrization(lstm.directions[0], "weight_hh", nn.Identity())
    assert unreleased(lstm) == {"": "directions.0.weight_hh is parametrized (Identity)"}
    hooked = adopt(nn.LSTM(3, 4))
    hooked.register_forward_hook(lambda *arguments: None)
    with pytest.raises(InputError, match="LSTM has no plain form: it has forward hooks"):
        release(hooked, strict=True)
    SVD(LowRankParams(rank=1, multiple=1, include=("*",))).prepare(linear, Context())
    assert unreleased(nn.Sequential(linear)) == {"0": "weight is factorized"}
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))  # an ordinary module, and no concern of ours
    assert unreleased(normed) == {} and parametrize.is_parametrized(release(normed))


class OwnForward(nn.LSTM):
    def forward(self, x: torch.Tensor, hx: object = None) -> object:  # type: ignore[override]
        return super().forward(2 * x, hx)


def test_refuses_what_it_would_change() -> None:
    with pytest.raises(InputError, match="forward of its own"):
        adopt(nn.Sequential(OwnForward(3, 4)))
    masked = nn.Sequential(nn.LSTM(3, 4))
    prune.l1_unstructured(masked[0], "weight_hh_l0", 0.5)
    with pytest.raises(InputError, match="forward hooks"):
        adopt(masked)
    parametrized = nn.Sequential(nn.LSTM(3, 4))
    parametrize.register_parametrization(parametrized[0], "weight_hh_l0", nn.Identity())
    with pytest.raises(InputError, match="parametrized"):
        adopt(parametrized)


def test_eval_and_frozen_parameters_survive() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, 2, dropout=0.5)).eval()
    model[0].weight_ih_l1.requires_grad_(False)
    own = adopt(model)[0]
    assert not own.training and not own.directions[1].training
    assert not own.directions[1].weight_ih.requires_grad and own.directions[0].weight_ih.requires_grad


def test_trains() -> None:
    model = adopt(nn.LSTM(3, 8, batch_first=True))
    head = nn.Linear(8, 1)
    x = torch.randn(16, 5, 3)
    y = x.cumsum(1).sum(2, keepdim=True).tanh()
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (head(model(x)[0]) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
