"""The training step of one LSTM direction: equal to `nn.LSTM` of each utterance alone, gradients too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asr_compress.models.layers import Dropout
from asr_compress.models.lstm import LSTMDirection
from asr_compress.models.lstm_training import can_train, train_direction
from asr_compress.runtime.extension import INSTRUCTION_SET_VARIABLE, instruction_sets

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the extension was not built")


def compare(inputs: int, hidden: int, frames: int, lengths: list[int], reverse: bool, bias: bool, seed: int) -> None:
    """Against float64 `nn.LSTM`, one utterance at a time, its frames reversed by hand."""
    torch.manual_seed(seed)
    reference = nn.LSTM(inputs, hidden, bias=bias, batch_first=True)
    own = [parameter.detach().clone().requires_grad_() for parameter in reference.parameters()]
    reference = reference.double()
    x = torch.randn(len(lengths), frames, inputs)
    weigh_output, weigh_h, weigh_c = (
        torch.randn(shape) for shape in [(len(lengths), frames, hidden), (len(lengths), hidden), (len(lengths), hidden)]
    )

    own_x = x.clone().requires_grad_()
    both = own[2] + own[3] if bias else None
    output, h, c = train_direction(own_x, torch.tensor(lengths, dtype=torch.int64), own[0], own[1], both, reverse)
    ((output * weigh_output).sum() + (h * weigh_h).sum() + (c * weigh_c).sum()).backward()

    wanted_x = x.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for u, length in enumerate(lengths):
        assert not output[u, length:].any()
        if length == 0:
            assert not h[u].any()
            continue
        heard = wanted_x[u : u + 1, :length]
        wanted, (last_h, last_c) = reference(heard.flip(1) if reverse else heard)
        wanted = wanted.flip(1) if reverse else wanted
        assert_near(output[u, :length], wanted[0])
        assert_near(h[u], last_h[0, 0])
        assert_near(c[u], last_c[0, 0])
        total = total + (wanted[0] * weigh_output[u, :length]).sum()
        total = total + (last_h[0, 0] * weigh_h[u]).sum() + (last_c[0, 0] * weigh_c[u]).sum()
    if any(lengths):
        total.backward()
        assert own_x.grad is not None and wanted_x.grad is not None
        assert_near(own_x.grad, wanted_x.grad)
        for got, parameter in zip(own, reference.parameters(), strict=True):
            assert got.grad is not None and parameter.grad is not None
            assert_near(got.grad, parameter.grad)


def assert_near(got: Tensor, wanted: Tensor) -> None:
    scale = max(1.0, float(wanted.detach().abs().max()))
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2e-6 * scale)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 40),
    hidden=st.integers(1, 70),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=14),
    reverse=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_nn_lstm_of_each_utterance_alone(
    inputs: int, hidden: int, lengths: list[int], reverse: bool, bias: bool, seed: int
) -> None:
    compare(inputs, hidden, max(max(lengths), 1) + 1, lengths, reverse, bias, seed)


@pytest.mark.parametrize("name", instruction_sets())
@pytest.mark.parametrize("reverse", [False, True])
def test_each_instruction_set(name: str, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, name)
    compare(17, 83, 12, [12, 3, 0, 7, 12, 1, 11], reverse, True, 1)


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_threads_change_nothing(threads: int) -> None:
    weights = [torch.randn(4 * 20, n) / 4 for n in (6, 20)]
    x, lengths = torch.randn(5, 8, 6), torch.tensor([8, 2, 5, 0, 7])
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            ours = [w.clone().requires_grad_() for w in weights]
            output, h, c = train_direction(x, lengths, ours[0], ours[1], None, False)
            (output.sum() + h.sum() + c.sum()).backward()
            results.append([output.detach(), ours[1].grad])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("projection", [0, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_direction_trains_as_it_runs(projection: int, reverse: bool) -> None:
    """The same output whether gradients are wanted (this path) or not (torch's)."""
    torch.manual_seed(0)
    direction = LSTMDirection(7, 12, projection, reverse=reverse)
    x, lengths = torch.randn(3, 10, 7), torch.tensor([10, 4, 7])
    assert can_train(x, direction.weights())
    trained, (h, c) = direction(x, lengths, to_ends=True)
    with torch.no_grad():
        assert not can_train(x, direction.weights())
        run, (run_h, run_c) = direction(x, lengths, to_ends=True)
    for got, wanted in [(trained, run), (h, run_h), (c, run_c)]:
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_what_it_cannot_train_is_left_to_torch() -> None:
    direction = LSTMDirection(4, 6)
    assert not can_train(torch.randn(1, 2, 4, dtype=torch.float64), direction.weights())
    assert not can_train(torch.randn(1, 2, 4, device="meta"), direction.weights())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_train(torch.randn(1, 2, 4), direction.weights())
    output, _ = direction.double()(torch.randn(1, 2, 4, dtype=torch.float64))
    output.sum().backward()


def test_huge_gates_stay_finite() -> None:
    """Saturated gates have no gradient; they must not have NaN either."""
    weight_ih = torch.full((12, 1), 1e4, requires_grad=True)
    weight_hh = torch.full((12, 3), -1e4, requires_grad=True)
    x = torch.tensor([[[1.0], [-1.0], [30.0]]])
    output, _, c = train_direction(x, None, weight_ih, weight_hh, None, False)
    (output.sum() + c.sum()).backward()
    for tensor in (output, c, weight_ih.grad, weight_hh.grad):
        assert tensor is not None and bool(torch.isfinite(tensor).all())


def test_wrong_sizes_are_refused() -> None:
    import numpy as np

    from asr_compress.models.lstm_training import _panels
    from asr_compress.runtime.extension import extension, instruction_set

    lengths, panels = np.array([2]), _panels(torch.randn(3, 12))
    gates, states = np.zeros((1, 2, 12), np.float32), np.zeros((1, 2, 3), np.float32)
    forward = extension().lstm_forward
    forward(instruction_set(), 1, False, lengths, 2, 3, panels, gates, states, states.copy())
    with pytest.raises(ValueError, match="lengths must be"):
        forward(instruction_set(), 1, False, np.array([3]), 2, 3, panels, gates, states, states.copy())
    with pytest.raises(ValueError, match="panels must hold"):
        forward(instruction_set(), 1, False, lengths, 2, 3, panels[:, :2].copy(), gates, states, states.copy())
    with pytest.raises(ValueError, match="gates must be"):
        forward(instruction_set(), 1, False, lengths, 2, 3, panels, gates[:, :1].copy(), states, states.copy())
    with pytest.raises(ValueError, match="c must be"):
        forward(instruction_set(), 1, False, lengths, 2, 3, panels, gates, states, states[:, :1].copy())


def test_dropout_keeps_the_mean_and_its_share() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.2).train()
    x = torch.ones(4, 500, 101, requires_grad=True)
    dropped = layer.map(x)
    dropped.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, dropped.detach())
    values = dropped.detach()
    assert abs(float((values == 0).float().mean()) - 0.2) < 0.005
    assert values.unique().tolist() == pytest.approx([0.0, 1.25], rel=1e-4)
    assert torch.equal(layer.eval().map(x), x)
