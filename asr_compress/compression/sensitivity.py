"""Which parts of a model bear which compression: every map, layer and gate, pass and strength, one at a time."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asr_compress.compression.base import Context
from asr_compress.compression.dev_errors import DevErrors, Utterance, dev_errors
from asr_compress.compression.heat_map import heat_map
from asr_compress.compression.order import traits_of
from asr_compress.compression.registry import make_pass
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network
from asr_compress.models.encode import encode
from asr_compress.models.layers import Recurrent
from asr_compress.models.maps import Map, maps_of
from asr_compress.models.zoo import ZOO
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.network import GATES
from asr_compress.runtime.tokens import Tokens

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch

# Label, pass and parameters of each strength; each is applied to one part at a time.
STRENGTHS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("int8", "quantization", {"numbers": "int8", "edges": "same"}),
    ("int4", "quantization", {"numbers": "int4", "edges": "same"}),
    ("ternary", "quantization", {"numbers": "ternary", "edges": "same"}),
    ("blocks 50 %", "block_pruning", {"sparsity": 0.5}),
    ("blocks 75 %", "block_pruning", {"sparsity": 0.75}),
    ("blocks 90 %", "block_pruning", {"sparsity": 0.9}),
    ("weights 90 %", "pruning", {"sparsity": 0.9}),
    ("rank / 2", "low_rank", {"ratio": 2.0}),
    ("rank / 4", "low_rank", {"ratio": 4.0}),
)
# The same of a single gate, to be read beside the whole maps and layers; of the passes above, pruning knows gates.
GATE_STRENGTHS: tuple[tuple[str, str, float], ...] = (
    ("blocks 50 %", "block_pruning", 0.5),
    ("blocks 75 %", "block_pruning", 0.75),
    ("blocks 90 %", "block_pruning", 0.9),
)


@dataclass(frozen=True)
class Probe:
    """One part of the model and what is done to it.

    Attributes:
        part: a map (`layers.2.forward.recurrent`), a layer (`layers.2`) or a gate (`layers.2.forward gate f`).
        layer: index in `model.layers` of the layer that changes.
        strength: what is done, in words.
        name, params: the pass and its parameters.
    """

    part: str
    layer: int
    strength: str
    name: str
    params: dict[str, Any]


def probes_of(
    model: AcousticModel, strengths: Sequence[tuple[str, str, dict[str, Any]]] = STRENGTHS, gates: bool = True
) -> list[Probe]:
    """Every map and every LSTM layer with every strength, every gate with those of gates; ordered by layer."""
    probes = []
    for layer, maps in _maps_by_layer(model).items():
        names = [item.name for item in maps]
        parts = {name: [name] for name in names} | ({f"layers.{layer}": names} if len(names) > 1 else {})
        for part, include in parts.items():
            probes += [
                Probe(part, layer, label, name, {**params, "include": include}) for label, name, params in strengths
            ]
        for direction in dict.fromkeys(
            item.name.rpartition(".")[0] for item in maps if gates and item.gates == len(GATES)
        ):
            include = [item.name for item in maps if item.gates == len(GATES) and item.name.startswith(f"{direction}.")]
            for gate, (label, name, share) in product(GATES, GATE_STRENGTHS):
                params = {"gates": {gate: share}, "scope": "map", "include": include}  # budgets of gates are a map's
                probes.append(Probe(f"{direction} gate {gate}", layer, label, name, params))
    return probes


def _maps_by_layer(model: AcousticModel) -> dict[int, list[Map]]:
    grouped: dict[int, list[Map]] = {}
    for item in maps_of(model):
        grouped.setdefault(int(item.name.split(".")[1]), []).append(item)
    return grouped


def scan(
    model: AcousticModel,
    batches: Iterable[Batch],
    tokens: Tokens,
    results: Path,
    identity: str,
    probes: Sequence[Probe] | None = None,
    say: Callable[[str], None] = lambda text: None,
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Measure every probe on `batches`; each result is a line of the file `results` as soon as it is there.

    A line holds part, strength, pass and parameters, the errors by kind and the blank rate of greedy decoding, the mean
    KL divergence a frame from the untouched model, and the bytes of the part before and after. Lines that are there
    already are not measured again. The first line is the untouched model, with the seconds of speech heard.

    Args:
        identity: what model and data are; lines of another identity do not count.
        workers: probes measured at a time, each on one core; torch's number of threads if None. Numbers do not depend
            on it.
    """
    known = _read(results, identity)
    todo = probes_of(model) if probes is None else list(probes)
    missing = [probe for probe in todo if _key(probe) not in known]
    results.parent.mkdir(parents=True, exist_ok=True)

    def keep(probe: Probe | None, measured: dict[str, Any]) -> None:
        known[_key(probe)] = {"identity": identity, "key": _key(probe), **measured}
        with results.open("a") as file:
            file.write(json.dumps(known[_key(probe)]) + "\n")

    if missing or _key(None) not in known:
        with _workers(workers or torch.get_num_threads()) as pool:
            runner = _Runner(model.eval(), list(batches), tokens, pool)
            if _key(None) not in known:
                keep(None, runner.baseline())
            done = 0
            for layer in sorted({probe.layer for probe in missing}):
                runner.advance(layer)
                here = [probe for probe in missing if probe.layer == layer]
                for probe, measured in zip(here, pool.map(runner.measure, here), strict=True):
                    keep(probe, measured)
                    done += 1
                    if done % 20 == 0:
                        say(f"{done} of {len(missing)} probes")
    return [known[_key(probe)] for probe in (None, *todo)]


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each run torch on one core: a layer of a few utterances is too little work to be divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for what has not begun
        torch.set_num_threads(before)


def scan_bundle(
    bundle_path: Path,
    manifests: Sequence[Path],
    out: Path,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    strengths: Sequence[tuple[str, str, dict[str, Any]]] = STRENGTHS,
) -> list[dict[str, Any]]:
    """Scan a bundle on the utterances of `manifests`: `out/scan.jsonl`, `out/error.png` and `out/kl.png`.

    Args:
        strengths: label, pass and parameters of each.

    Raises:
        InputError: a file that cannot be read, or a bundle that is compressed already.
    """
    from asr_compress.training.config import AugmentConfig, TrainConfig
    from asr_compress.training.run import load_speech

    bundle = Bundle.load(bundle_path)
    model = from_network(bundle.network)
    traits = traits_of(model)
    if traits:
        raise InputError(f"{bundle_path}: compressed already ({min(traits)}); scan the model that it was made from")
    paths, features = tuple(manifests), bundle.features.to_json()
    config = TrainConfig(
        model=next(iter(ZOO)),
        train=paths,
        dev=paths,
        features=features,
        augment=AugmentConfig(speeds=(1.0,)),
        batch_s=120,
    )
    speech = load_speech(config, bundle.tokens, bundle.lexicon, model, (cache or out / "cache") / "features")
    batches = list(speech.dev.epoch(0, shortest_first=True))
    identity = hashlib.sha256(bundle_path.read_bytes())
    for batch in batches:
        identity.update(" ".join(batch.ids).encode())
    minutes = sum(batch.audio_s for batch in batches) / 60
    probes = probes_of(model, strengths)
    say(f"{len(probes)} probes on {minutes:.1f} minutes of speech")
    lines = scan(model, batches, bundle.tokens, out / "scan.jsonl", identity.hexdigest()[:16], probes, say)
    for figure in ("error", "kl"):
        heat_map(lines, out / f"{figure}.png", figure)
    return lines


def _key(probe: Probe | None) -> str:
    content = "baseline" if probe is None else json.dumps([probe.part, probe.name, probe.params], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _read(results: Path, identity: str) -> dict[str, dict[str, Any]]:
    known = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # cut short by an interrupt
            continue
        if entry.get("identity") == identity:
            known[entry["key"]] = entry
    return known


class _Runner:
    """Runs changed models from the layer that changed on: what comes before it is as in the untouched model.

    So is the other direction of a bidirectional layer. `measure` may run in several threads at once.
    """

    def __init__(self, model: AcousticModel, batches: list[Batch], tokens: Tokens, pool: ThreadPoolExecutor) -> None:
        self.model, self.batches, self.tokens, self.pool = model, batches, tokens, pool
        self.at = 0
        self.inputs: list[tuple[Tensor, Tensor]] = [(batch.features, batch.feature_lengths) for batch in batches]
        self.sides: list[list[Tensor]] = [[] for _ in batches]
        self.untouched = list(pool.map(lambda index: self._run(model, index), range(len(batches))))

    def baseline(self) -> dict[str, Any]:
        errors = self._errors(self.untouched)
        audio_s = sum(batch.audio_s for batch in self.batches)
        return {"part": "model", "strength": "none", "audio_s": audio_s, "kl": 0.0, **errors.to_json()}

    def measure(self, probe: Probe) -> dict[str, Any]:
        """One probe of the layer that `advance` has come to."""
        changed = AcousticModel(())
        changed.layers.extend(
            copy.deepcopy(part) if i == probe.layer else part for i, part in enumerate(self.model.layers)
        )
        changed.eval()
        names = set(probe.params["include"])
        before = sum(encode(item).nbytes for item in maps_of(changed) if item.name in names)
        step = make_pass(probe.name, probe.params)
        report = step.prepare(changed, Context(strict=False)).merged(step.finalize(changed))
        after = sum(encode(item).nbytes for item in maps_of(changed) if any(_within(item.name, name) for name in names))
        _bake(changed.layers[probe.layer])
        same = _untouched_sides(self.model.layers[probe.layer], f"layers.{probe.layer}", names)
        outputs = [self._run(changed, index, same) for index in range(len(self.batches))]
        line = {
            "part": probe.part,
            "strength": probe.strength,
            "pass": probe.name,
            "params": probe.params,
            "bytes_before": before,
            "bytes": after,
            "kl": self._divergence(outputs),
            **self._errors(outputs).to_json(),
        }
        if not report.touched:
            line["skipped"] = next(iter(report.skipped.values()), "nothing to change")
        return line

    def advance(self, layer: int) -> None:
        """Bring the inputs to layer `layer` of the untouched model, which is not before the last one."""
        passed = self.model.layers[self.at : layer]
        self.inputs = list(self.pool.map(lambda pair: _through(passed, *pair), self.inputs))
        self.at = layer
        here = self.model.layers[layer]
        self.sides = list(self.pool.map(lambda pair: _sides(here, *pair), self.inputs))

    @torch.no_grad()
    def _run(self, model: AcousticModel, index: int, same: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Log probabilities and lengths of batch `index`; directions `same` of the first layer are as they were."""
        x, lengths = self.inputs[index]
        first, *rest = model.layers[self.at :]
        if same and isinstance(first, Recurrent):
            sides = [
                self.sides[index][side] if side in same else direction(x, lengths)[0]
                for side, direction in enumerate(first.directions)
            ]
            x = torch.cat(sides, dim=-1)
        else:
            x, lengths = first(x, lengths)
        x, lengths = _through(rest, x, lengths)
        return x.float().log_softmax(-1), lengths

    def _errors(self, outputs: list[tuple[Tensor, Tensor]]) -> DevErrors:
        items = []
        for batch, (log_probs, lengths) in zip(self.batches, outputs, strict=True):
            for row, length in enumerate(lengths.tolist()):
                labels = tuple(batch.targets[row, : int(batch.target_lengths[row])].tolist())
                items.append(Utterance(log_probs[row, :length].numpy(), labels))
        return dev_errors(items, self.tokens)

    def _divergence(self, outputs: list[tuple[Tensor, Tensor]]) -> float:
        """Mean KL divergence a frame of the changed model's posteriors from the untouched ones."""
        total, frames = 0.0, 0
        for (ours, lengths), (theirs, _) in zip(outputs, self.untouched, strict=True):
            each = (theirs.exp() * (theirs - ours)).sum(-1)
            valid = torch.arange(each.shape[1])[None] < lengths[:, None]
            total, frames = total + float(each[valid].double().sum()), frames + int(lengths.sum())
        return total / max(1, frames)


@torch.no_grad()
def _through(layers: Iterable[nn.Module], x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    for layer in layers:
        x, lengths = layer(x, lengths)
    return x, lengths


@torch.no_grad()
def _sides(layer: nn.Module, x: Tensor, lengths: Tensor) -> list[Tensor]:
    """What each direction of a bidirectional layer gives; nothing for other layers."""
    if not isinstance(layer, Recurrent) or len(layer.directions) == 1:
        return []
    return [direction(x, lengths)[0] for direction in layer.directions]


def _untouched_sides(layer: nn.Module, path: str, names: Iterable[str]) -> list[int]:
    """The directions of a bidirectional layer that hold none of the maps called `names`."""
    if not isinstance(layer, Recurrent) or len(layer.directions) == 1:
        return []
    touched = {name.removeprefix(f"{path}.").partition(".")[0] for name in names}
    return [side for side, word in enumerate(("forward", "backward")) if word not in touched]


def _bake(layer: nn.Module) -> None:
    """Compute what parametrizations give once, not for each batch."""
    for module in list(layer.modules()):
        if parametrize.is_parametrized(module) and not isinstance(module, parametrize.ParametrizationList):
            for tensor in list(cast(nn.ModuleDict, module.parametrizations)):
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)


def _within(name: str, whole: str) -> bool:
    return name == whole or name in (f"{whole}.left", f"{whole}.right")
