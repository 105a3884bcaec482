"""From bundle to bundle: what a recipe did is in the history, can be replayed, and can be interrupted."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asr_compress.compression import pipeline
from asr_compress.compression.base import Outputs, Pass
from asr_compress.compression.distillation import Distillation
from asr_compress.compression.hidden_regression import HiddenRegression
from asr_compress.compression.pipeline import compress, identity, replayed
from asr_compress.compression.recipe import Recipe
from asr_compress.corpora.batches import Batch
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.models.layers import FrameStack, Linear, Normalize, Recurrent
from asr_compress.runtime import formats
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.engine import Engine, native_instructions
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig
from asr_compress.runtime.network import walk
from asr_compress.runtime.serialize import describe
from asr_compress.runtime.tokens import Tokens
from asr_compress.training.config import TrainConfig
from asr_compress.training.run import Speech
from tests.compression.conftest import BINS
from tests.compression.test_distillation import SYMBOLS
from tests.models.small import BINS as SMALL_BINS
from tests.models.small import frames, small

TRAINING = {"epochs": 2, "batch_s": 3.0, "device": "cpu", "augment": {"speeds": [1.0], "time_masks": 0}}
STAGES = [
    {
        "name": "prune",
        "passes": [{"block_pruning": {"sparsity": 0.6, "every": 1}}, {"distillation": {"blank_weight": 0.5}}],
        "training": TRAINING,
    },
    {"name": "int8", "passes": ["dynamic_int8"]},
]


def same_files(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def test_without_data(bundle_path: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_json(
        {"stages": [{"passes": [{"block_pruning": {"sparsity": 0.75}}]}, {"passes": ["dynamic_int8"]}]}
    )
    result = compress(bundle_path, recipe, tmp_path / "run")
    saved = Bundle.load(tmp_path / "run/model.safetensors")
    kinds = {type(stored) for _, stored in walk(saved.network)}
    assert kinds == {formats.BlockSparseInt8, formats.Int8}
    assert saved.history == result.history and len(saved.history) == 3
    first, second = saved.history[1:]
    assert first["before"]["bytes"] > first["after"]["bytes"] == second["before"]["bytes"] > second["after"]["bytes"]
    assert second["after"]["bytes"] == sum(stored.nbytes for _, stored in walk(saved.network))
    assert first["reports"][0]["pass"] == "block_pruning" and "layers.2.forward.input" in first["reports"][0]["touched"]
    assert (tmp_path / "run/1-block_pruning/model.safetensors").exists()


BLOCKS = {"block_pruning": {"sparsity": 0.5}}
GATES = {"gate_pruning": {"share": 0.4, "criterion": "norm", "value": "bias"}}
STORED: dict[str, tuple[list[Any], set[type]]] = {  # what each leaves among the maps
    "float32": ([{"structured_pruning": {"keep": 16}}], {formats.Float32}),
    "int8": (["dynamic_int8"], {formats.Int8}),
    "int4": ([{"quantization": {"numbers": "int4", "edges": "same"}}], {formats.Int4}),
    "int4 and float": ([{"quantization": {"numbers": "int4_float", "edges": "same"}}], {formats.Int4Float}),
    "ternary": ([{"quantization": {"numbers": "ternary", "edges": "same"}}], {formats.Ternary}),
    "binary": ([{"quantization": {"numbers": "binary", "edges": "same"}}], {formats.Binary}),
    "float16": ([{"quantization": {"numbers": "float16"}}], {formats.Float16}),
    "codebook": ([{"quantization": {"numbers": "codebook", "edges": "same"}}], {formats.Codebook}),
    "codebook int8": ([{"quantization": {"numbers": "codebook_int8", "edges": "same"}}], {formats.CodebookInt8}),
    "blocks": ([BLOCKS], {formats.BlockSparseFloat32, formats.Float32}),
    "blocks in int8": ([BLOCKS, "dynamic_int8"], {formats.BlockSparseInt8, formats.Int8}),
    "weights": ([{"pruning": {"sparsity": 0.9}}], {formats.SparseFloat, formats.Float32}),
    "weights in int8": ([{"pruning": {"sparsity": 0.9}}, "dynamic_int8"], {formats.SparseInt8, formats.Int8}),
    "factors": ([{"low_rank": {"rank": 4}}], {formats.LowRank, formats.Float32}),
    "factors in int8": ([{"low_rank": {"rank": 4}}, "dynamic_int8"], {formats.LowRank, formats.Int8}),
    "gates": ([GATES], {formats.Float32}),
    "gates in int4": ([GATES, {"quantization": {"numbers": "int4", "edges": "same"}}], {formats.Int4}),
}
BACKENDS = ["reference", *(["native"] if native_instructions() else [])]


@pytest.mark.parametrize("kind", ["lstm", "blstm", "lstmp"])
@pytest.mark.parametrize("stored", STORED)
def test_save_and_load_give_the_same_output(stored: str, kind: str, tmp_path: Path) -> None:
    """Bit for bit, and saved again the same file."""
    start = tmp_path / "start.safetensors"
    Bundle(to_network(small(kind)), FeatureConfig(bins=SMALL_BINS), SYMBOLS).save(start)
    passes, left = STORED[stored]
    result = compress(start, Recipe.from_json({"stages": [{"passes": passes}]}), tmp_path / "run")
    loaded = Bundle.load(tmp_path / "run/model.safetensors")
    assert {type(part) for _, part in walk(loaded.network)} == left
    loaded.save(tmp_path / "again.safetensors")
    assert same_files(tmp_path / "run/model.safetensors", tmp_path / "again.safetensors")
    for backend in BACKENDS:
        first, second = (
            Engine(bundle.network, backend=backend).run(frames()[0].numpy()) for bundle in (result, loaded)
        )
        assert np.isfinite(first).all() and np.ptp(first) > 0
        np.testing.assert_array_equal(first, second)


def test_trains_measures_and_replays(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    """The whole path on noise; a replay of its history from the same start gives the same file, byte for byte."""
    recipe = Recipe.from_json({"stages": STAGES, **data})
    result = compress(bundle_path, recipe, tmp_path / "run", cache=tmp_path / "cache")
    prune = result.history[1]
    assert {"error", "loss", "blank_rate"} <= prune["after"]["dev"].keys()
    assert prune["before"]["dev"]["loss"] != prune["after"]["dev"]["loss"]
    report = {entry["pass"]: entry for entry in prune["reports"]}
    assert report["block_pruning"]["figures"]["sparsity"] == pytest.approx(0.6, abs=0.12)
    assert report["distillation"]["figures"]["cached_utterances"] == 12
    (again,) = replayed(result.history)
    assert again == recipe
    compress(bundle_path, again, tmp_path / "again", cache=tmp_path / "cache")
    assert same_files(tmp_path / "run/model.safetensors", tmp_path / "again/model.safetensors")


def test_tiles_and_weight_only_int4_replay(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    """Sizes of blocks come back from the history, masks stay whole in training, and the file is the same."""
    stages = [
        {"name": "tiles", "passes": [{"block_pruning": {"sparsity": 0.7, "block": [8, 1], "include": ["input"]}}]},
        {"name": "more", "training": {**TRAINING, "epochs": 1}},
        {"name": "int4", "passes": [{"quantization": {"numbers": "int4_float", "include": ["recurrent", "linear"]}}]},
    ]
    recipe = Recipe.from_json({"stages": stages, **data})
    result = compress(bundle_path, recipe, tmp_path / "run", cache=tmp_path / "cache")
    stored = dict(walk(Bundle.load(tmp_path / "run/model.safetensors").network))
    tiles = [part for name, part in stored.items() if "input_map" in name]
    assert all(isinstance(part, formats.SparseFloat) and part.pattern.tiling.tile == (8, 1) for part in tiles)
    assert isinstance(stored["2.forward.recurrent_map"], formats.Int4Float)
    (again,) = replayed(result.history)
    assert again == recipe
    compress(bundle_path, again, tmp_path / "again", cache=tmp_path / "cache")
    assert same_files(tmp_path / "run/model.safetensors", tmp_path / "again/model.safetensors")


def test_interrupted_between_stages(bundle_path: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_json({"stages": [{"passes": [{"pruning": {"sparsity": 0.5}}]}, STAGES[1]]})
    compress(bundle_path, recipe, tmp_path / "straight")
    compress(bundle_path, recipe, tmp_path / "cut")
    (tmp_path / "cut/2-int8/model.safetensors").unlink()
    (tmp_path / "cut/model.safetensors").unlink()
    said: list[str] = []
    compress(bundle_path, recipe, tmp_path / "cut", say=said.append)
    assert said[0] == "stage pruning: done already"
    assert same_files(tmp_path / "straight/model.safetensors", tmp_path / "cut/model.safetensors")
    other = Recipe.from_json({"stages": [{"passes": [{"pruning": {"sparsity": 0.6}}]}]})
    with pytest.raises(InputError, match="made by another recipe"):
        compress(bundle_path, other, tmp_path / "cut")


def test_order_is_checked_against_the_bundle(bundle_path: Path, tmp_path: Path) -> None:
    int8 = Recipe.from_json({"stages": STAGES[1:]})
    compress(bundle_path, int8, tmp_path / "run")
    with pytest.raises(InputError, match=r"dynamic_int8 cannot follow .*model.safetensors \(quantized maps\)"):
        compress(tmp_path / "run/model.safetensors", int8, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_student(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    """A fresh model learns from the bundle; it takes the bundle's normalization."""
    training = {**TRAINING, "epochs": 1}
    stages = [{"name": "distil", "passes": ["distillation"], "training": training}]
    recipe = Recipe.from_json({"student": "lstm-tiny", "stages": stages, **data})
    result = compress(bundle_path, recipe, tmp_path / "run")
    assert result.model == {"name": "lstm-tiny"} and result.network[2].hidden == 128
    assert result.history[-1]["before"] is None and result.history[-1]["after"]["dev"]["loss"] > 0


TAUGHT = {**TRAINING, "epochs": 1}
ONE_BATCH = {"batch_s": 100.0, "shortest_first_epochs": 100}  # batches drawn at random are of one length each
HOW: dict[str, dict[str, Any]] = {  # recipes that a history must be able to repeat
    "gates": {"stages": [{"passes": [{"gate_pruning": {"share": 0.3}}], "training": TAUGHT}]},
    "units": {
        "stages": [
            {"passes": [{"structured_pruning": {"keep": 8, "multiple": 4}}], "training": TAUGHT},
            {"name": "rank", "passes": [{"low_rank": {"ratio": 1.5}}]},
        ]
    },
    "closest outputs": {"stages": [{"passes": [{"low_rank": {"ratio": 2.0, "closest": "outputs"}}]}]},
    "static int8": {
        "calibration_s": 3.0,
        "stages": [
            {"passes": [{"quantization": {"activations": "static", "calibration": "percentile"}}]},
            {"passes": ["blank_bias"]},
        ],
    },
    "learned steps": {
        "seed": 3,
        "stages": [
            {
                "passes": [{"quantization": {"numbers": "int4", "steps": "learned", "simulate": True}}],
                "training": TAUGHT,
            }
        ],
    },
    "student": {
        "student": "lstm-tiny",
        "stages": [
            {"passes": [{"distillation": {"temperature": 2.0, "delay": 1}}, "hidden_regression"], "training": TAUGHT},
            {"passes": ["dynamic_int8"]},
        ],
    },
    "rounds": {
        "stages": [
            {
                "passes": [{"pruning": {"sparsity": 0.8, "every": 1}}],
                "training": {**TAUGHT, "target_error": 0.0, "rounds": 2},
            }
        ]
    },
}


@pytest.mark.parametrize("how", HOW)
def test_a_history_replays(how: str, bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    """From the file, in another folder and without any cache of the first run: the same file, byte for byte."""
    recipe = Recipe.from_json({**HOW[how], **data})
    compress(bundle_path, recipe, tmp_path / "run")
    history = Bundle.load(tmp_path / "run/model.safetensors").history
    (again,) = replayed(history)
    assert again == recipe and again.start == identity(Bundle.load(bundle_path))
    compress(bundle_path, again, tmp_path / "again")
    assert same_files(tmp_path / "run/model.safetensors", tmp_path / "again/model.safetensors")


def test_a_replay_from_another_start_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    result = compress(bundle_path, Recipe.from_json({"stages": STAGES[1:]}), tmp_path / "run")
    (again,) = replayed(result.history)
    start = Bundle.load(bundle_path)
    renamed = tmp_path / "renamed.safetensors"
    replace(start, decoding={"beam_width": 3}).save(renamed)  # compression does not see it
    compress(renamed, again, tmp_path / "renamed")
    other = tmp_path / "other.safetensors"
    normalize, *rest = start.network
    replace(start, network=(replace(normalize, mean=normalize.mean + 1), *rest)).save(other)
    with pytest.raises(InputError, match=r"other.safetensors: not the bundle that the history began with") as caught:
        compress(other, again, tmp_path / "other")
    assert "\n" not in str(caught.value) and not (tmp_path / "other").exists()
    with pytest.raises(InputError, match="made by another recipe or from another bundle"):
        compress(other, Recipe.from_json({"stages": STAGES[1:]}), tmp_path / "run")


def test_two_recipes_one_after_the_other_replay(bundle_path: Path, tmp_path: Path) -> None:
    """The second starts from what the first leaves, and names it."""
    first = tmp_path / "first/model.safetensors"
    compress(bundle_path, Recipe.from_json({"stages": [{"passes": [BLOCKS]}]}), first.parent)
    result = compress(first, Recipe.from_json({"stages": STAGES[1:]}), tmp_path / "second")
    one, two = replayed(result.history)
    compress(bundle_path, one, tmp_path / "one")
    compress(tmp_path / "one/model.safetensors", two, tmp_path / "two")
    assert same_files(tmp_path / "second/model.safetensors", tmp_path / "two/model.safetensors")
    with pytest.raises(InputError, match="not the bundle that the history began with"):
        compress(bundle_path, two, tmp_path / "wrong")


def test_a_run_of_an_earlier_version_goes_on(bundle_path: Path, tmp_path: Path) -> None:
    """Its history has only the parameters that were given, and no start."""
    recipe = Recipe.from_json({"stages": [{"name": "half", "passes": [{"pruning": {"sparsity": 0.5}}]}, STAGES[1]]})
    compress(bundle_path, recipe, tmp_path / "run")
    path = tmp_path / "run/1-half/model.safetensors"
    done = Bundle.load(path)
    *before, entry = done.history
    del entry["recipe"]["start"]
    entry["stage"]["passes"] = [{"pruning": {"sparsity": 0.5}}]
    replace(done, history=[*before, entry]).save(path)
    (tmp_path / "run/2-int8/model.safetensors").unlink()
    said: list[str] = []
    compress(bundle_path, recipe, tmp_path / "run", say=said.append)
    assert said[0] == "stage half: done already"
    entry["stage"]["passes"] = [{"pruning": {"sparsity": 0.5, "scope": "strip"}}]
    replace(done, history=[*before, entry]).save(path)
    with pytest.raises(InputError, match="made by another recipe"):
        compress(bundle_path, recipe, tmp_path / "run")
    entry["stage"]["passes"] = [{"pruning": {"what_is_no_more": 1}}]
    replace(done, history=[*before, entry]).save(path)
    with pytest.raises(InputError, match="made by another recipe"):
        compress(bundle_path, recipe, tmp_path / "run")


def rewritten(manifest: str, texts: dict[str, str], path: Path) -> str:
    """The manifest with other transcripts."""
    with gzip.open(manifest, "rt") as file:
        cuts = [json.loads(line) for line in file]
    for cut in cuts:
        cut["supervisions"][0]["text"] = texts[cut["supervisions"][0]["text"]]
    with gzip.open(path, "wt") as file:
        file.write("".join(json.dumps(cut) + "\n" for cut in cuts))
    return str(path)


def weights_of(bundle: Bundle) -> dict[str, np.ndarray]:
    return describe(bundle.network)[1]


@pytest.mark.parametrize("name", ["distillation", "guided_ctc"])
def test_without_hard_labels_the_transcripts_do_not_matter(
    name: str, bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]
) -> None:
    """In the loop itself: as many labels but other ones, which only CTC sees."""
    other = rewritten(data["train"][0], {"A": "Q", "BE": "XY"}, tmp_path / "other.jsonl.gz")
    same = {}
    for hard in (0.0, 1.0):
        ends = []
        for manifest in (data["train"][0], other):
            stages = [{"passes": [{name: {"hard": hard}}], "training": TAUGHT}]
            recipe = Recipe.from_json({"stages": stages, "train": [manifest], "dev": data["dev"]})
            out = tmp_path / f"run-{hard}-{len(ends)}"
            ends.append(weights_of(compress(bundle_path, recipe, out, cache=tmp_path / "cache")))
        same[hard] = all(np.array_equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert same == {0.0: True, 1.0: False}


def test_the_hard_weight_scales_ctc(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    """One update of plain gradient descent by CTC alone: as much shorter as the weight is less; two passes multiply."""
    start = weights_of(Bundle.load(bundle_path))
    training = {
        **TAUGHT,
        **ONE_BATCH,
        "optimizer": {"name": "sgd", "lr": 0.02, "clip": 1e9, "weight_decay": 0.0},
        "schedule": {"kind": "constant", "warmup_steps": 0},
        "average": 1,
        "dropout": 0.0,
    }
    moves = {}
    for weights in ((1.0, 1.0), (0.25, 1.0), (0.5, 0.5), (0.0, 1.0)):
        frames_, sequences = weights
        passes = [
            {"distillation": {"weight": 0.0, "hard": frames_}},
            {"sequence_distillation": {"weight": 0.0, "hard": sequences}},
        ]
        recipe = Recipe.from_json({"stages": [{"name": "step", "passes": passes, "training": training}], **data})
        end = weights_of(compress(bundle_path, recipe, tmp_path / f"run{weights}", cache=tmp_path / "cache"))
        moves[weights] = {key: end[key] - start[key] for key in start}
    whole = moves[1.0, 1.0]
    assert max(np.abs(move).max() for move in whole.values()) > 1e-3
    for weights in ((0.25, 1.0), (0.5, 0.5), (0.0, 1.0)):
        for key, move in moves[weights].items():
            np.testing.assert_allclose(move, weights[0] * weights[1] * whole[key], rtol=0.01, atol=2e-6)


def stride_bundle(stride: int, path: Path) -> Path:
    """A bidirectional teacher that hears a frame for every `stride` of the features, and is sure of itself."""
    tokens = Tokens.characters()
    torch.manual_seed(stride)
    recurrent = Recurrent(stride * BINS, 12, bidirectional=True)
    normalize = Normalize(torch.zeros(BINS), torch.ones(BINS))
    model = AcousticModel([normalize, FrameStack(stride, stride), recurrent, Linear(24, len(tokens))])
    with torch.no_grad():
        model.layers[-1].weight.mul_(6)
    Bundle(to_network(model.eval()), FeatureConfig(bins=BINS), tokens).save(path)
    return path


@pytest.mark.parametrize("stride", [2, 8])
def test_a_student_of_another_frame_rate_and_later(
    stride: int, tmp_path: Path, data: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From bidirectional to unidirectional, its outputs every four frames: the losses of the loop fall."""
    start = stride_bundle(stride, tmp_path / "teacher.safetensors")
    losses: dict[str, list[float]] = {"distillation": [], "hidden_regression": []}

    def watch(chosen: type[Pass]) -> None:
        original = chosen.losses

        def watched(self: Pass, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
            assert outputs.lengths.tolist() == [-(-n // 4) for n in batch.feature_lengths.tolist()]
            if isinstance(self, Distillation):
                assert self.teacher(batch).lengths.tolist() == [-(-n // stride) for n in batch.feature_lengths.tolist()]
            terms = original(self, batch, outputs)
            losses[self.name].append(sum(term.item() for term in terms.values()))
            return terms

        monkeypatch.setattr(chosen, "losses", watched)

    watch(Distillation)
    watch(HiddenRegression)
    training = {**TAUGHT, **ONE_BATCH, "epochs": 8, "optimizer": {"lr": 4e-3}, "schedule": {"warmup_steps": 0}}
    passes = [{"distillation": {"hard": 0.0, "blank_weight": 1.0, "delay": 2}}, "hidden_regression"]
    recipe = Recipe.from_json({"student": "lstm-tiny", "stages": [{"passes": passes, "training": training}], **data})
    result = compress(start, recipe, tmp_path / "run")
    assert result.history[-1]["stage"]["passes"][0]["distillation"]["delay"] == 2
    for name, values in losses.items():
        # Two more before the first update: what the run will take is estimated.
        assert len(values) == 2 + 8 and np.isfinite(values).all()
        assert values[-1] < 0.8 * values[0], name


class Steps:
    """A hook that counts updates, and breaks off before one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.count = at, 0

    def on_step(self, step: int, steps: int) -> None:
        if step == self.at:
            raise KeyboardInterrupt
        self.count += 1

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        return {}

    def settled(self, step: int, steps: int) -> bool:
        return True


class Rounds:
    """Trains as the pipeline does and keeps what each round began and ended with."""

    def __init__(self, break_off: int | None = None) -> None:
        self.break_off = break_off
        self.names: list[str] = []
        self.seeds: list[int] = []
        self.steps: list[int] = []
        self.starts: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []

    def __call__(
        self,
        model: AcousticModel,
        tokens: Tokens,
        speech: Speech,
        config: TrainConfig,
        folder: Path,
        passes: list[Pass],
    ) -> None:
        self.names.append(folder.name)
        self.seeds.append(config.seed)
        self.starts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        counter = Steps(1 if self.break_off == len(self.names) else None)
        pipeline._train(model, tokens, speech, config, folder, [*passes, counter])  # type: ignore[list-item]
        self.steps.append(counter.count)
        self.ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})


def rounds_of(data: dict[str, list[str]], count: int, target: float = 0.0) -> Recipe:
    training = {**TAUGHT, "target_error": target, "rounds": count}
    stage = {"name": "more", "passes": [{"pruning": {"sparsity": 0.7, "every": 1}}], "training": training}
    return Recipe.from_json({"stages": [stage], "seed": 5, **data})


def test_rounds_go_on_from_one_another_and_where_they_stopped(
    bundle_path: Path, tmp_path: Path, data: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from asr_compress.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    recipe, straight, cut, rest = rounds_of(data, 3), Rounds(), Rounds(break_off=2), Rounds()
    compress(bundle_path, recipe, tmp_path / "straight", tmp_path / "cache", straight)
    assert straight.names == ["round-1", "round-2", "round-3"] and straight.seeds == [5, 6, 7]
    assert straight.steps[0] > 2 and len(set(straight.steps)) == 1
    for before, after in zip(straight.ends[:-1], straight.starts[1:], strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    for before, after in zip(straight.starts, straight.ends, strict=True):
        assert not all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(KeyboardInterrupt):
        compress(bundle_path, recipe, tmp_path / "cut", tmp_path / "cache", cut)
    assert cut.names == ["round-1", "round-2"]
    compress(bundle_path, recipe, tmp_path / "cut", tmp_path / "cache", rest)
    assert rest.names == straight.names
    assert rest.steps == [0, straight.steps[1] - 1, straight.steps[2]]
    assert same_files(tmp_path / "straight/model.safetensors", tmp_path / "cut/model.safetensors")


# Of the four utterances of dev two say A and two BE.
SAYS = {"nothing": 1.0, "a": 0.5}


@pytest.mark.parametrize(
    ("says", "target", "kept"),
    [
        (["nothing", "a", "nothing"], 0.0, 1),
        (["a", "nothing", "nothing"], 0.0, 0),
        (["nothing", "nothing", "a"], 0.0, 2),
        (["a", "nothing", "a"], 0.0, 2),
        (["nothing", "a", "nothing"], 0.5, 1),
    ],
)
def test_the_best_round_is_kept(
    says: list[str], target: float, kept: int, bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]
) -> None:
    """Rounds that end with a model that says the same whatever it hears."""
    done: list[str] = []

    def learn_by_heart(
        model: AcousticModel, tokens: Tokens, speech: Speech, config: TrainConfig, folder: Path, passes: list[Pass]
    ) -> None:
        linear = model.layers[-1]
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[0 if says[len(done)] == "nothing" else tokens.encode("A")[0]] = 10.0 + len(done)
        done.append(says[len(done)])

    said: list[str] = []
    recipe = rounds_of(data, 3, target)
    result = compress(bundle_path, recipe, tmp_path / "run", train_fn=learn_by_heart, say=said.append)
    entry = result.history[-1]
    assert entry["rounds"] == [SAYS[word] for word in done]
    assert entry["after"]["dev"]["error"] == min(entry["rounds"])
    assert float(weights_of(result)[f"{len(result.network) - 1}.bias"].max()) == 10.0 + kept
    assert any("an earlier round was better" in line for line in said) == (kept < len(done) - 1)
    assert len(done) == (2 if target else 3)


def test_rounds_go_on_until_the_target(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    for target, most, rounds in ((0.0, 2, 2), (1e9, 3, 1)):
        training = {**TRAINING, "epochs": 1, "target_error": target, "rounds": most}
        recipe = Recipe.from_json({"stages": [{"name": "more", "training": training}], **data})
        result = compress(bundle_path, recipe, tmp_path / f"run{most}", cache=tmp_path / "cache")
        assert len(result.history[-1]["rounds"]) == rounds
