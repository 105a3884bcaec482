"""Other people's models: adopted, compressed, and back; recognizers of four styles."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr_compress.compression.base import Context, Pass, Report
from asr_compress.compression.gate_pruning import GatePruning, GatePruningParams
from asr_compress.compression.low_rank import SVD, LowRankParams
from asr_compress.compression.pruning import Pruning, PruningParams
from asr_compress.compression.quantization import DynamicInt8, DynamicInt8Params
from asr_compress.compression.regularization import Regularization, RegularizationParams
from asr_compress.compression.structured import StructuredParams, StructuredPruning
from asr_compress.corpora.torchaudio_cpu import torchaudio
from asr_compress.models.adopt import LSTMCell, adopt, release
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.encode import encode
from asr_compress.models.lstm import LSTM
from asr_compress.models.maps import directions_of, map_of, maps_of, unknown_parts
from asr_compress.models.stack import network_of
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.tokens import Tokens


class PackedRecognizer(nn.Module):
    """The usual student's code: nn.LSTM with packing, then a linear layer and log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.out = nn.Linear(20, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed, _ = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        x, _ = pad_packed_sequence(packed, batch_first=True)
        return self.out(x).log_softmax(-1)


class OtherDeepSpeech(nn.Module):
    """DeepSpeech 2 as others write it: convolutions, time-major LSTMs whose directions are added, batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, (5, 3), stride=(2, 1), padding=(2, 1)), nn.BatchNorm2d(4), nn.Hardtanh(0, 20)
        )
        self.rnns = nn.ModuleList(nn.LSTM(size, 9, bidirectional=True) for size in (16, 9))
        self.norm = nn.BatchNorm1d(9)
        self.out = nn.Linear(9, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.transpose(1, 2).unsqueeze(1))  # (batch, 4, 4, frames)
        x = x.flatten(1, 2).permute(2, 0, 1)
        for index, rnn in enumerate(self.rnns):
            if index:
                frames, batch = x.shape[:2]
                x = self.norm(x.reshape(frames * batch, -1)).view(frames, batch, -1)
            x, _ = rnn(x)
            x = x.view(x.shape[0], x.shape[1], 2, -1).sum(2)
        return self.out(x.transpose(0, 1))


class Vad(nn.Module):
    """Voice activity, chunk by chunk, with the state in the caller's hands."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2)
        self.cell = nn.LSTMCell(8, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, chunk: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        inner, outer = state if state is not None else (None, None)
        x, inner = self.lstm(chunk.transpose(0, 1), inner)
        outer = self.cell(x[-1], outer)
        return self.out(outer[0]).sigmoid(), (inner, outer)


def packed() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x, lengths = torch.randn(3, 7, 6), torch.tensor([4, 7, 5])
    return PackedRecognizer(), lambda model: model(x, lengths)


def deep_speech() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x = torch.randn(2, 9, 8)
    return OtherDeepSpeech(), lambda model: model(x)


def vad() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    chunks = torch.randn(3, 2, 5, 6)

    def run(model: nn.Module) -> Tensor:
        outputs, state = [], None
        for chunk in chunks:
            y, state = model(chunk, state)
            outputs.append(y)
        return torch.cat(outputs)

    return Vad(), run


def tacotron() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = torchaudio.models.Tacotron2(
        n_symbol=9, n_mels=6, symbol_embedding_dim=8, encoder_embedding_dim=8, decoder_rnn_dim=8, prenet_dim=4,
        attention_rnn_dim=8, attention_hidden_dim=4, attention_location_n_filter=2, postnet_embedding_dim=8,
    )  # fmt: skip
    text, mel = torch.randint(0, 9, (2, 5)), torch.randn(2, 6, 6)
    lengths, mel_lengths = torch.tensor([5, 3]), torch.tensor([6, 4])

    def run(module: nn.Module) -> Tensor:
        torch.manual_seed(5)  # its prenet drops out in evaluation too
        return module(text, lengths, mel, mel_lengths)[0]

    return model, run


def hdemucs() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = torchaudio.models.HDemucs(
        ["a", "b"], audio_channels=1, nfft=256, depth=3, channels=8, dconv_lstm=1, dconv_attn=9
    )
    x = torch.randn(1, 1, 4096)
    return model, lambda module: module(x)


def open_unmix() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    found = pytest.importorskip("openunmix.model", reason="openunmix is not installed")
    x = torch.rand(2, 1, 12, 7)
    return found.OpenUnmix(nb_bins=12, nb_channels=1, hidden_size=16, nb_layers=2), lambda module: module(x)


MODELS = {
    "packed": packed,
    "deep speech": deep_speech,
    "vad": vad,
    "tacotron": tacotron,
    "hdemucs": hdemucs,
    "open-unmix": open_unmix,
}


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Callable[[nn.Module], Tensor]]:
    torch.manual_seed(0)
    model, run = MODELS[request.param]()
    return request.param, model.eval(), run


def test_adopted_is_equal_and_released_is_the_same(case: tuple) -> None:
    _, model, run = case
    with torch.no_grad():
        expected = run(model)
        adopted = adopt(model, copy=True)
        assert any(isinstance(module, LSTM) for module in adopted.modules())
        torch.testing.assert_close(run(adopted), expected, rtol=1e-6, atol=1e-6)
        back = release(copy.deepcopy(adopted))
        assert not any(isinstance(module, LSTM) for module in back.modules())
        torch.testing.assert_close(run(back), expected, rtol=1e-6, atol=1e-6)


def test_trains_after_adoption(case: tuple) -> None:
    _, model, run = case
    adopted = adopt(model, copy=True)
    run(adopted).square().mean().backward()
    assert all(item.trained.grad is not None for item in maps_of(adopted, ["input", "recurrent"]))


@torch.no_grad()
def dense_form(adopted: nn.Module) -> nn.Module:
    """Released, in place, with LSTMs that hold as plain matrices what the stored maps mean."""
    for direction in directions_of(adopted).values():
        for tensor in ("weight_ih", "weight_hh"):
            item = map_of(direction, tensor)
            meaning = torch.tensor(encode(item).dense())
            item.remove()
            item.trained.copy_(meaning)
    plain = release(adopted, strict=True)
    assert not any(isinstance(module, LSTM | LSTMCell) for module in plain.modules())
    return plain


@pytest.mark.parametrize("how", ["pruned", "shrunk", "factorized", "int8", "all"])
def test_compressed(case: tuple, how: str) -> None:
    """It gives the shapes it gave, what the report says is so, and it computes what is stored."""
    _, model, run = case
    adopted = adopt(model, copy=True)
    maps = ("input", "recurrent")
    steps: dict[str, list[Pass]] = {
        "pruned": [Pruning(PruningParams(sparsity=0.5, include=maps))],
        "shrunk": [StructuredPruning(StructuredParams(sparsity=0.4, multiple=1))],
        "factorized": [SVD(LowRankParams(rank=2, multiple=1, include=maps))],
        "int8": [DynamicInt8(DynamicInt8Params(include=maps))],
    }
    steps["all"] = steps["shrunk"] + steps["factorized"] + steps["int8"]
    context = Context(strict=False)
    with torch.no_grad():
        expected = run(model)
        for step in steps[how]:
            report = step.prepare(adopted, context).merged(step.finalize(adopted))
            assert report.touched
        found = run(adopted)
    assert found.shape == expected.shape and not torch.equal(found, expected)
    if how == "int8":
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)
    if how == "pruned":
        lstm_maps = maps_of(adopted, maps)
        assert all(abs(float((item.weight != 0).float().mean()) - 0.5) < 0.02 for item in lstm_maps)
    if how == "shrunk":
        assert sum(p.numel() for p in adopted.parameters()) < sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(run(dense_form(adopted)), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["pruned", "shrunk", "shrunk and pruned"])
def test_pruned_is_released_as_ordinary_modules(case: tuple, how: str) -> None:
    _, model, run = case
    adopted = adopt(model, copy=True)
    steps: dict[str, Pass] = {
        "shrunk": StructuredPruning(StructuredParams(sparsity=0.4, multiple=1)),
        "pruned": Pruning(PruningParams(sparsity=0.5)),
    }
    for name, step in steps.items():
        if name in how:
            step.prepare(adopted, Context(strict=False))
            step.finalize(adopted)
    back = release(copy.deepcopy(adopted), strict=True)
    assert not any(isinstance(module, LSTM | LSTMCell) for module in back.modules())
    assert not any(parametrize.is_parametrized(module) for module in back.modules())
    with torch.no_grad():
        torch.testing.assert_close(run(back), run(adopted), rtol=1e-5, atol=1e-6)


def test_factors_that_lose_nothing_change_nothing(case: tuple) -> None:
    """Maps that are of rank 2 are found to be, and their factors give what they gave."""
    _, model, run = case
    adopted = adopt(model, copy=True)
    with torch.no_grad():
        for item in maps_of(adopted, ["input", "recurrent"]):
            rows, cols = item.weight.shape
            item.trained.copy_(torch.randn(rows, 2) @ torch.randn(2, cols) * 0.3)
        expected = run(adopted)
        step = SVD(LowRankParams(energy=1 - 1e-9, multiple=1))
        report = step.prepare(adopted, Context(strict=False))
        assert all(part["rank"] == 2 for part in report.touched.values())
        assert len(report.touched) == 2 * len(directions_of(adopted))
        torch.testing.assert_close(run(adopted), expected, rtol=1e-4, atol=1e-5)


def test_shrunk_equals_masked(case: tuple) -> None:
    """Whatever reads the LSTM, and whoever carries its state."""
    _, model, run = case
    adopted = adopt(model, copy=True)
    step = StructuredPruning(StructuredParams(sparsity=0.4, multiple=1))
    step.prepare(adopted, Context(strict=False))
    step._mask(1.0)
    with torch.no_grad():
        masked = run(adopted)
        step.finalize(adopted)
        torch.testing.assert_close(run(adopted), masked, rtol=1e-5, atol=1e-5)


class WithTable(nn.Module):
    """An LSTM beside a matrix that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.lstm = nn.LSTM(6, 8)


def test_a_part_that_is_no_map_can_be_excluded_by_name() -> None:
    model = adopt(WithTable())
    assert [item.name for item in maps_of(model, exclude=["table"])] == [
        "lstm.0.forward.input",
        "lstm.0.forward.recurrent",
    ]
    with pytest.raises(InputError, match="no map matches 'tabel'"):
        maps_of(model, exclude=["tabel"])
    with pytest.raises(InputError, match="no map matches 'table'"):
        maps_of(model, include=["table"])
    report = Report.of_unsupported(unknown_parts(model), ["tab*"])
    assert not report.unsupported and "left out by `exclude`; Embedding with a weight" in report.skipped["table"]
    assert Report.of_unsupported(unknown_parts(model), ["lstm*"]).unsupported.keys() == {"table"}


def test_strict_names_what_is_not_supported() -> None:
    with pytest.raises(InputError, match="cell is not supported: the state of an LSTM cell is its caller's"):
        StructuredPruning(StructuredParams(sparsity=0.4)).prepare(adopt(Vad()), Context())


class Plain(nn.Module):
    """A stack that a network can hold, under names of its own."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1))
        self.memory = nn.LSTM(8, 7, 2, batch_first=batch_first, bidirectional=True)
        self.head = nn.ModuleDict({"norm": nn.LayerNorm(14), "out": nn.Linear(14, 5)})
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.memory(self.encoder(x))
        return self.head["out"](self.head["norm"](x)).log_softmax(-1)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_plain_stack_becomes_a_network(batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Plain(batch_first).eval()
    example = torch.randn(3, 6, 6)
    network = network_of(model, example)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "Activation", "Bidirectional", "Bidirectional", "LayerNorm", "Linear"]
    again = from_network(network).eval()
    x = torch.randn(2, 9, 6)
    with torch.no_grad():
        theirs = model(x) if batch_first else model(x.transpose(0, 1)).transpose(0, 1)
        ours = again(x, torch.tensor([9, 9]))[0].log_softmax(-1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_compressed_plain_stack_keeps_its_formats() -> None:
    model = adopt(Plain(True)).eval()
    for step in (Pruning(PruningParams(sparsity=0.6)), DynamicInt8()):
        step.prepare(model, Context())
        step.finalize(model)
    network = network_of(model, torch.randn(2, 5, 6))
    assert network[2].forward.recurrent_map.kind == "sparse_int8" and network[-1].map.kind == "int8"
    assert [type(layer) for layer in to_network(from_network(network))] == [type(layer) for layer in network]


LOW_RANK = LowRankParams(rank=3, multiple=1, include=("input", "recurrent", "memory.0.*"))
TO_BUNDLE: dict[str, list[Pass]] = {
    "int8": [DynamicInt8()],
    "factorized": [SVD(LOW_RANK)],
    "factorized int8": [SVD(LOW_RANK), DynamicInt8()],
}


@pytest.mark.parametrize("how", list(TO_BUNDLE))
@torch.no_grad()
def test_a_compressed_plain_stack_comes_back_as_a_bundle(how: str, tmp_path: Path) -> None:
    """The file computes what the network did, to the last bit, and that is what the module computes."""
    torch.manual_seed(0)
    model = adopt(Plain(True)).eval()
    for step in TO_BUNDLE[how]:
        assert step.prepare(model, Context()).touched
        step.finalize(model)
    network = network_of(model, torch.randn(2, 5, 6))
    Bundle(network, FeatureConfig(bins=6), Tokens.characters("ABC")).save(tmp_path / "model.safetensors")
    loaded = Bundle.load(tmp_path / "model.safetensors").network
    kinds = {"int8": "int8", "factorized": "low_rank", "factorized int8": "low_rank"}
    assert loaded[2].forward.recurrent_map.kind == kinds[how]

    x = torch.randn(3, 9, 6)
    batch = list(x.numpy())
    for before, after in zip(Engine(network).run_batch(batch), Engine(loaded).run_batch(batch), strict=True):
        np.testing.assert_array_equal(before, after)
    lengths = torch.full((3,), 9)
    in_torch = from_network(loaded).eval()(x, lengths)[0]
    assert torch.equal(in_torch, from_network(network).eval()(x, lengths)[0])
    theirs = model(x)
    torch.testing.assert_close(in_torch.log_softmax(-1), theirs, rtol=0, atol=1e-5)
    engine = torch.from_numpy(np.stack(Engine(loaded).run_batch(batch))).log_softmax(-1)
    atol = 0.05 if "int8" in how else 1e-4  # the engine quantizes activations too
    torch.testing.assert_close(engine, theirs, rtol=0, atol=atol)


def test_more_than_a_stack_is_noticed() -> None:
    class Residual(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2 + 1

    with pytest.raises(InputError, match="its layers in a row do not give what it gives"):
        network_of(Residual(True), torch.randn(2, 5, 6))
    with pytest.raises(InputError, match=r"conv.0 \(Conv2d\): a network has no such layer"):
        network_of(OtherDeepSpeech(), torch.randn(2, 9, 8))
    with pytest.raises(InputError, match="no LSTM was run"):
        network_of(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda **chosen: Pruning(PruningParams(sparsity=0.5, **chosen)),
        lambda **chosen: StructuredPruning(StructuredParams(keep=4, multiple=1, **chosen)),
        lambda **chosen: SVD(LowRankParams(rank=1, multiple=1, **chosen)),
        lambda **chosen: DynamicInt8(DynamicInt8Params(**chosen)),
        lambda **chosen: GatePruning(GatePruningParams(share=0.5, criterion="norm", value="bias", **chosen)),
        lambda **chosen: Regularization(RegularizationParams(**chosen)),
    ],
)
def test_strict_advice_is_true(make: Callable[..., Pass]) -> None:
    """Every pass names the part that it does not know, and goes on when told to leave it out."""
    with pytest.raises(InputError, match="table is not supported: .* leave it out by `exclude`"):
        make().prepare(adopt(WithTable()), Context())
    report = make(exclude=("table",)).prepare(adopt(WithTable()), Context())
    assert "table" in report.skipped and not report.unsupported and report.touched
