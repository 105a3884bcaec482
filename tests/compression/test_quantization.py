"""Fake-quantized is what is stored, per step as the engine computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_compress.compression.base import Context
from asr_compress.compression.calibration import Seen, activation_ranges
from asr_compress.compression.gate_pruning import GatePruning, GatePruningParams
from asr_compress.compression.low_rank import SVD, LowRankParams
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams, Pruning, PruningParams
from asr_compress.compression.quantization import DynamicInt8, DynamicInt8Params, Quantization, QuantizationParams
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.activations import quantize
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.layers import Linear, Recurrent
from asr_compress.models.maps import maps_of
from asr_compress.models.quantizers import LearnedStep
from asr_compress.runtime import arithmetic, formats, reference
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import Bidirectional, LSTMLayer, walk
from tests.compression.speech import batches, train_steps
from tests.models.small import BINS, BUILDERS, TOKENS, assert_close, engine_logits, logits, small


@pytest.mark.parametrize("name", BUILDERS)
def test_int8_of_every_family(name: str) -> None:
    model = small(name)
    exact = logits(model)
    step = DynamicInt8()
    report = step.prepare(model, Context()).merged(step.finalize(model)).to_json()
    network = to_network(model)
    assert all(isinstance(stored, formats.Int8) for _, stored in walk(network))
    assert report["figures"]["bytes"] == sum(stored.nbytes for _, stored in walk(network))
    assert report["figures"]["bytes"] < 0.35 * report["figures"]["float32_bytes"]
    assert_close(logits(model), exact, 0.05)
    assert_close(engine_logits(network), exact, 0.1)
    assert max(np.abs(a - b).max() for a, b in zip(engine_logits(network), exact, strict=True)) > 0


def test_fake_quantizer_gives_the_engines_integers() -> None:
    """From the same input: the weights that torch multiplies are the engine's integers times their scales."""
    model = small()
    DynamicInt8().prepare(model, Context())
    x = np.random.default_rng(0).normal(size=(5, 21)).astype(np.float32)
    stored = dict(walk(to_network(model)))["2.forward.recurrent_map"]
    assert isinstance(stored, formats.Int8)
    codes, scales = arithmetic.quantize_rows(x)
    weight = maps_of(model, ["layers.2.forward.recurrent"])[0].matrix.numpy()
    np.testing.assert_array_equal(weight, stored.integers() * stored.scales[:, None])
    sums = arithmetic.dequantize(stored.sums(codes), scales, stored.scales)
    np.testing.assert_allclose((codes * scales[:, None]) @ weight.T, sums, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(stored.product(x), sums)


@pytest.mark.parametrize("unit", ["weight", "tile", "block"])
def test_masks_survive_quantization_and_training(unit: str) -> None:
    model = small()
    prune = {
        "weight": Pruning(PruningParams(sparsity=0.7)),
        "tile": BlockPruning(BlockPruningParams(sparsity=0.7, block=(8, 1))),
        "block": BlockPruning(BlockPruningParams(sparsity=0.7)),
    }[unit]
    prune.prepare(model, Context())
    prune.finalize(model)
    quantize = DynamicInt8(DynamicInt8Params(exclude=("linear",)))
    quantize.prepare(model, Context())
    masks = {item.name: item.masks()[0].mask.clone() for item in maps_of(model, ["input", "recurrent"])}
    before = to_network(model)
    for _ in train_steps(model, [prune, quantize], 3):
        pass
    for item in maps_of(model, ["input", "recurrent"]):
        assert not item.weight[~masks[item.name]].any()
    kind = formats.BlockSparseInt8 if unit == "block" else formats.SparseInt8
    after = to_network(model)
    for (name, first), (_, second) in zip(walk(before), walk(after), strict=True):
        if "input_map" in name or "recurrent_map" in name:
            assert isinstance(first, kind) and isinstance(second, kind)
            assert not np.array_equal(first.dense(), second.dense())
    assert_close(logits(from_network(after).eval()), logits(model), 1e-6)


def test_excluded_maps_stay_float() -> None:
    model = small()
    report = DynamicInt8(DynamicInt8Params(exclude=("layers.8", "layers.2.*"))).prepare(model, Context())
    kinds = {name: type(stored) for name, stored in walk(to_network(model))}
    assert kinds["6.map"] is formats.Float32 and kinds["2.forward.input_map"] is formats.Float32
    assert kinds["4.backward.recurrent_map"] is formats.Int8
    assert report.skipped.keys() == {"layers.8", *(m.name for m in maps_of(model, ["layers.2.*"]))}


def test_straight_through() -> None:
    """The gradient of the float master is that of the quantized weight."""
    model = small("lstm")
    item = maps_of(model, ["linear"])[0]
    DynamicInt8().prepare(model, Context())
    weight = item.weight
    gradient = torch.randn(weight.shape)
    (found,) = torch.autograd.grad(weight, item.trained, gradient)
    assert torch.equal(found, gradient)


CONTEXT = Context(batches=batches)


def quantized(name: str = "blstm", context: Context = CONTEXT, **params: object) -> tuple[torch.nn.Module, dict]:
    model = small(name)
    step = Quantization(QuantizationParams(**params))
    report = step.prepare(model, context).merged(step.finalize(model))
    return model, report.to_json()


@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.0, 1e-35, 1e-20, 1.0, 1e20]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_activations_are_quantized_as_the_engine_does(rows: int, cols: int, size: float, static: bool) -> None:
    x = (np.random.default_rng(rows * cols).normal(size=(rows, cols)) * size).astype(np.float32)
    scale = 0.037 if static else None
    codes, scales = arithmetic.quantize_rows(x) if scale is None else arithmetic.quantize_static(x, scale)
    ours, our_scales = quantize(torch.from_numpy(x), scale)
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(our_scales[:, 0].numpy(), scales)


@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp"])
@pytest.mark.parametrize("activations", ["dynamic", "static"])
def test_a_simulated_step_is_the_engines(name: str, activations: str) -> None:
    """From the same input and state: the same integers, and a next state that differs by rounding only."""
    model = small(name)
    step = Quantization(QuantizationParams(simulate=True, activations=activations, calibration="minmax"))
    step.prepare(model, CONTEXT)
    layer = to_network(model)[2]
    layer = getattr(layer, "forward", layer) if name == "blstm" else layer
    direction = model.layers[2].directions[0]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, direction.inputs)).astype(np.float32)
    state = {
        "h": rng.normal(size=direction.outputs).astype(np.float32) * 0.3,
        "c": rng.normal(size=direction.hidden).astype(np.float32),
    }
    codes, scales = layer.recurrent_map.quantized_input(state["h"][None])
    quantizer = direction.activations.recurrent
    ours, our_scales = quantize(torch.from_numpy(state["h"][None]), quantizer.scale)
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(our_scales.numpy()[:, 0], scales)
    integers = maps_of(model, ["layers.2.forward.recurrent"])[0].matrix.numpy() / layer.recurrent_map.scales[:, None]
    sums = np.rint(integers).astype(np.int64) @ codes[0].astype(np.int64)
    np.testing.assert_array_equal(sums, layer.recurrent_map.sums(codes)[0])
    y, after = reference.run_lstm(layer, x, state)
    with torch.no_grad():
        h, c = (torch.from_numpy(state[key])[None] for key in ("h", "c"))
        output, (_, next_c) = direction(torch.from_numpy(x)[None], None, (h, c))
    np.testing.assert_allclose(output[0].numpy(), y, atol=2e-6)
    np.testing.assert_allclose(next_c[0].numpy(), after["c"], atol=2e-6)


EACH_NUMBERS = {
    "int8": {"numbers": "int8"},
    "int4": {"numbers": "int4"},
    "ternary": {"numbers": "ternary"},
    "binary": {"numbers": "binary"},
    "codebook": {"numbers": "codebook_int8"},
    "learned int8": {"numbers": "int8", "steps": "learned"},
    "learned int4": {"numbers": "int4", "steps": "learned"},
}


def simulated(name: str, numbers: str, activations: str, constant: float = 0.0) -> AcousticModel:
    """Every map quantized, its activations too; learned steps elsewhere than where they began."""
    torch.manual_seed(3)
    if name == "blstmp":
        layers = [Recurrent(BINS, 13, True, 9), Recurrent(18, 13, True, 9), Recurrent(18, 13, True, 9)]
        model = AcousticModel([*layers, Linear(18, TOKENS)]).eval()
    else:
        model = small(name)
    if constant:
        gates = GatePruning(GatePruningParams(share=constant, scope="direction"))
        gates.prepare(model, CONTEXT)
        gates.finalize(model)
    params = QuantizationParams(simulate=True, activations=activations, edges="same", **EACH_NUMBERS[numbers])
    Quantization(params).prepare(model, CONTEXT)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(".factors"):
                parameter.uniform_(0.8, 1.3)
    return model


@pytest.mark.parametrize("constant", [0.0, 0.3])
@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("numbers", EACH_NUMBERS)
@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp", "blstmp"])
def test_simulated_products_are_the_engines(name: str, numbers: str, activations: str, constant: float) -> None:
    """Of each map of each layer and direction: what torch multiplies are the engine's integers and scales, bit for bit.

    The products differ by how float32 rounds the sum in torch; the engine's sum is exact.
    """
    model = simulated(name, numbers, activations, constant)
    network = to_network(model)
    layers = [layer for layer in model.layers if isinstance(layer, Recurrent)]
    stored = [layer for layer in network if isinstance(layer, LSTMLayer | Bidirectional)]
    checked = 0
    for index, (layer, theirs) in enumerate(zip(layers, stored, strict=True)):
        sides = [theirs.forward, theirs.backward] if isinstance(theirs, Bidirectional) else [theirs]
        for side, (direction, exported) in enumerate(zip(layer.directions, sides, strict=True)):
            assert exported.reverse == direction.reverse == bool(side)
            triples = [
                (direction.weight_ih, exported.input_map, direction.activations.inputs),
                (direction.weight_hh, exported.recurrent_map, direction.activations.recurrent),
                (direction.weight_hr, exported.projection, direction.activations.projection),
            ]
            for place, (weight, map_, quantizer) in enumerate(triples):
                if weight is None:
                    continue
                rng = np.random.default_rng((index, side, place))
                x = (rng.normal(size=(4, weight.shape[1])) * [[0.1], [1.0], [7.0], [0.0]]).astype(np.float32)
                rows = slice(None) if place == 2 else exported.live_rows
                assert_product_is_the_engines(weight.detach()[rows], quantizer, map_, x)
                checked += 1
    assert checked == len(stored) * (2 if name.startswith("b") else 1) * (3 if name.endswith("p") else 2)


def assert_product_is_the_engines(
    weight: torch.Tensor, quantizer: torch.nn.Module, map_: formats.WeightFormat, x: np.ndarray
) -> None:
    """Integers of the weights, integers of the activations, their sums and what these mean."""
    assert isinstance(map_, formats.base.IntegerFormat)
    np.testing.assert_array_equal(weight.numpy(), map_.dense())
    codes, scales = map_.quantized_input(x)
    met = quantizer(torch.from_numpy(x))
    np.testing.assert_array_equal(met.numpy(), codes * scales[:, None])
    expected = map_.product(x)
    assert np.abs(expected).max() > 0
    product = (met @ weight.T).numpy()
    magnitude = np.abs(met.numpy()) @ np.abs(weight.numpy()).T  # what float32 rounding of a sum is relative to
    assert (np.abs(product - expected) <= 1e-6 * magnitude).all()
    exact = met.double().numpy() @ weight.double().numpy().T
    assert (np.abs(exact - expected) <= 3e-7 * magnitude).all()


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("numbers", EACH_NUMBERS)
@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp", "blstmp"])
def test_simulated_steps_along_an_utterance_are_the_engines(name: str, numbers: str, activations: str) -> None:
    """Each step from the same state, in the order in which its direction reads, in every layer.

    A step that begins where the engine's ended can meet no rounding that the one before has tipped. With a projection,
    its own input may yet lie so close to between two integers that the last bit decides: one integer of its codes.
    """
    model = simulated(name, numbers, activations)
    rng = np.random.default_rng(5)
    stored = [layer for layer in to_network(model) if isinstance(layer, LSTMLayer | Bidirectional)]
    for layer, theirs in zip([part for part in model.layers if isinstance(part, Recurrent)], stored, strict=True):
        sides = [theirs.forward, theirs.backward] if isinstance(theirs, Bidirectional) else [theirs]
        for direction, exported in zip(layer.directions, sides, strict=True):
            x = rng.normal(size=(6, direction.inputs)).astype(np.float32)
            state = reference.start(exported, direction.inputs)
            order = range(6)[::-1] if direction.reverse else range(6)
            tipped = 0
            for step, frame in enumerate(order):
                before = {key: torch.from_numpy(value.copy())[None] for key, value in state.items()}
                y, state = reference.run_lstm(exported, x[frame : frame + 1], state)
                with torch.no_grad():
                    output, (_, c) = direction(
                        torch.from_numpy(x[None, frame : frame + 1]), None, (before["h"], before["c"])
                    )
                    whole, _ = direction(torch.from_numpy(x)[None])
                np.testing.assert_allclose(c[0].numpy(), state["c"], rtol=0, atol=3e-6)
                tipped += int(np.abs(output[0].numpy() - y).max() > 3e-6)
                if step == 0:  # it begins at its own end of the utterance, which single frames cannot tell
                    np.testing.assert_allclose(whole[0, frame].numpy(), output[0, 0].numpy(), rtol=0, atol=3e-6)
            assert tipped <= (1 if direction.weight_hr is not None else 0)


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("numbers", EACH_NUMBERS)
def test_simulated_linear_layers_are_the_engines(numbers: str, activations: str) -> None:
    model = simulated("lstm", numbers, activations)
    linear, exported = model.layers[-1], to_network(model)[-1]
    x = np.random.default_rng(0).normal(size=(5, 18)).astype(np.float32)
    expected, _ = reference.run(exported, x, {}, True)
    with torch.no_grad():
        ours, _ = linear(torch.from_numpy(x)[None], torch.tensor([5]))
        plain = torch.from_numpy(x) @ linear.weight.T + linear.bias
    np.testing.assert_allclose(ours[0].numpy(), expected, rtol=0, atol=5e-6)
    assert np.abs(plain.numpy() - expected).max() > 1e-4  # without quantized activations it is another product


@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp"])
def test_simulated_utterances_are_the_engines(name: str) -> None:
    """The recurrence may tip a rounding here and there; logits stay near, nearer than without simulation."""
    model = small(name)
    step = Quantization(QuantizationParams(simulate=True))
    step.prepare(model, CONTEXT)
    simulated, engine = logits(model), engine_logits(to_network(model))
    step.finalize(model)
    plain = logits(model)
    distance = max(np.abs(a - b).max() for a, b in zip(simulated, engine, strict=True))
    assert distance < 0.01
    assert distance < max(np.abs(a - b).max() for a, b in zip(plain, engine, strict=True))


def test_simulation_trains_and_is_gone_afterwards() -> None:
    model = small("lstm")
    step = Quantization(QuantizationParams(simulate=True))
    step.prepare(model, CONTEXT)
    before = to_network(model)
    for _ in train_steps(model, [step], 2):
        pass
    step.finalize(model)
    assert all(direction.activations is None for layer in model.layers[2:6:3] for direction in layer.directions)
    assert not model.layers[-1]._forward_pre_hooks
    for (name, first), (_, second) in zip(walk(before), walk(to_network(model)), strict=True):
        assert not np.array_equal(first.dense(), second.dense()), name


@pytest.mark.parametrize("numbers", ["int4", "int4_float", "ternary", "binary", "codebook", "codebook_int8", "float16"])
def test_other_numbers_with_edges_at_eight_bits(numbers: str) -> None:
    model, report = quantized(numbers=numbers)
    kinds = {name: stored.kind for name, stored in walk(to_network(model))}
    narrow = numbers if numbers != "float16" else "float16"
    assert kinds["4.forward.recurrent_map"] == kinds["2.backward.recurrent_map"] == narrow
    edge = "int8" if numbers != "float16" else "float16"
    assert kinds["2.forward.input_map"] == kinds["2.backward.input_map"] == kinds["6.map"] == edge
    assert_close(logits(from_network(to_network(model)).eval()), logits(model), 1e-6)
    assert report["figures"]["bytes"] == sum(stored.nbytes for _, stored in walk(to_network(model)))


def test_mixed_precision() -> None:
    model, _ = quantized(numbers="int8", maps={"recurrent": "int4", "layers.5.*": "float16"})
    kinds = {name: stored.kind for name, stored in walk(to_network(model))}
    assert kinds["2.forward.recurrent_map"] == "int4" and kinds["4.forward.recurrent_map"] == "float16"
    assert kinds["4.backward.input_map"] == "float16" and kinds["6.map"] == "int8"


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("steps", ["weights", "learned"])
def test_weight_only_int4_is_what_the_engines_run(name: str, steps: str) -> None:
    """Activations stay float, so that the fake-quantized model is the exported one, whole utterances through."""
    model, report = quantized(name, numbers="int4_float", steps=steps, edges="same")
    network = to_network(model)
    assert {stored.kind for _, stored in walk(network)} == {"int4_float"}
    for (_, stored), item in zip(walk(network), maps_of(model), strict=True):
        np.testing.assert_array_equal(item.matrix.numpy(), stored.dense())
    assert_close(engine_logits(network), logits(model), 1e-5)
    assert_close(engine_logits(network, "native"), logits(model), 1e-5)
    whole = quantized(name, numbers="int4", steps=steps, edges="same")[1]
    assert report["figures"]["bytes"] == whole["figures"]["bytes"] < 0.3 * report["figures"]["float32_bytes"]


def test_weight_only_int4_has_no_scale_of_activations_and_no_blocks() -> None:
    _, report = quantized(numbers="int4_float", activations="static", edges="same", simulate=True)
    assert not any("input_scale" in figures for figures in report["touched"].values())
    BlockPruning(BlockPruningParams(sparsity=0.5)).prepare(pruned := small(), Context())
    with pytest.raises(InputError, match="a map in blocks cannot be stored as int4_float; it can as float32, int8"):
        Quantization(QuantizationParams(numbers="int4_float", edges="same")).prepare(pruned, CONTEXT)


@pytest.mark.parametrize("numbers", ["int8", "int4", "int4_float"])
def test_learned_steps(numbers: str) -> None:
    """They are trained, and what is stored is what was trained."""
    model = small()
    step = Quantization(QuantizationParams(numbers=numbers, steps="learned"))
    step.prepare(model, CONTEXT)
    steps = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith(".factors")}
    assert len(steps) == len(maps_of(model))
    for _ in train_steps(model, [step], 3):
        pass
    moved = [not torch.equal(steps[name], p) for name, p in model.named_parameters() if name in steps]
    assert all(moved)
    for (_, stored), item in zip(walk(to_network(model)), maps_of(model), strict=True):
        np.testing.assert_array_equal(item.matrix.numpy(), stored.dense())


def test_learned_steps_lower_the_error_of_clipped_weights() -> None:
    """Gradient descent on the steps alone finds a better int4 grid than the one it began with."""
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    layer = torch.nn.Linear(64, 16)
    with torch.no_grad():
        layer.weight.copy_(weight)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", LearnedStep(layer.weight, "int4"))
    quantizer = layer.parametrizations.weight[0]
    quantizer.first_steps.mul_(2.0)
    optimizer = torch.optim.Adam([quantizer.factors], lr=1e-2)
    errors = []
    for _ in range(60):
        error = (layer.weight - weight).square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("numbers", ["int8", "int4", "int4_float"])
def test_learned_steps_move_by_a_share_of_themselves(numbers: str) -> None:
    """Adam moves every number by about the learning rate; a step may be a thousandth of the weights."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 16)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", LearnedStep(layer.weight, numbers))
    quantizer = layer.parametrizations.weight[0]
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.randn(4, 64)).square().sum().backward()
    before = quantizer.steps()
    optimizer.step()
    assert ((quantizer.steps() / before - 1).abs() < 2e-3).all()


def test_shared_weights_train_their_table() -> None:
    model = small("lstm")
    step = Quantization(QuantizationParams(numbers="codebook", edges="same", entries=8))
    step.prepare(model, CONTEXT)
    tables = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith(".table")}
    for _ in train_steps(model, [step], 2):
        pass
    assert all(not torch.equal(p, tables[n]) for n, p in model.named_parameters() if n in tables)
    for (_, stored), item in zip(walk(to_network(model)), maps_of(model), strict=True):
        assert isinstance(stored, formats.Codebook) and len(stored.table) == 8
        np.testing.assert_array_equal(item.matrix.numpy(), stored.dense())


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_static_scales(name: str, calibration: str) -> None:
    model, report = quantized(name, activations="static", calibration=calibration)
    network = to_network(model)
    for stored_name, stored in walk(network):
        assert stored.input_scale is not None and stored.input_scale > 0, stored_name
    assert all("input_scale" in figures for figures in report["touched"].values())
    assert_close(engine_logits(network), logits(model), 0.2)


@pytest.mark.parametrize("name", ["lstm", "blstm", "lstmp", "ds2"])
def test_ranges_are_what_the_maps_meet(name: str) -> None:
    """The largest magnitude that the engine gives to each map, utterance by utterance."""
    model = small(name)
    seen = activation_ranges(model, batches())
    largest: dict[int, float] = {}
    network = to_network(model)
    products = {id(stored): stored_name for stored_name, stored in walk(network)}
    original = formats.Float32.product

    def watched(self: formats.Float32, x: np.ndarray) -> np.ndarray:
        largest[id(self)] = max(largest.get(id(self), 0.0), float(np.abs(x).max(initial=0)))
        return original(self, x)

    formats.Float32.product = watched  # type: ignore[method-assign]
    try:
        for batch in batches():
            for row, length in enumerate(batch.feature_lengths.tolist()):
                x = batch.features[row, :length].numpy()
                for layer in network:
                    x, _ = reference.run(layer, x, reference.start(layer, x.shape[1]), True)
    finally:
        formats.Float32.product = original  # type: ignore[method-assign]
    for item, (key, stored_name) in zip(maps_of(model), products.items(), strict=True):
        assert seen[item.name].largest == pytest.approx(largest[key], rel=1e-4), stored_name


def test_factors_are_calibrated_too() -> None:
    model = small()
    SVD(LowRankParams(rank=4)).prepare(model, Context(strict=False))
    seen = activation_ranges(model, batches())
    names = [item.name for item in maps_of(model) if item.factor]
    assert names and all(seen[name].largest > 0 for name in names)


def test_calibration_methods() -> None:
    seen = Seen()
    seen.add(torch.cat([torch.linspace(0, 1, 19_000), torch.tensor([3.0])]))
    assert seen.scale("minmax", 99) == pytest.approx(3 / 127)
    assert seen.scale("percentile", 90) == pytest.approx(0.9 / 127, rel=0.01)
    assert 0.9 / 127 < seen.scale("mse", 99) < 2.9 / 127
    assert Seen().scale("mse", 99) == 1.0


def test_static_needs_speech() -> None:
    with pytest.raises(InputError, match="quantization: needs speech"):
        quantized(context=Context(), activations="static")
