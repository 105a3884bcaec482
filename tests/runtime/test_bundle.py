"""One file in, the same model out; anything else is refused in one clear line."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.formats import Float16, Float32, Int4, Int8
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.network import (
    Activation,
    Bidirectional,
    ConstantGates,
    Conv,
    FrameStack,
    LayerNorm,
    Linear,
    LSTMLayer,
    Normalize,
    walk,
)
from asr_compress.runtime.serialize import describe
from asr_compress.runtime.tokens import Tokens

RANDOM = np.random.default_rng(7)


def matrix(rows, cols):
    return RANDOM.normal(size=(rows, cols)).astype(np.float32)


def vector(size):
    return RANDOM.normal(size=size).astype(np.float32)


def bundle() -> Bundle:
    forward = LSTMLayer(Int8.encode(matrix(20, 30)), Int4.encode(matrix(20, 5)), vector(20))
    backward = LSTMLayer(
        Float16.encode(matrix(22, 30)),
        Int8.encode(matrix(22, 4), input_scale=0.011),
        vector(22),
        Float32.encode(matrix(4, 6)),
        ConstantGates(np.array([3, 11], np.uint32), vector(2)),
        reverse=True,
    )
    tokens = Tokens.characters("ABÄ'")
    network = (
        Normalize(vector(6), vector(6)),
        Conv(Float32.encode(matrix(5, 9)), vector(5), (3, 3), (2, 2), (1, 1), 1, 6),
        Activation("relu"),
        FrameStack(2, 2),
        Bidirectional(forward, backward),
        LayerNorm(vector(9), vector(9), 1e-5),
        Linear(Float32.encode(matrix(len(tokens), 9)), vector(len(tokens))),
    )
    return Bundle(
        network,
        FeatureConfig(bins=6),
        tokens,
        Lexicon({"AB": (("A", "B"), ("A", "A", "B")), "Ä": (("Ä",),)}),
        model={"name": "tiny", "hidden": 5},
        decoding={"lm_weight": 1.25},
        history=[{"pass": "quantize", "wer": {"before": 0.1, "after": 0.11}}],
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    bundle().save(path)
    return path


def rewrite(path, change_header=None, change_tensors=None):
    """Damage a bundle in a way that its checksum does not show."""
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["asr_compress"])
    tensors = load_file(path)
    if change_tensors:
        change_tensors(tensors)
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(tensors[name].tobytes(), checksum)
    header["crc32"] = checksum
    if change_header:
        change_header(header)
    save_file(tensors, path, metadata={"asr_compress": json.dumps(header)})


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    before = bundle()
    before.save(tmp_path / "model.safetensors")
    after = Bundle.load(tmp_path / "model.safetensors")
    layers_before, tensors_before = describe(before.network)
    layers_after, tensors_after = describe(after.network)
    assert layers_after == layers_before
    assert tensors_after.keys() == tensors_before.keys()
    for name, tensor in tensors_before.items():
        assert tensors_after[name].dtype == tensor.dtype, name
        assert tensors_after[name].tobytes() == tensor.tobytes(), name
    for name in ("features", "tokens", "lexicon", "model", "decoding", "history"):
        assert getattr(after, name) == getattr(before, name)


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    Bundle.load(saved).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_rewriting_without_a_change_still_loads(saved):
    rewrite(saved)
    Bundle.load(saved)


def test_no_lexicon_stays_none(tmp_path):
    whole = bundle()
    Bundle(whole.network, whole.features, whole.tokens).save(tmp_path / "model.safetensors")
    assert Bundle.load(tmp_path / "model.safetensors").lexicon is None


def test_bytes_of_maps_are_bytes_in_the_file(saved):
    stored = load_file(saved)
    for name, weights in walk(Bundle.load(saved).network):
        in_file = sum(tensor.nbytes for key, tensor in stored.items() if key.startswith(f"{name}."))
        assert weights.nbytes == in_file > 0, name


@pytest.mark.parametrize("kept", [0, 7, 100, 5000, -1])
def test_a_file_cut_short_is_refused_by_name(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(InputError, match="model.safetensors: not a bundle, or cut short"):
        Bundle.load(saved)


def test_a_flipped_bit_is_refused(saved):
    content = bytearray(saved.read_bytes())
    content[-100] ^= 4
    saved.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        Bundle.load(saved)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Bundle.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="a folder"):
        Bundle.load(tmp_path)
    (tmp_path / "text").write_text("not a bundle at all, just words")
    with pytest.raises(InputError, match="not a bundle"):
        Bundle.load(tmp_path / "text")
    save_file({"a": np.zeros(2)}, tmp_path / "other")
    with pytest.raises(InputError, match="not an asr_compress bundle"):
        Bundle.load(tmp_path / "other")


def put(*keys, value):
    """A change of one place in nested JSON."""

    def change(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format_version", value=2), "newer.*update"),
        (put("format_version", value="1"), "format_version"),
        (put("format_version", value=True), "format_version"),
        (put("extra", value=1), "extra"),
        (put("model", value=[]), "model must be"),
        (put("history", value={}), "history must be"),
        (put("features", value={"bins": "six"}), "malformed"),
        (put("features", value={"bins": 6, "hop": 1}), "hop"),
        (put("features", value=None), "malformed"),
        (put("features", "bins", value=7), "layer 0.*gets 7"),
        (put("tokens", value={"kind": "char", "symbols": ["<blank>", "|"]}), "outputs for 2"),
        (put("tokens", value={"kind": "char"}), "tokens"),
        (put("layers", value={}), "layers must be a list"),
        (put("layers", 0, value={"type": "Magic"}), "layer 0 is 'Magic'"),
        (put("layers", 0, value={"type": "ConstantGates"}), "layer 0"),
        (put("layers", 3, "stack", value=-1), "layer 3.*stack"),
        (put("layers", 3, "stack", value=1.5), "layer 3.*stack"),
        (put("layers", 2, "kind", value=["relu"]), "layer 2"),
        (put("layers", 1, "kernel", value=[3]), "layer 1.*kernel"),
        (put("layers", 4, "forward", "input_map", value=None), "4.forward.input_map"),
        (put("layers", 4, "forward", "input_map", "kind", value="int3"), "4.forward.input_map.*'int3'"),
        (put("layers", 4, "forward", "input_map", "kind", value="float32"), "4.forward.input_map"),
        (put("layers", 4, "forward", "recurrent_map", "cols", value=50), "recurrent_map.*codes has shape"),
        (put("layers", 4, "forward", "recurrent_map", "group", value=7), "recurrent_map.*group"),
        (put("layers", 4, "backward", "recurrent_map", "input_scale", value="x"), "input_scale"),
        (put("layers", 4, "backward", "recurrent_map", "input_scale", value=-1), "input_scale"),
        (put("layers", 4, "backward", "reverse", value=0), "reverse"),
        (put("layers", 4, "backward", "constant_gates", value={"type": "Linear"}), "constant_gates"),
        (put("layers", 4, "backward", "projection", value=None), "recurrent_map has shape"),
        (put("lexicon_bytes", value=5), "lexicon"),
        (put("lexicon_bytes", value=None), "belong to no layer.*lexicon"),
        (put("lexicon_bytes", value=-2), "lexicon"),
        (put("lexicon_bytes", value=2**40), "lexicon"),
    ],
)
def test_a_malformed_header_is_refused_with_the_place(saved, change, message):
    rewrite(saved, change_header=change)
    with pytest.raises(InputError, match=rf"model.safetensors: .*{message}") as caught:
        Bundle.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("6.bias", None, "'6.bias' is missing"),
        ("6.bias", np.zeros(3, np.float32), r"bias has shape \(3,\)"),
        ("6.bias", np.zeros(6, np.float64), "float64"),
        ("6.bias", np.full(6, np.inf, np.float32), "infinity"),
        ("6.map.weights", np.zeros((3, 9), np.float32), "bias has shape"),
        ("4.forward.input_map.codes", np.full((20, 30), -128, np.int8), "-128"),
        ("4.forward.input_map.scales", None, "tensors"),
        ("4.backward.constant_gates.rows", np.array([11, 3], np.uint32), "ascend"),
        ("4.backward.constant_gates.rows", np.array([3, 24], np.uint32), "beyond"),
        ("9.bias", np.zeros(2, np.float32), "belong to no layer"),
        ("lexicon", None, "lexicon"),
        ("lexicon", np.zeros(9, np.uint8), "lexicon"),
    ],
)
def test_malformed_tensors_are_refused_with_the_place(saved, name, tensor, message):
    def change(tensors):
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor

    rewrite(saved, change_tensors=change)
    with pytest.raises(InputError, match=rf"model.safetensors: malformed bundle: .*{message}"):
        Bundle.load(saved)


def test_values_that_are_not_json_are_refused_and_the_old_file_stays(saved):
    before = saved.read_bytes()
    for value in (float("nan"), object()):
        whole = bundle()
        with pytest.raises(InputError, match="JSON"):
            Bundle(whole.network, whole.features, whole.tokens, model={"x": value}).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_a_network_for_other_features_or_tokens_is_no_bundle():
    whole = bundle()
    with pytest.raises(InputError, match="gets 5"):
        Bundle(whole.network, FeatureConfig(bins=5), whole.tokens)
    with pytest.raises(InputError, match="outputs for"):
        Bundle(whole.network, whole.features, Tokens.phones())


def test_a_full_disk_leaves_the_old_file_and_says_so(saved, monkeypatch):
    def fail(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr("asr_compress.runtime.bundle.save_file", fail)
    with pytest.raises(OSError, match="model.safetensors: not written.*No space left"):
        bundle().save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]
