"""Which parts of a model bear which compression: every map, layer and gate, pass and strength, one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asr_compress.compression.heat_map import heat_map
from asr_compress.compression.order import traits_of
from asr_compress.compression.probe_runner import ProbeRunner
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network
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
# Half of one gate's blocks cost ds2-small a point of error at most; they are left out, for a layer has eight gates.
GATE_STRENGTHS: tuple[tuple[str, str, float], ...] = (
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
        cores = workers or torch.get_num_threads()
        with _workers(cores) as pool:
            runner = ProbeRunner(model.eval(), batches, tokens, cores)
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
    """Threads in which torch keeps to one core, as the engine does: passes sort and factorize with it."""
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
    identity = hashlib.sha256(b"engine" + bundle_path.read_bytes())  # lines from before it ran the probes differ
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
