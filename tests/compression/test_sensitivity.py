"""A scan measures what it says, in the same numbers as the whole model would, and goes on where it stopped."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asr_compress.compression.base import Context
from asr_compress.compression.dev_errors import Utterance, dev_errors, utterances
from asr_compress.compression.heat_map import heat_map
from asr_compress.compression.pipeline import compress
from asr_compress.compression.recipe import Recipe
from asr_compress.compression.registry import make_pass
from asr_compress.compression.sensitivity import GATE_STRENGTHS, STRENGTHS, Probe, probes_of, scan, scan_bundle
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_network
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.errors import InputError
from tests.compression.speech import batches
from tests.compression.test_distillation import SYMBOLS
from tests.models.small import small


def test_probes_cover_maps_layers_and_gates() -> None:
    probes = probes_of(small("blstm"))
    parts = {probe.part for probe in probes}
    assert {"layers.2.forward.input", "layers.2", "layers.5.backward gate o", "layers.8"} <= parts
    assert len(parts) == 4 + 4 + 1 + 2 + 4 * 4
    assert len(probes) == (9 + 2) * len(STRENGTHS) + 16 * len(GATE_STRENGTHS)
    assert [probe.layer for probe in probes] == sorted(probe.layer for probe in probes)
    of_gates = {label for label, _, _ in GATE_STRENGTHS}
    assert len(of_gates) > 1 and of_gates < {label for label, _, _ in STRENGTHS}  # to be read beside the maps
    for part in (part for part in parts if " gate " in part):
        assert {probe.strength for probe in probes if probe.part == part} == of_gates


def changed_by(probe: Probe, model: AcousticModel) -> AcousticModel:
    changed = copy.deepcopy(model)
    step = make_pass(probe.name, probe.params)
    step.prepare(changed, Context(strict=False))
    step.finalize(changed)
    return changed


def shipped(model: AcousticModel) -> list[Utterance]:
    """Every utterance through the whole model as the engine runs it."""
    engine, found = Engine(to_network(model)), []
    for batch in batches():
        for row, frames in enumerate(batch.feature_lengths.tolist()):
            logits = torch.from_numpy(engine.run(batch.features[row, :frames].numpy()))
            labels = batch.targets[row, : int(batch.target_lengths[row])].tolist()
            found.append(Utterance(logits.log_softmax(-1).numpy(), tuple(labels)))
    return found


def test_numbers_are_those_of_the_whole_model(tmp_path: Path) -> None:
    model = small("blstm")
    probes = [p for p in probes_of(model) if p.part in ("layers.2", "layers.5.forward.recurrent", "layers.8")]
    lines = scan(model, batches(), SYMBOLS, tmp_path / "scan.jsonl", "x", probes)
    assert len(lines) == 1 + len(probes) and lines[0]["part"] == "model" and lines[0]["kl"] == 0
    assert lines[0]["error"] == dev_errors(utterances(model, batches()), SYMBOLS).error
    for probe, line in list(zip(probes, lines[1:], strict=True))[::5]:
        found = dev_errors(shipped(changed_by(probe, model)), SYMBOLS)
        assert line["error"] == found.error and line["blank_rate"] == found.blank_rate
        assert line["part"] == probe.part and line["kl"] >= 0
        if "skipped" not in line:
            assert line["bytes"] < line["bytes_before"] and line["kl"] > 0
    assert not any(hasattr(layer, "parametrizations") for layer in model.layers)


def test_workers_and_order_change_nothing(tmp_path: Path) -> None:
    """Layers are gone through once, probes of one at a time in several threads; lines come as they were asked for."""
    model = small("blstm")
    probes = [probe for probe in probes_of(model) if probe.strength in ("int4", "blocks 75 %")][::-1]
    threads = torch.get_num_threads()
    one = scan(model, batches(), SYMBOLS, tmp_path / "one.jsonl", "x", probes, workers=1)
    three = scan(model, batches(), SYMBOLS, tmp_path / "three.jsonl", "x", probes, workers=3)
    assert one == three
    assert [line["part"] for line in one[1:]] == [probe.part for probe in probes]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("part", ["layers.2.backward.recurrent", "layers.5.forward gate f", "layers.5", "layers.8"])
def test_what_did_not_change_is_not_computed_and_the_same(part: str, tmp_path: Path) -> None:
    """Divergence is that of the whole model, though one direction and all layers before are taken as they were."""
    model = small("blstm")
    probes = [probe for probe in probes_of(model) if probe.part == part]
    lines = scan(model, batches(), SYMBOLS, tmp_path / "scan.jsonl", "x", probes)
    for probe, line in zip(probes, lines[1:], strict=True):
        total, frames = 0.0, 0
        for ours, theirs in zip(shipped(changed_by(probe, model)), shipped(model), strict=True):
            each = np.exp(theirs.log_probs) * (theirs.log_probs - ours.log_probs)
            total, frames = total + each.sum(axis=1, dtype=np.float64).sum(), frames + len(each)
        assert line["kl"] == pytest.approx(total / frames, rel=1e-9, abs=1e-15)


def test_stronger_hurts_more(tmp_path: Path) -> None:
    model = small("blstm")
    probes = probes_of(model)
    probes += [  # one more strength for gates
        replace(p, strength="blocks 50 %", params={**p.params, "gates": dict.fromkeys(p.params["gates"], 0.5)})
        for p in probes
        if " gate " in p.part and p.strength == "blocks 75 %"
    ]
    lines = scan(model, batches(), SYMBOLS, tmp_path / "scan.jsonl", "x", probes)
    by = {(line["part"], line["strength"]): line["kl"] for line in lines if "skipped" not in line}
    for part in ("layers.2", "layers.5"):
        assert by[part, "int8"] < by[part, "int4"] < by[part, "ternary"]
        assert by[part, "blocks 50 %"] < by[part, "blocks 90 %"]
    for gate in "ifgo":
        part = f"layers.2.forward gate {gate}"
        assert by[part, "blocks 50 %"] < by[part, "blocks 75 %"] < by[part, "blocks 90 %"]
        assert by[part, "blocks 75 %"] < by["layers.2", "blocks 75 %"]
    heat_map(lines, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes()[:4] == b"\x89PNG"


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, results = small("lstm"), tmp_path / "scan.jsonl"
    probes = [probe for probe in probes_of(model) if probe.strength == "int4"]
    first = scan(model, batches(), SYMBOLS, results, "x", probes[:2])
    with results.open("a") as file:
        file.write('{"identity": "x", "ke')
    with results.open("a") as file:
        file.write("\n")
    lines = scan(model, batches(), SYMBOLS, results, "x", probes)
    assert lines[:3] == first and len(lines) == 1 + len(probes)
    written = [line for line in results.read_text().splitlines() if line.endswith("}")]
    assert len(written) == len(lines)
    scan(model, batches(), SYMBOLS, results, "x", probes)
    assert [line for line in results.read_text().splitlines() if line.endswith("}")] == written
    scan(model, batches(), SYMBOLS, results, "another", probes[:1])
    assert json.loads(results.read_text().splitlines()[-1])["identity"] == "another"


@pytest.mark.parametrize("name", ["ds2", "tdnn-lstm", "lstmp"])
def test_other_families(name: str, tmp_path: Path) -> None:
    model = small(name)
    probes = [probe for probe in probes_of(model) if probe.strength == "blocks 75 %"]
    lines = scan(model, batches(), SYMBOLS, tmp_path / "scan.jsonl", "x", probes)
    assert len(lines) == len(probes) + 1


def test_a_bundle_on_a_manifest(bundle_path: Path, data: dict[str, list[str]], tmp_path: Path) -> None:
    few = STRENGTHS[:2]
    lines = scan_bundle(bundle_path, [Path(data["dev"][0])], tmp_path / "scan", strengths=few)
    assert {path.name for path in (tmp_path / "scan").glob("*.*")} == {"scan.jsonl", "error.png", "kl.png"}
    assert lines == scan_bundle(bundle_path, [Path(data["dev"][0])], tmp_path / "scan", strengths=few)
    int8 = Recipe.from_json({"stages": [{"passes": ["dynamic_int8"]}]})
    compress(bundle_path, int8, tmp_path / "run")
    with pytest.raises(InputError, match=r"model.safetensors: compressed already \(quantized maps\)"):
        scan_bundle(tmp_path / "run/model.safetensors", [Path(data["dev"][0])], tmp_path / "other")
