"""Recipes are checked in full, in one clear line, before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr_compress.compression.base import Context
from asr_compress.compression.distillation import DistillationParams
from asr_compress.compression.order import BLOCKS, QUANTIZED, SPARSE, check_order, traits_of
from asr_compress.compression.pruning import BlockPruning, BlockPruningParams
from asr_compress.compression.recipe import Budget, Recipe, completed, load_recipe
from asr_compress.compression.registry import PASSES, describe_passes, make_pass
from asr_compress.models.maps import maps_of
from asr_compress.models.parametrizations import LowRank
from asr_compress.runtime.errors import InputError
from tests.models.small import small

DATA = {"train": ["train.jsonl.gz"], "dev": ["dev.jsonl.gz"]}

GOOD = """
train: [train.jsonl.gz]
dev: [dev.jsonl.gz]
training: {batch_s: 30, optimizer: {lr: 1.0e-3, clip: 1.0}}
stages:
  - name: prune
    passes:
      - block_pruning: {sparsity: 0.9}
      - distillation
    training: {epochs: 7, optimizer: {lr: 2.0e-4}}
  - passes: [dynamic_int8]
"""


def test_a_recipe_and_its_json(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    recipe = load_recipe(tmp_path / "r.yaml")
    prune, quantize = recipe.stages
    (pruned, given), (distilled, defaults) = prune.passes
    assert (pruned, given["sparsity"], given["end"]) == ("block_pruning", 0.9, 0.5)
    assert (distilled, defaults) == ("distillation", DistillationParams().model_dump(mode="json"))
    assert prune.budget.epochs == 7 and prune.budget.batch_s == 30
    assert prune.budget.optimizer.lr == 2e-4 and prune.budget.optimizer.clip == 1.0
    assert quantize.name == "dynamic_int8" and quantize.budget is None
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))).to_json() == recipe.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": []}, "stage: unknown key"),
        ({"stages": []}, "stages: List should have at least 1 item"),
        ({"stages": [{"passes": ["prunning"]}]}, "stages.0.passes.0: no pass is called 'prunning'; allowed: "),
        (
            {"stages": [{"passes": [{"block_pruning": {"sparsity": "much"}}]}]},
            "stages.0.passes.0: block_pruning: sparsity: .* got 'much'",
        ),
        ({"stages": [{"passes": [{"block_pruning": {"sparsty": 0.5}}]}]}, "block_pruning: sparsty: unknown key"),
        ({"stages": [{"passes": [{"pruning": {"sparsity": 1.2}}]}]}, "pruning: sparsity: .* less than or equal to 1"),
        ({"stages": [{"passes": ["dynamic_int8"], "epochs": 3}]}, "stages.0.epochs: unknown key; a stage has"),
        ({"stages": [{"passes": ["dynamic_int8"], "training": {"epoch": 3}}]}, "stages.0.training: epoch: unknown key"),
        ({"stages": [{"name": "x"}]}, "there is nothing to do"),
        ({"stages": [{"passes": ["distillation"]}], **DATA}, "'distillation': distillation works in training only"),
        ({"stages": [{"training": {"epochs": 3}}]}, "stage 'training' trains; give `train` and `dev`"),
        (
            {"stages": [{"passes": ["dynamic_int8"]}, {"passes": ["dynamic_int8"]}]},
            "two stages are called 'dynamic_int8'",
        ),
        ({"stages": [{"passes": ["dynamic_int8"]}], "train": ["t"]}, "both `train` and `dev`"),
        ({"stages": [{"passes": ["dynamic_int8"]}], "student": "bert"}, "no model 'bert' in the zoo"),
        ({"stages": [{"passes": ["dynamic_int8"]}], "student": "lstm-tiny"}, "the first stage needs `training`"),
        (
            {"stages": [{"training": {"rounds": 3}}], **DATA},
            "stages.0.training: `rounds` go on until a target is met; give `target_error`",
        ),
        ({"stages": [{"import": "missing.yaml"}]}, "missing.yaml: cannot be read as YAML"),
        ({"stages": [{"passes": [["dynamic_int8"]]}]}, "a pass is NAME or"),
    ],
)
def test_bad_recipes(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Recipe.from_json({"stages": [{"passes": ["dynamic_int8"]}], **change}, "r.yaml")
    assert str(caught.value).startswith("r.yaml: ") and "\n" not in str(caught.value)


def test_imports(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/prune.yaml").write_text(
        "training: {epochs: 3, batch_s: 9}\n"
        "stages: [{name: half, passes: [{pruning: {sparsity: 0.5}}], training: {}}, {import: int8.yaml}]\n"
    )
    (tmp_path / "parts/int8.yaml").write_text("stages: [{name: int8, passes: [dynamic_int8]}]\n")
    body = "train: [a]\ndev: [b]\ntraining: {batch_s: 50}\nstages:\n"
    (tmp_path / "all.yaml").write_text(body + "  - import: parts/prune.yaml\n")
    recipe = load_recipe(tmp_path / "all.yaml")
    assert [stage.name for stage in recipe.stages] == ["half", "int8"]
    assert recipe.stages[0].budget.epochs == 3 and recipe.stages[0].budget.batch_s == 50
    (tmp_path / "one.yaml").write_text(body + "  - import: parts/prune.yaml#half\n")
    assert [stage.name for stage in load_recipe(tmp_path / "one.yaml").stages] == ["half"]
    (tmp_path / "none.yaml").write_text(body + "  - import: parts/prune.yaml#third\n")
    with pytest.raises(InputError, match="has no stage 'third'; it has half, int8"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "parts/int8.yaml").write_text("stages: [{import: prune.yaml}]\n")
    with pytest.raises(InputError, match="imports itself"):
        load_recipe(tmp_path / "all.yaml")


def test_orders() -> None:
    prune, quantize = make_pass("block_pruning", {"sparsity": 0.5}), make_pass("dynamic_int8")
    check_order([("a", [prune]), ("b", [quantize])], set(), "model")
    check_order([("a", [prune, quantize])], set(), "model")
    with pytest.raises(InputError, match="stage 'b': block_pruning cannot follow dynamic_int8"):
        check_order([("a", [quantize]), ("b", [prune])], set(), "model")
    with pytest.raises(InputError, match=r"stage 'a': dynamic_int8 cannot follow small.safetensors \(quantized maps\)"):
        check_order([("a", [quantize])], {QUANTIZED}, "small.safetensors")


def test_factors_after_removed_units_and_not_after_masks() -> None:
    """What is removed is gone, and the smaller maps are whole; zeros among weights would be filled again."""
    low_rank, units = make_pass("low_rank", {"ratio": 2.0}), make_pass("structured_pruning", {"sparsity": 0.5})
    masks, blocks = make_pass("pruning", {"sparsity": 0.5}), make_pass("block_pruning")
    check_order([("units", [units]), ("rank", [low_rank])], set(), "model")
    for step, trait in ((masks, SPARSE), (blocks, BLOCKS)):
        reason = rf"low_rank cannot follow {step.name} \({trait}\): .* fills the zeros again; factorize first"
        with pytest.raises(InputError, match=reason):
            check_order([("masks", [step]), ("rank", [low_rank])], set(), "model")
        with pytest.raises(InputError, match=reason):
            check_order([("all", [units, step, low_rank])], set(), "model")
    model = small("blstm")
    for step in (make_pass("structured_pruning", {"keep": 16}), low_rank):
        check_order([("x", [step])], traits_of(model), "model")
        step.prepare(model, Context())
        step.finalize(model)
    assert traits_of(model) == {"factorized maps"}
    masked = small("blstm")
    masks.prepare(masked, Context())
    masks.finalize(masked)
    with pytest.raises(InputError, match="low_rank cannot follow masked.safetensors"):
        check_order([("x", [low_rank])], traits_of(masked), "masked.safetensors")


def test_traits_of_a_model() -> None:
    model = small()
    assert traits_of(model) == set()
    step = BlockPruning(BlockPruningParams(sparsity=0.5, include=("recurrent",)))
    step.prepare(model, Context())
    step.finalize(model)
    item = maps_of(model, ["linear"])[0]
    item.install(LowRank(3, item.weight.shape))
    make_pass("dynamic_int8").prepare(model, Context())
    assert traits_of(model) == {BLOCKS, "factorized maps", QUANTIZED}


NEEDED = {  # what a pass cannot do without
    "pruning": {"sparsity": 0.5},
    "gate_pruning": {"share": 0.1},
    "structured_pruning": {"sparsity": 0.5},
    "layer_removal": {"count": 1},
    "low_rank": {"ratio": 2.0},
    "joint_low_rank": {"ratio": 2.0},
}


@pytest.mark.parametrize("name", PASSES)
def test_the_defaults_that_are_listed_are_those_that_hold(name: str) -> None:
    """Given back as parameters, they make the pass that none make."""
    (entry,) = (entry for entry in describe_passes() if entry["name"] == name)
    given = {key: value["default"] for key, value in entry["parameters"].items() if value["default"] is not None}
    needed = NEEDED.get(name, {})
    assert make_pass(name, {**given, **needed}).params == make_pass(name, needed).params


@pytest.mark.parametrize("name", PASSES)
def test_a_history_holds_every_parameter(name: str) -> None:
    """Whatever becomes of the defaults, what was run can be run again."""
    stage = {"name": "x", "passes": [{name: NEEDED.get(name, {})}], "training": {"optimizer": {"clip": 2.0}}}
    recipe = Recipe.from_json({"stages": [stage], **DATA})
    noted = json.loads(json.dumps(recipe.to_json()))["stages"][0]
    assert noted["passes"][0][name].keys() == PASSES[name].Params.model_fields.keys()
    assert noted["training"].keys() == Budget.model_fields.keys()
    assert noted["training"]["optimizer"].keys() == {"name", "lr", "weight_decay", "clip"}
    assert make_pass(name, noted["passes"][0][name]).params == make_pass(name, NEEDED.get(name, {})).params
    assert completed(noted) == noted == completed(stage)


def test_every_pass_describes_itself() -> None:
    described = {entry["name"]: entry for entry in describe_passes()}
    assert described.keys() == PASSES.keys()
    for entry in described.values():
        assert entry["what"].endswith((".", "sparsity that is speed."))
        assert entry["parameters"].keys() == PASSES[entry["name"]].Params.model_fields.keys()
        for name, parameter in entry["parameters"].items():
            assert parameter["what"], f"{entry['name']}.{name} has no description"
            assert "any" not in parameter["type"].split() and "object" not in parameter["type"], name
    assert json.loads(json.dumps(list(described.values()))) == list(described.values())
    assert described["pruning"]["parameters"]["block"]["type"] == "(integer >= 1, integer >= 1)"
    assert described["pruning"]["parameters"]["block"]["default"] == [16, 4]
    assert described["quantization"]["parameters"]["maps"]["type"].startswith("mapping of name to one of int8, int4")
    assert {name for name, entry in described.items() if entry["from_audio"]} == {
        "distillation",
        "sequence_distillation",
        "guided_ctc",
        "hidden_regression",
    }
    assert described["block_pruning"]["parameters"]["sparsity"] == {
        "what": "share of blocks to drop",
        "type": "number >= 0 <= 1 or null",
        "default": 0.75,
    }
