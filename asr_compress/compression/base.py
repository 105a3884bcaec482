"""What a compression pass is, what it is given, and what it must report.

A pass has three phases. `prepare` changes the model so that it can be trained towards its compressed form (installs
masks, fake quantizers, a teacher). While a stage trains, the loop calls `on_step` before each update and adds the
named terms of `losses`. `finalize` leaves the model in its final form, which `models.convert.to_network` reads into
weight formats. A pass that needs no training goes straight from `prepare` to `finalize`.

The training loop's `Hook` is the part of a `Pass` that it sees: `on_step`, `losses`, `settled`, `ctc_weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from asr_compress.models.maps import AUXILIARY
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import Tokens

if TYPE_CHECKING:
    from asr_compress.corpora.batches import Batch


class Outputs(Protocol):
    """What the model gave for a batch."""

    @property
    def logits(self) -> Tensor:
        """`(batch, frames', tokens)`."""

    @property
    def lengths(self) -> Tensor:
        """int64 `(batch,)`, valid output frames."""


class Quality(Protocol):
    """How good a model is on the dev set (`training.validation.DevResult`)."""

    @property
    def error(self) -> float:
        """Errors over reference units."""

    @property
    def loss(self) -> float:
        """CTC loss a label."""

    @property
    def blank_rate(self) -> float:
        """Share of frames whose best token is the blank."""


class Params(BaseModel):
    """Parameters of a pass. An unknown key is an error; the field descriptions document the pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class Context:
    """What a pass may use beside the model.

    Attributes:
        folder: where the pass may keep caches.
        strict: whether a part of the model that a pass does not support is an error.
        seed: for every random choice.
        tokens: what the logits stand for.
        start: the bundle that compression began with.
        dev: the dev set, in batches; each call starts anew. None without data.
        batches: speech for calibration and statistics, without augmentation; each call starts anew. None without data.
        measure: the model's quality on the dev set. None without data.
    """

    folder: Path = Path(".")
    strict: bool = True
    seed: int = 0
    tokens: Tokens | None = None
    start: Path | None = None
    batches: Callable[[], Iterable[Batch]] | None = None
    dev: Callable[[], Iterable[Batch]] | None = None
    measure: Callable[[nn.Module], Quality] | None = None

    def speech(self, reader: str) -> Iterable[Batch]:
        """The calibration batches, for the pass named `reader`.

        Raises:
            InputError: the recipe names no data.
        """
        if self.batches is None:
            raise InputError(f"{reader}: needs speech; give the recipe `train` and `dev` manifests")
        return self.batches()

    def dev_speech(self, reader: str) -> Iterable[Batch]:
        """The dev set, for the pass named `reader`.

        Raises:
            InputError: the recipe names no data.
        """
        if self.dev is None:
            raise InputError(f"{reader}: needs a dev set; give the recipe `dev` manifests")
        return self.dev()

    def quality(self, model: nn.Module, reader: str) -> Quality:
        """The model on the dev set, for the pass named `reader`.

        Raises:
            InputError: the recipe names no data.
        """
        if self.measure is None:
            raise InputError(f"{reader}: needs a dev set; give the recipe `dev` manifests")
        return self.measure(model)


@dataclass
class Report:
    """What a pass did, part by part. Nothing is left out silently.

    Attributes:
        touched: figures by the name of the part (JSON values).
        skipped: parts left alone on purpose, with the reason.
        unsupported: parts that the pass should have handled and cannot, with the reason.
        figures: totals of the whole pass (JSON values).
    """

    touched: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_unsupported(cls, parts: Mapping[str, str], exclude: Sequence[str] = ()) -> Report:
        """A report to begin with: `parts` by name with the reason, as skipped where a pattern of `exclude` names them.

        What is left out by name is left alone on purpose, so `check` does not count it.
        """
        left = {name for name in parts if any(fnmatchcase(name, pattern) for pattern in exclude)}
        return cls(
            skipped={name: f"left out by `exclude`; {parts[name]}" for name in parts if name in left},
            unsupported={name: reason for name, reason in parts.items() if name not in left},
        )

    def check(self, name: str, strict: bool) -> Report:
        """Itself.

        Raises:
            InputError: with `strict`, if a part is unsupported, or if nothing was touched.
        """
        if strict and self.unsupported:
            part, reason = next(iter(self.unsupported.items()))
            more = f" and {len(self.unsupported) - 1} more" if len(self.unsupported) > 1 else ""
            raise InputError(
                f"{name}: {part} is not supported: {reason}{more}; leave it out by `exclude` or set `strict: false`"
            )
        if strict and not self.touched:
            raise InputError(f"{name}: the model has nothing that this pass could change")
        return self

    def merged(self, later: Report) -> Report:
        """This report with what a later phase of the same pass adds."""
        touched = {name: {**self.touched.get(name, {}), **figures} for name, figures in later.touched.items()}
        return Report(
            {**self.touched, **touched},
            {**self.skipped, **later.skipped},
            {**self.unsupported, **later.unsupported},
            {**self.figures, **later.figures},
        )

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value}


class Pass:
    """One compression step.

    Class attributes:
        name: what recipes call it.
        family: its chapter in the catalogue.
        Params: its parameters.
        trains: whether it is of use only in a stage that trains ("always"), may be ("optional") or never ("never").
        from_audio: whether it teaches from audio alone: its stage keeps utterances without transcripts.
        leaves: traits that the model has afterwards (`compression.order`); `left()` is what holds for its parameters.
        refuses: traits that it cannot start from, each with the reason; likewise `refused()`.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    Params: ClassVar[type[Params]] = Params
    trains: ClassVar[str] = "optional"
    from_audio: ClassVar[bool] = False
    leaves: ClassVar[frozenset[str]] = frozenset()
    refuses: ClassVar[dict[str, str]] = {}

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def left(self) -> frozenset[str]:
        """What it leaves with its parameters."""
        return self.leaves

    def refused(self) -> dict[str, str]:
        """What it refuses with its parameters."""
        return self.refuses

    def prepare(self, model: nn.Module, context: Context) -> Report:
        """Install what training needs. Raises InputError for a model that the pass cannot handle."""
        return Report()

    def on_step(self, step: int, steps: int) -> None:
        """Called before update `step` of `steps`, both from 0. Depends on the two numbers and the model alone."""

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Named scalar terms to add to the loss. `batch` holds the frames before masking."""
        return {}

    def settled(self, step: int, steps: int) -> bool:
        """Whether the weights after update `step` already have the final structure and may be chosen as the best."""
        return True

    @property
    def ctc_weight(self) -> float:
        """Factor of the CTC loss while the pass is active."""
        return 1.0

    def finalize(self, model: nn.Module) -> Report:
        """Leave the model in its compressed form and say what came out."""
        return Report()


def auxiliary(model: nn.Module) -> nn.ModuleDict:
    """Where passes keep modules that only training needs: they train and are saved with the model, and end with it."""
    if not hasattr(model, AUXILIARY):
        model.add_module(AUXILIARY, nn.ModuleDict())
    return cast(nn.ModuleDict, getattr(model, AUXILIARY))


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Iterable[Batch]) -> Iterable[tuple[Batch, Tensor, Tensor]]:
    """Each batch with the logits `(batch, frames', tokens)` and lengths that `model` gives it, in evaluation mode."""
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        for batch in batches:
            moved = batch.to(device)
            logits, lengths = model(moved.features, moved.feature_lengths)
            yield moved, logits, lengths
    finally:
        model.train(was_training)


def listen(model: nn.Module, batches: Iterable[Batch], hooks: Mapping[nn.Module, Callable[..., None]]) -> None:
    """Run `model` over `batches`; each module's hook sees its arguments, keywords and result (torch's order)."""
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks.items()]
    try:
        for _ in outputs_of(model, batches):
            pass
    finally:
        for handle in handles:
            handle.remove()
