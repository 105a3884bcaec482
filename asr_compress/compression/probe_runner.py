"""What one changed part does to a model: only what follows it is computed, by the engine."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from asr_compress.compression.base import Context
from asr_compress.compression.dev_errors import DevErrors, Utterance, dev_errors
from asr_compress.compression.registry import make_pass
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import to_lstm_layer, to_network
from asr_compress.models.encode import encode
from asr_compress.models.layers import Recurrent
from asr_compress.models.maps import maps_of
from asr_compress.runtime.engine import Engine
from asr_compress.runtime.network import Network
from asr_compress.runtime.tokens import Tokens

if TYPE_CHECKING:
    from asr_compress.compression.sensitivity import Probe
    from asr_compress.corpora.batches import Batch

Frames = list[np.ndarray]  # of each utterance, float32 (frames, features)


class ProbeRunner:
    """Runs changed models from the layer that changed on: what comes before it is as in the untouched model.

    So is the other direction of a bidirectional layer. Every map runs in the format that its pass leaves, as it will
    when it is shipped. `measure` may run in several threads at once.
    """

    def __init__(self, model: AcousticModel, batches: Iterable[Batch], tokens: Tokens, cores: int) -> None:
        self.model, self.tokens, self.cores = model, tokens, cores
        self.audio_s = 0.0
        self.labels: list[tuple[int, ...]] = []
        self.inputs: Frames = []  # of the layer at hand
        for batch in batches:
            self.audio_s += batch.audio_s
            for row, frames in enumerate(batch.feature_lengths.tolist()):
                self.inputs.append(batch.features[row, :frames].numpy())
                self.labels.append(tuple(batch.targets[row, : int(batch.target_lengths[row])].tolist()))
        self.at = 0
        self.sides: list[Frames] = []  # what each direction of the layer at hand gives, if it has two
        self.after: Engine | None = None  # the layers that follow it
        outputs = _run(model.layers, self.inputs, cores)
        self.ends = np.cumsum([0, *map(len, outputs)]).tolist()
        self.untouched = _log_probs(outputs)

    def baseline(self) -> dict[str, Any]:
        """The untouched model."""
        errors = self._errors(self.untouched)
        return {"part": "model", "strength": "none", "audio_s": self.audio_s, "kl": 0.0, **errors.to_json()}

    def advance(self, layer: int) -> None:
        """Go on to layer `layer`, which is not before the last one."""
        self.inputs = _run(self.model.layers[self.at : layer], self.inputs, self.cores)
        self.at = layer
        directions, after = _directions(self.model.layers[layer]), _network(self.model.layers[layer + 1 :])
        self.sides = [_run_direction(direction, self.inputs, self.cores) for direction in directions]
        self.after = Engine(after) if after else None

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
        outputs = self._through(changed.layers[probe.layer], names)
        log_probs = _log_probs(outputs if self.after is None else self.after.run_batch(outputs))
        line = {
            "part": probe.part,
            "strength": probe.strength,
            "pass": probe.name,
            "params": probe.params,
            "bytes_before": before,
            "bytes": after,
            "kl": self._divergence(log_probs),
            **self._errors(log_probs).to_json(),
        }
        if not report.touched:
            line["skipped"] = next(iter(report.skipped.values()), "nothing to change")
        return line

    def _through(self, layer: nn.Module, changed: Iterable[str]) -> Frames:
        """Outputs of the layer at hand with the maps called `changed` changed."""
        directions = _directions(layer)
        if not directions:
            return _run([layer], self.inputs)
        touched = {name.removeprefix(f"layers.{self.at}.").partition(".")[0] for name in changed}
        sides = [
            _run_direction(direction, self.inputs) if word in touched else as_it_was
            for word, direction, as_it_was in zip(("forward", "backward"), directions, self.sides, strict=True)
        ]
        return [np.concatenate(pair, axis=1) for pair in zip(*sides, strict=True)]

    def _errors(self, log_probs: np.ndarray) -> DevErrors:
        parts = (log_probs[start:end] for start, end in pairwise(self.ends))
        return dev_errors([Utterance(part, of) for part, of in zip(parts, self.labels, strict=True)], self.tokens)

    def _divergence(self, log_probs: np.ndarray) -> float:
        """Mean KL divergence a frame of the changed model's posteriors from the untouched ones."""
        each = (np.exp(self.untouched) * (self.untouched - log_probs)).sum(axis=1, dtype=np.float64)
        return float(each.sum()) / max(1, len(each))


def _network(layers: Iterable[nn.Module]) -> Network:
    part = AcousticModel(())
    part.layers.extend(layers)
    return to_network(part)


def _run(layers: Iterable[nn.Module], inputs: Frames, cores: int = 1) -> Frames:
    network = _network(layers)
    return Engine(network, threads=cores).run_batch(inputs) if network else inputs


def _run_direction(direction: nn.Module, inputs: Frames, cores: int = 1) -> Frames:
    return Engine((to_lstm_layer(direction),), threads=cores).run_batch(inputs)


def _directions(layer: nn.Module) -> list[nn.Module]:
    """Those of a bidirectional layer."""
    return list(layer.directions) if isinstance(layer, Recurrent) and len(layer.directions) == 2 else []


def _log_probs(logits: Sequence[np.ndarray]) -> np.ndarray:
    """`(frames of all utterances, tokens)`."""
    return torch.from_numpy(np.concatenate(logits)).log_softmax(-1).numpy()


def _within(name: str, whole: str) -> bool:
    return name == whole or name in (f"{whole}.left", f"{whole}.right")
