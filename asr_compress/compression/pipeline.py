"""Runs a recipe: stage by stage from bundle to bundle, each with its report and its measured effect in the history."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asr_compress import __version__
from asr_compress.compression.base import Context, Pass, Report
from asr_compress.compression.order import check_order, traits_of
from asr_compress.compression.recipe import Budget, Recipe, Stage, completed
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network, to_network
from asr_compress.models.layers import Normalize
from asr_compress.models.maps import AUXILIARY
from asr_compress.models.zoo import build_model
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write
from asr_compress.runtime.network import Network, walk
from asr_compress.runtime.serialize import describe
from asr_compress.runtime.tokens import Tokens

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch
    from asr_compress.training.config import TrainConfig
    from asr_compress.training.run import Speech

STEP = "compress"  # how the history calls what this module does
Train = Callable[[AcousticModel, Tokens, "Speech", "TrainConfig", Path, Sequence[Pass]], None]


def compress(
    bundle_path: Path,
    recipe: Recipe,
    out: Path,
    cache: Path | None = None,
    train_fn: Train | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Compress the bundle at `bundle_path`; the result is `out/model.safetensors`.

    Each stage leaves its own bundle, so that an interrupted run goes on with the stage that was cut short, and that
    stage with the training step that was saved last.

    Args:
        cache: folder of features and teacher posteriors, which runs may share; `out/cache` if None.
        train_fn: trains a model in place; the package's loop if None.
        say: told what happens.

    Raises:
        InputError: a bundle that cannot be read or that is not the one that the recipe names, passes in an impossible
            order, data that a pass lacks, a part of the model that a pass does not support.
    """
    start = Bundle.load(bundle_path)
    if recipe.start not in (None, identity(start)):
        raise InputError(
            f"{bundle_path}: not the bundle that the history began with (it is {identity(start)}, not {recipe.start}); "
            "start from that one"
        )
    first = _first_model(start, recipe)
    stages = [(stage.name, stage.make_passes()) for stage in recipe.stages]
    check_order(stages, traits_of(first), str(bundle_path) if recipe.student is None else recipe.student)
    runner = _Runner(bundle_path, start, recipe, out, cache or out / "cache", train_fn or _train, say)
    bundle = start
    if recipe.student is not None:
        bundle = replace(start, network=to_network(first), model={"name": recipe.student})
    for index, (stage, (_, passes)) in enumerate(zip(recipe.stages, stages, strict=True)):
        bundle = runner.stage(index, stage, passes, bundle)
    bundle.save(out / "model.safetensors")
    return bundle


def replayed(history: list[dict[str, Any]]) -> list[Recipe]:
    """The recipes that a bundle's history tells of, in order; compressing its start by them gives the bundle again.

    Each names its start, so that another one is refused.
    """
    recipes: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for entry in history:
        if entry.get("step") == STEP:
            if entry["index"] == 0:
                recipes.append((entry["recipe"], []))
            recipes[-1][1].append(entry["stage"])
    return [Recipe.from_json({**shared, "stages": stages}, "history") for shared, stages in recipes]


def identity(bundle: Bundle) -> str:
    """Tells bundles apart by what compression sees of them: network, features, tokens and lexicon."""
    layers, tensors = describe(bundle.network)
    lexicon = None if bundle.lexicon is None else bundle.lexicon.to_text()
    header = [layers, bundle.features.to_json(), bundle.tokens.to_json(), lexicon]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()[:16]


class _Runner:
    """One run. Use `compress`."""

    def __init__(
        self,
        bundle_path: Path,
        start: Bundle,
        recipe: Recipe,
        out: Path,
        cache: Path,
        train_fn: Train,
        say: Callable[[str], None],
    ) -> None:
        self.bundle_path, self.out, self.cache = bundle_path, out, cache
        self.recipe = replace(recipe, start=identity(start))
        self.train_fn, self.say = train_fn, say

    def stage(self, index: int, stage: Stage, passes: list[Pass], bundle: Bundle) -> Bundle:
        """Run one stage, or take its bundle where it is done already."""
        folder = self.out / f"{index + 1}-{stage.name}"
        shared = {key: value for key, value in self.recipe.to_json().items() if key != "stages"}
        entry = {"step": STEP, "index": index, "recipe": shared, "stage": stage.to_json()}
        done = self._done(folder / "model.safetensors", entry, bundle)
        if done is not None:
            self.say(f"stage {stage.name}: done already")
            return done
        torch.manual_seed(self.recipe.seed)
        fresh = self.recipe.student is not None and index == 0
        dropout = stage.budget.dropout if stage.budget is not None else 0.0
        model = from_network(bundle.network, dropout)
        speech = self._speech(stage, passes, model, bundle)
        context = self._context(speech, bundle)
        before = None if fresh else self._effect(model, bundle.network, context)
        reports = [step.prepare(model, context) for step in passes]
        if stage.budget is not None and speech is not None:
            entry["rounds"] = self._train(stage, stage.budget, model, bundle, speech, context, folder, passes)
        reports = [report.merged(step.finalize(model)) for report, step in zip(reports, passes, strict=True)]
        network = finished(model)
        after = self._effect(from_network(network), network, context)
        entry |= {"reports": _by_pass(passes, reports), "before": before, "after": after, "asr_compress": __version__}
        # What a file cannot hold apart (tuples, paths) must not make a resumed run differ from a straight one.
        result = replace(bundle, network=network, history=[*bundle.history, json.loads(json.dumps(entry))])
        result.save(folder / "model.safetensors")
        with atomic_write(folder / "report.json") as path:
            path.write_text(json.dumps(entry, indent=2))
        self.say(f"stage {stage.name}: {_summary(before, after)}")
        return result

    def _train(
        self,
        stage: Stage,
        budget: Budget,
        model: AcousticModel,
        bundle: Bundle,
        speech: Speech,
        context: Context,
        folder: Path,
        passes: list[Pass],
    ) -> list[float]:
        """Train once, or again until the target is met; the error on dev after each round.

        Each round goes on from the weights of the one before. The model ends with those of the round with the lowest
        error, of equals the later. A round that is done already is not trained again.
        """
        config = budget.config(self.recipe, bundle.features.to_json())
        errors: list[float] = []
        best: dict[str, torch.Tensor] = {}
        for number in range(budget.rounds):
            place = folder if budget.rounds == 1 else folder / f"round-{number + 1}"
            seeded = config.model_copy(update={"seed": config.seed + number})
            self.say(f"stage {stage.name}: training")
            self.train_fn(model, bundle.tokens, speech, seeded, place, passes)
            errors.append(context.quality(model, stage.name).error)
            if budget.rounds > 1 and errors[-1] == min(errors):
                best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            if budget.target_error is None or errors[-1] <= budget.target_error:
                break
            self.say(f"stage {stage.name}: dev error {errors[-1]:.2%}, target {budget.target_error:.2%}")
        if errors[-1] > min(errors):
            self.say(f"stage {stage.name}: an earlier round was better, dev error {min(errors):.2%}")
            model.load_state_dict(best)
        return errors

    def _done(self, path: Path, entry: dict[str, Any], bundle: Bundle) -> Bundle | None:
        if not path.exists():
            return None
        found = Bundle.load(path)
        if found.history[:-1] == bundle.history and found.history and _is_of(found.history[-1], entry):
            return found
        raise InputError(
            f"{path}: made by another recipe or from another bundle; choose another folder with --out, or delete it"
        )

    def _speech(self, stage: Stage, passes: list[Pass], model: AcousticModel, bundle: Bundle) -> Speech | None:
        if not self.recipe.train:
            return None
        from asr_compress.training.run import load_speech

        budget = stage.budget
        untranscribed = budget is None or any(step.from_audio for step in passes)
        config = (budget or Budget()).config(self.recipe, bundle.features.to_json())
        if budget is None:  # only statistics are taken: no need for other playing speeds
            config = config.model_copy(update={"augment": config.augment.model_copy(update={"speeds": (1.0,)})})
        speech = load_speech(config, bundle.tokens, bundle.lexicon, model, self.cache / "features", untranscribed)
        if speech.rejected:
            left_out = ", ".join(f"{count} ({reason})" for reason, count in sorted(speech.rejected.items()))
            self.say(f"stage {stage.name}: utterances left out: {left_out}")
        if budget is not None and budget.cr_ctc and not all(speech.batches.labels.values()):
            raise InputError(
                f"stage {stage.name!r}: cr_ctc is a term for each label, and some utterances have no transcript; "
                "leave it out of `training`"
            )
        return speech

    def _context(self, speech: Speech | None, bundle: Bundle) -> Context:
        context = Context(
            folder=self.cache,
            strict=self.recipe.strict,
            seed=self.recipe.seed,
            tokens=bundle.tokens,
            start=self.bundle_path,
        )
        if speech is not None:
            from asr_compress.training.validation import validate

            dev = list(speech.dev.epoch(0, shortest_first=True))
            context.dev = lambda: dev
            context.batches = lambda: calibration(speech, self.recipe.calibration_s)
            context.measure = lambda model: validate(model, dev, bundle.tokens, next(model.parameters()).device)
        return context

    @staticmethod
    def _effect(model: AcousticModel, network: Network, context: Context) -> dict[str, Any]:
        """Bytes of the maps, and the quality on dev where there is data."""
        effect: dict[str, Any] = {"bytes": sum(stored.nbytes for _, stored in walk(network))}
        if context.measure is not None:
            measured = asdict(context.measure(model))  # type: ignore[call-overload]
            effect["dev"] = {key: value for key, value in measured.items() if key != "sample"}
        return effect


def _is_of(found: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Whether a stage that is done is the one that `entry` asks for."""
    if found.get("step") != STEP:
        return False
    try:
        # Runs begun by earlier versions go on too: they noted neither the start nor the defaults.
        noted = {"recipe": {"start": entry["recipe"]["start"], **found["recipe"]}, "stage": completed(found["stage"])}
    except InputError:
        return False
    return entry.items() <= {**found, **noted}.items()


def finished(model: AcousticModel) -> Network:
    """The network of a model after its passes, without what only training needed."""
    if hasattr(model, AUXILIARY):
        delattr(model, AUXILIARY)
    return to_network(model.cpu().eval())


def calibration(speech: Speech, audio_s: float) -> Iterable[Batch]:
    """Batches of about `audio_s` seconds of training speech, spread over the whole set, at its own speed."""
    from asr_compress.corpora.batches import Batches

    source = speech.batches
    cuts = sorted(source.cuts, key=lambda cut: cut.id)
    total_s = sum(cut.duration for cut in cuts)
    stride = max(1, round(total_s / audio_s))
    chosen = type(source.cuts).from_cuts(cuts[::stride])
    return Batches(chosen, {1.0: source.caches[1.0]}, source.labels, source.batch_s, shuffle=False).epoch(0)


def _first_model(start: Bundle, recipe: Recipe) -> AcousticModel:
    if recipe.student is None:
        return from_network(start.network)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.student, len(start.tokens), start.features.bins)
    taught = from_network(start.network).layers[0]
    if isinstance(taught, Normalize):
        model.layers[0] = taught
    return model


def _train(
    model: AcousticModel, tokens: Tokens, speech: Speech, config: TrainConfig, folder: Path, passes: Sequence[Pass]
) -> None:
    from asr_compress.training.loop import Diverged, train

    try:
        train(model, tokens, speech.batches, speech.dev, config, folder, passes)
    except Diverged as error:
        raise InputError(str(error)) from None


def _by_pass(passes: list[Pass], reports: list[Report]) -> list[dict[str, Any]]:
    return [{"pass": step.name, **report.to_json()} for step, report in zip(passes, reports, strict=True)]


def _summary(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    text = f"{after['bytes'] / 1e6:.2f} MB of weights"
    if before is not None:
        text += f" (from {before['bytes'] / 1e6:.2f})"
    if "dev" in after:
        text += f", dev error {after['dev']['error']:.2%}"
        text += f" (from {before['dev']['error']:.2%})" if before is not None else ""
    return text
