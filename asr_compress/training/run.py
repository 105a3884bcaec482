"""From a configuration to a trained recognizer: read manifests, build tokens, cache frames, train."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lhotse import CutSet

from asr_compress.corpora.batches import Batches
from asr_compress.corpora.cache import FeatureCache, cache_features, statistics
from asr_compress.corpora.manifests import read_manifest
from asr_compress.corpora.utterances import is_broken
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.convert import from_network
from asr_compress.models.layers import Dropout
from asr_compress.models.zoo import build_model
from asr_compress.runtime.bundle import Bundle
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write
from asr_compress.runtime.lexicon import Lexicon
from asr_compress.runtime.tokens import Tokens
from asr_compress.training.config import TokensConfig, TrainConfig
from asr_compress.training.loop import train
from asr_compress.training.objective import frames_needed
from asr_compress.training.validation import DevResult


@dataclass(frozen=True)
class Trained:
    """A recognizer as training leaves it."""

    model: AcousticModel
    tokens: Tokens
    lexicon: Lexicon | None
    dev: DevResult


@dataclass(frozen=True)
class Speech:
    """Training and dev sets ready for a loop, and what was left out of them by reason."""

    batches: Batches
    dev: Batches
    rejected: dict[str, int]


def train_recognizer(
    config: TrainConfig, folder: Path, initial: Path | None = None, cache: Path | None = None
) -> Trained:
    """Train a zoo model, or go on where the run in `folder` stopped.

    Args:
        initial: a bundle of the same model and tokens, whose weights are the start.
        cache: folder of frames, which runs may share; `folder` if None.

    Raises:
        InputError: a manifest or lexicon that cannot be used, a training set with nothing left in it.
        Diverged: the loss became NaN or infinite.
    """
    tokens, lexicon = make_tokens(config.tokens)
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(tokens), config.feature_config().bins)
    speech = load_speech(config, tokens, lexicon, model, (cache or folder) / "features")
    utterances = [cut.id for cut in speech.batches.cuts]
    mean, deviation = statistics(speech.batches.caches[1.0], utterances)
    model.set_normalization(torch.from_numpy(mean), torch.from_numpy(deviation))
    if initial is not None:
        _start_from(model, initial, tokens)
    with atomic_write(folder / "config.json") as path:
        path.write_text(config.model_dump_json(indent=2))
    with atomic_write(folder / "rejected.json") as path:
        path.write_text(json.dumps(speech.rejected, indent=2))
    return Trained(model, tokens, lexicon, train(model, tokens, speech.batches, speech.dev, config, folder))


def make_tokens(config: TokensConfig) -> tuple[Tokens, Lexicon | None]:
    """Tokens, and the lexicon for phones."""
    if config.kind == "char":
        return Tokens.characters(), None
    if config.kind == "bpe":
        assert config.sentencepiece is not None
        return Tokens.from_sentencepiece(config.sentencepiece), None
    assert config.lexicon is not None
    try:
        text = config.lexicon.read_text()
    except OSError as error:
        raise InputError(f"{config.lexicon}: cannot read the lexicon ({error.strerror}); make it first") from None
    return Tokens.phones(), Lexicon.from_text(text, str(config.lexicon))


def load_speech(
    config: TrainConfig,
    tokens: Tokens,
    lexicon: Lexicon | None,
    model: AcousticModel,
    cache_folder: Path,
    untranscribed: bool = False,
) -> Speech:
    """Read the manifests, cache the frames at each speed, and leave out what CTC cannot align.

    Args:
        untranscribed: keep training utterances without a transcript, for a teacher; they have no labels.
    """
    rejected: Counter[str] = Counter()
    sets = []
    for paths, speeds in ((config.train, config.augment.speeds), (config.dev, (1.0,))):
        training = paths is config.train
        cuts = _read_all(paths, transcribed=not training)
        caches = {speed: cache_features(cuts, config.feature_config(), cache_folder, speed) for speed in speeds}
        labels = _labels(cuts, caches, tokens, lexicon, model, rejected, untranscribed and training)
        if not labels:
            raise InputError(f"{', '.join(map(str, paths))}: no utterance is left to train on ({dict(rejected)})")
        sets.append(Batches(cuts, caches, labels, config.batch_s, config.seed, shuffle=training))
    return Speech(sets[0], sets[1], dict(rejected))


def _read_all(paths: Sequence[Path], transcribed: bool) -> CutSet:
    cuts = [cut for path in paths for cut in read_manifest(path, transcribed)]
    repeated = [name for name, count in Counter(cut.id for cut in cuts).items() if count > 1]
    if repeated:
        names = ", ".join(map(str, paths))
        raise InputError(f"{names}: utterance {repeated[0]!r} is in there twice; ids must be unique")
    return CutSet.from_cuts(cuts)


def _labels(
    cuts: CutSet,
    caches: dict[float, FeatureCache],
    tokens: Tokens,
    lexicon: Lexicon | None,
    model: AcousticModel,
    rejected: Counter[str],
    untranscribed: bool,
) -> dict[str, list[int]]:
    fastest = caches[max(caches)]
    labels = {}
    for cut in cuts:
        if is_broken(cut):
            rejected["unreadable audio"] += 1
            continue
        try:
            ids = tokens.encode(cut.supervisions[0].text or "", lexicon)
        except InputError:
            rejected["text outside the tokens or the lexicon"] += 1
            continue
        frames = int(model.output_lengths(torch.tensor([fastest.length(cut.id)])))
        if not ids and not untranscribed:
            rejected["no transcript"] += 1
        elif frames < frames_needed(ids):
            rejected["fewer output frames than labels"] += 1
        else:
            labels[cut.id] = ids
    return labels


def _start_from(model: AcousticModel, initial: Path, tokens: Tokens) -> None:
    bundle = Bundle.load(initial)
    if bundle.tokens != tokens:
        raise InputError(f"{initial}: its {len(bundle.tokens)} tokens are not those of this training; start anew")
    # A network has no dropout layers, so that layers of the two have other numbers.
    pairs = (
        [layer for layer in layers if not isinstance(layer, Dropout)]
        for layers in (model.layers, from_network(bundle.network).layers)
    )
    try:
        for layer, start in zip(*pairs, strict=True):
            layer.load_state_dict(start.state_dict())
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{initial}: not the model that this training is of ({reason}); start anew") from None
