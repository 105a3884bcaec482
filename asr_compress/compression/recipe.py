"""A recipe: the stages of a compression, read from YAML and checked in full before any work starts.

student: blstm-tiny                     # a fresh model of the zoo; without it the bundle itself is compressed
train: [manifests/train.jsonl.gz]
dev: [manifests/dev.jsonl.gz]
training: {batch_s: 40}                 # for all stages that train; the keys of `asr-compress train`
stages:
  - name: distil
    passes:
      - distillation: {blank_weight: 0.1}
    training: {epochs: 20}              # on top of the recipe's
  - import: prune.yaml                  # all stages of another recipe; prune.yaml#NAME takes one
  - passes: [dynamic_int8]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asr_compress.compression.base import Pass
from asr_compress.compression.registry import make_pass, problem
from asr_compress.models.zoo import ZOO
from asr_compress.runtime.errors import InputError
from asr_compress.training.config import AugmentConfig, OptimizerConfig, ScheduleConfig, TrainConfig

_ANY_MODEL = next(iter(ZOO))  # a training run's configuration names a model; here it is the one at hand


class Budget(BaseModel):
    """How a stage trains: keys of a training run, with defaults for going on from a trained model.

    `dropout` is the rate after each LSTM layer. With a `target_error` the stage trains again, up to `rounds` times,
    until the error on dev is no higher: the classic loop of training, measuring and going on. Each round goes on from
    the weights of the one before; the round with the lowest error is kept, of equals the later.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: OptimizerConfig = OptimizerConfig(lr=5e-4)
    schedule: ScheduleConfig = ScheduleConfig(warmup_steps=100)
    augment: AugmentConfig = AugmentConfig(after_epochs=0)
    epochs: Annotated[int, Field(ge=1)] = 10
    batch_s: Annotated[float, Field(gt=0)] = 60.0
    shortest_first_epochs: Annotated[int, Field(ge=0)] = 0
    cr_ctc: Annotated[float, Field(ge=0)] = 0.0
    average: Annotated[int, Field(ge=1)] = 3
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_error: Annotated[float, Field(ge=0)] | None = None
    rounds: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if self.rounds > 1 and self.target_error is None:
            raise ValueError("`rounds` go on until a target is met; give `target_error`, 0 for all of them")
        return self

    def config(self, recipe: Recipe, features: dict[str, Any]) -> TrainConfig:
        """The configuration of the training run."""
        values = self.model_dump(exclude={"dropout", "target_error", "rounds"})
        return TrainConfig(
            model=_ANY_MODEL, train=recipe.train, dev=recipe.dev, features=features, seed=recipe.seed, **values
        )


@dataclass(frozen=True)
class Stage:
    """Passes that are active together, and how long they train, if they do.

    Parameters that a recipe leaves out are there with their defaults: a history outlives a change of defaults.
    """

    name: str
    passes: tuple[tuple[str, dict[str, Any]], ...]
    budget: Budget | None

    def make_passes(self) -> list[Pass]:
        return [make_pass(name, params) for name, params in self.passes]

    def to_json(self) -> dict[str, Any]:
        """The stage as a recipe writes it, in JSON values."""
        budget = {} if self.budget is None else {"training": self.budget.model_dump(mode="json")}
        return {"name": self.name, "passes": [{name: params} for name, params in self.passes], **budget}


@dataclass(frozen=True)
class Recipe:
    """All of it. See `Recipe.from_json` for the keys.

    Attributes:
        start: `pipeline.identity` of the only bundle that it may start from, as histories name it; None for any.
    """

    stages: tuple[Stage, ...]
    student: str | None = None
    train: tuple[Path, ...] = ()
    dev: tuple[Path, ...] = ()
    strict: bool = True
    seed: int = 0
    calibration_s: float = 600.0
    start: str | None = field(default=None, compare=False)

    @classmethod
    def from_json(cls, values: Any, source: str = "recipe", folder: Path = Path(".")) -> Recipe:
        """Check a recipe.

        Args:
            values: what the YAML says.
            source: its file, for messages.
            folder: what the paths of imports are relative to.

        Raises:
            InputError: an unknown key or pass, a wrong value, an import that cannot be read or turns in a circle.
        """
        try:
            checked = _RecipeKeys.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{source}: {problem(error)}") from None
        try:
            stages = _stages(checked.stages, checked.training, folder, (source,))
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        recipe = cls(
            tuple(stages),
            checked.student,
            tuple(checked.train),
            tuple(checked.dev),
            checked.strict,
            checked.seed,
            checked.calibration_s,
            checked.start,
        )
        _check(recipe, source)
        return recipe

    def to_json(self) -> dict[str, Any]:
        """The recipe in JSON values, imports resolved; `from_json` reads it back."""
        return {
            **({"student": self.student} if self.student else {}),
            **({"start": self.start} if self.start else {}),
            "train": [str(path) for path in self.train],
            "dev": [str(path) for path in self.dev],
            "strict": self.strict,
            "seed": self.seed,
            "calibration_s": self.calibration_s,
            "stages": [stage.to_json() for stage in self.stages],
        }


class _RecipeKeys(BaseModel):
    model_config = ConfigDict(extra="forbid")

    student: str | None = None
    train: list[Path] = []
    dev: list[Path] = []
    strict: bool = True
    seed: int = 0
    calibration_s: Annotated[float, Field(gt=0)] = 600.0
    start: str | None = None
    training: dict[str, Any] = {}
    stages: Annotated[list[dict[str, Any]], Field(min_length=1)]


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. Manifest paths in it are relative to the working directory, imports to the file.

    Raises:
        InputError: no such file, not YAML, or whatever `Recipe.from_json` refuses.
    """
    path = Path(path)
    return Recipe.from_json(_read_yaml(path), str(path), path.parent)


def completed(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage of a history in full: histories once held only the parameters that were given.

    Raises:
        InputError: a pass or a parameter that is no more.
    """
    return _stage(stage, {}, "stage").to_json()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: a mapping with `stages` is expected, got {type(values).__name__}")
    return values


def _stages(
    items: list[dict[str, Any]], training: dict[str, Any], folder: Path, readers: tuple[str, ...]
) -> list[Stage]:
    stages: list[Stage] = []
    for index, item in enumerate(items):
        if "import" in item:
            stages += _imported(item, training, folder, readers, f"stages.{index}")
        else:
            stages.append(_stage(item, training, f"stages.{index}"))
    return stages


def _stage(item: dict[str, Any], training: dict[str, Any], place: str) -> Stage:
    unknown = set(item) - {"name", "passes", "training"}
    if unknown:
        raise InputError(f"{place}.{min(unknown)}: unknown key; a stage has name, passes, training or import")
    specified = item.get("passes", [])
    if not isinstance(specified, list):
        raise InputError(f"{place}.passes: a list is expected, got {specified!r}")
    passes = tuple(_pass_spec(spec, f"{place}.passes.{index}") for index, spec in enumerate(specified))
    budget = None
    if item.get("training") is not None:
        budget = _budget(item["training"], training, f"{place}.training")
    if not passes and budget is None:
        raise InputError(f"{place}: neither `passes` nor `training`; there is nothing to do")
    name = item.get("name") or "-".join(name for name, _ in passes) or "training"
    if not isinstance(name, str) or "/" in name:
        raise InputError(f"{place}.name: a name without slashes is expected, got {name!r}")
    return Stage(name, passes, budget)


def _pass_spec(spec: Any, place: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        spec = {spec: None}
    if not isinstance(spec, dict) or len(spec) != 1:
        raise InputError(f"{place}: a pass is NAME or {{NAME: {{parameters}}}}, got {spec!r}")
    ((name, params),) = spec.items()
    if params is not None and not isinstance(params, dict):
        raise InputError(f"{place}.{name}: parameters are a mapping, got {params!r}")
    try:
        made = make_pass(name, params)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return name, made.params.model_dump(mode="json")


def _budget(own: Any, shared: dict[str, Any], place: str) -> Budget:
    if not isinstance(own, dict):
        raise InputError(f"{place}: a mapping is expected, got {own!r}")
    merged = {**shared, **own}
    for key in shared.keys() & own.keys():
        if isinstance(shared[key], dict) and isinstance(own[key], dict):
            merged[key] = {**shared[key], **own[key]}
    try:
        return Budget(**merged)
    except ValidationError as error:
        raise InputError(f"{place}: {problem(error)}") from None


def _imported(
    item: dict[str, Any], training: dict[str, Any], folder: Path, readers: tuple[str, ...], place: str
) -> list[Stage]:
    if set(item) != {"import"} or not isinstance(item["import"], str):
        raise InputError(f"{place}: an import stands alone and names a file, got {item!r}")
    name, _, chosen = item["import"].partition("#")
    path = folder / name
    if str(path) in readers:
        raise InputError(f"{place}: {path} imports itself ({' -> '.join([*readers, str(path)])})")
    values = _read_yaml(path)
    if not isinstance(values.get("stages"), list):
        raise InputError(f"{path}: has no list of `stages` to import")
    stages = _stages(values["stages"], {**values.get("training", {}), **training}, path.parent, (*readers, str(path)))
    if not chosen:
        return stages
    found = [stage for stage in stages if stage.name == chosen]
    if not found:
        raise InputError(f"{place}: {path} has no stage {chosen!r}; it has {', '.join(s.name for s in stages)}")
    return found


def _check(recipe: Recipe, source: str) -> None:
    """What no key alone can tell."""
    if recipe.student is not None and recipe.student not in ZOO:
        raise InputError(f"{source}: student: no model {recipe.student!r} in the zoo; allowed: {', '.join(ZOO)}")
    if bool(recipe.train) != bool(recipe.dev):
        raise InputError(f"{source}: give both `train` and `dev`, or neither")
    names = [stage.name for stage in recipe.stages]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{source}: two stages are called {repeated[0]!r}; give each its own `name`")
    if recipe.student is not None and recipe.stages[0].budget is None:
        raise InputError(f"{source}: the student is a fresh model; the first stage needs `training`")
    for stage in recipe.stages:
        if stage.budget is not None and not recipe.train:
            raise InputError(f"{source}: stage {stage.name!r} trains; give `train` and `dev` manifests")
        for step in stage.make_passes():
            if step.trains == "always" and stage.budget is None:
                raise InputError(f"{source}: stage {stage.name!r}: {step.name} works in training only; add `training`")
