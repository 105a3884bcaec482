"""From bundle to bundle: what a recipe did is in the history, can be replayed, and can be interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asr_compress.compression.pipeline import compress, replayed
from asr_compress.compression.recipe import Recipe
from asr_compress.runtime import formats
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import walk

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


def test_save_and_load_give_the_same_output(bundle_path: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_json({"stages": STAGES[1:]})
    result = compress(bundle_path, recipe, tmp_path / "run")
    frames = np.random.default_rng(1).normal(size=(30, 20)).astype(np.float32)
    loaded = Bundle.load(tmp_path / "run/model.safetensors")
    first, second = (Engine(bundle.network, backend="reference").run(frames) for bundle in (result, loaded))
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


def test_rounds_go_on_until_the_target(bundle_path: Path, tmp_path: Path, data: dict[str, list[str]]) -> None:
    for target, most, rounds in ((0.0, 2, 2), (1e9, 3, 1)):
        training = {**TRAINING, "epochs": 1, "target_error": target, "rounds": most}
        recipe = Recipe.from_json({"stages": [{"name": "more", "training": training}], **data})
        result = compress(bundle_path, recipe, tmp_path / f"run{most}", cache=tmp_path / "cache")
        assert len(result.history[-1]["rounds"]) == rounds
