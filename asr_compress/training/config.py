"""What a training run is: one validated object, read from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from asr_compress.models.zoo import ZOO
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.features import FeatureConfig

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """A section in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TokensConfig(Strict):
    """What the model spells with.

    `phone` needs `lexicon`, a file made by `asr-compress lexicon`; `bpe` needs `sentencepiece`, a model file.
    """

    kind: Literal["char", "bpe", "phone"] = "char"
    lexicon: Path | None = None
    sentencepiece: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> TokensConfig:
        if self.kind == "phone" and self.lexicon is None:
            raise ValueError("kind: phone needs `lexicon`, a file of words and their phones")
        if self.kind == "bpe" and self.sentencepiece is None:
            raise ValueError("kind: bpe needs `sentencepiece`, a model file")
        return self


class OptimizerConfig(Strict):
    """Optimizer and gradient clipping. `clip` bounds the norm of the whole gradient."""

    name: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw"
    lr: Positive = 2e-3
    weight_decay: float = 1e-2
    clip: Positive = 5.0


class ScheduleConfig(Strict):
    """Learning rate over time: linear warm-up, then `cosine` to `final` of the peak, `constant`, or `plateau`.

    `plateau` multiplies by `factor` whenever the dev error has not fallen for `patience` evaluations.
    """

    kind: Literal["cosine", "constant", "plateau"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    final: Share = 0.01
    factor: Share = 0.5
    patience: Annotated[int, Field(ge=1)] = 3


class AugmentConfig(Strict):
    """Speed perturbation (Ko et al. 2015), other voices and microphones, and SpecAugment (Park et al. 2019).

    Masks and perturbations start after `after_epochs`: before the first alignments they only prolong CTC's blank
    plateau. `vocal_tract`, `tempo` and `channel` are off at 0: the spectrum stretched by up to that share, the pace
    changed by up to that share without the pitch, and the deviation, in nepers, of a random frequency response.
    """

    speeds: tuple[Positive, ...] = (0.9, 1.0, 1.1)
    frequency_masks: Annotated[int, Field(ge=0)] = 2
    frequency_bins: Annotated[int, Field(ge=1)] = 27
    time_masks: Annotated[int, Field(ge=0)] = 5
    time_share: Share = 0.05
    vocal_tract: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    tempo: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    channel: Annotated[float, Field(ge=0)] = 0.0
    after_epochs: Annotated[int, Field(ge=0)] = 2

    @model_validator(mode="after")
    def _check(self) -> AugmentConfig:
        if 1.0 not in self.speeds:
            raise ValueError("speeds must hold 1.0, the speed that normalization statistics are taken at")
        return self


class TrainConfig(Strict):
    """A training run.

    Attributes:
        model: name in the zoo.
        train, dev: manifests.
        epochs: passes over the training set.
        batch_s: seconds of audio in a step.
        shortest_first_epochs: epochs that go from short to long utterances.
        crf: weight of CTC-CRF's denominator (Xiang & Ou 2019), from the epoch after `shortest_first_epochs` on; 0 is
            plain CTC, 1 the conditional random field, a little less keeps some CTC.
        cr_ctc: weight of consistency regularization (Yao et al. 2024); 0 is plain CTC. Doubles the cost of a step.
        average: dev-best epochs whose weights are averaged into the result.
        precision: `bf16` is autocast on CPU and GPU, `fp16` on a GPU only.
        device: `auto` takes a GPU where there is one.
    """

    model: str
    train: tuple[Path, ...] = Field(min_length=1)
    dev: tuple[Path, ...] = Field(min_length=1)
    tokens: TokensConfig = TokensConfig()
    features: dict[str, Any] = {}
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    epochs: Annotated[int, Field(ge=1)] = 60
    batch_s: Positive = 60.0
    shortest_first_epochs: Annotated[int, Field(ge=0)] = 1
    crf: Annotated[float, Field(ge=0, le=1)] = 0.0
    cr_ctc: Annotated[float, Field(ge=0)] = 0.0
    average: Annotated[int, Field(ge=1)] = 5
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    threads: Annotated[int, Field(ge=0)] = 0
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.model not in ZOO:
            raise ValueError(f"model {self.model!r} is not in the zoo; allowed: {', '.join(ZOO)}")
        FeatureConfig.from_json(self.features)
        return self

    def feature_config(self) -> FeatureConfig:
        return FeatureConfig.from_json(self.features)


def load_config(path: str | Path, **overrides: Any) -> TrainConfig:
    """Read a YAML file; relative paths in it are relative to the working directory.

    Raises:
        InputError: no such file, not YAML, an unknown key, a wrong value.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: a mapping of keys is expected; `asr-compress train --help` shows one")
    try:
        return TrainConfig(**(values | overrides))
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error on one line."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    got = f", got {first['input']!r}" if first["type"] not in ("missing", "value_error") else ""
    return f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}{got}"
