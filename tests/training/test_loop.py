"""A run learns, resumes exactly, stops at NaN, and does not depend on the number of processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing

from asr_compress.corpora.batches import Batch, Batches
from asr_compress.models.acoustic import AcousticModel
from asr_compress.models.layers import FrameStack, Linear, Normalize, Recurrent
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import Tokens
from asr_compress.training import loop
from asr_compress.training.config import AugmentConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from asr_compress.training.loop import Diverged, Outputs, train

TOKENS = Tokens.characters()


def tiny_model(seed: int = 0) -> AcousticModel:
    torch.manual_seed(seed)
    recurrent = Recurrent(40, 24, bidirectional=True)
    model = AcousticModel(
        [Normalize(torch.zeros(20), torch.ones(20)), FrameStack(2, 2), recurrent, Linear(48, len(TOKENS))]
    )
    model.set_normalization(torch.full((20,), 19.0), torch.full((20,), 3.4))
    return model


def config(**changes: object) -> TrainConfig:
    base = TrainConfig(
        model="blstm-tiny",
        train=(Path("unused"),),
        dev=(Path("unused"),),
        epochs=3,
        optimizer=OptimizerConfig(lr=5e-3),
        schedule=ScheduleConfig(warmup_steps=5),
        augment=AugmentConfig(speeds=(0.9, 1.0), frequency_bins=4, after_epochs=1),
        average=2,
        device="cpu",
    )
    return base.model_copy(update=changes)


class Killed(Exception):
    pass


class KillAt:
    """A hook that interrupts the run before a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def on_step(self, step: int, steps: int) -> None:
        if step == self.at:
            raise Killed

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        return {}

    def settled(self, step: int, steps: int) -> bool:
        return True


def test_a_run_learns_the_tones(tone_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model()
    settings = config(
        epochs=50,
        optimizer=OptimizerConfig(lr=1e-2),
        augment=AugmentConfig(speeds=(0.9, 1.0), frequency_masks=0, time_masks=0),
    )
    result = train(model, TOKENS, tone_batches, tone_batches, settings, tmp_path, quiet=True)
    assert result.unit == "word" and result.error < 0.2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"step", "dev", "result"} == {line["kind"] for line in lines}
    dev = [line["loss"] for line in lines if line["kind"] == "dev"]
    assert dev[-1] < 0.3 * dev[0]


PERTURBED = {
    "features": {"bins": 20},
    "crf": 0.9,
    "augment": AugmentConfig(speeds=(0.9, 1.0), vocal_tract=0.1, tempo=0.1, channel=0.3, after_epochs=1),
}


@pytest.mark.parametrize(("killed_at", "changes"), [(4, {}), (9, {}), (9, PERTURBED)])
def test_resumed_equals_uninterrupted(
    tone_batches: Batches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
    changes: dict[str, object],
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    whole, resumed = tiny_model(), tiny_model()
    settings = config(**changes)
    train(whole, TOKENS, tone_batches, tone_batches, settings, tmp_path / "whole", quiet=True)
    arguments = (TOKENS, tone_batches, tone_batches, settings, tmp_path / "resumed")
    with pytest.raises(Killed):
        train(resumed, *arguments, hooks=[KillAt(killed_at)], quiet=True)
    fresh = tiny_model(seed=9)  # what the process holds after a restart does not matter
    train(fresh, *arguments, quiet=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_nan_stops_and_keeps_the_last_good_state(tone_batches: Batches, tmp_path: Path) -> None:
    class Poison(KillAt):
        def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
            return {"poison": outputs.logits.sum() * torch.nan}

    model = tiny_model()
    train(model, TOKENS, tone_batches, tone_batches, config(epochs=1), tmp_path, quiet=True)
    good = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(Diverged, match="lower optimizer.lr"):
        train(model, TOKENS, tone_batches, tone_batches, config(epochs=2), tmp_path, hooks=[Poison(-1)], quiet=True)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == good


def test_a_run_of_another_model_is_refused(tone_batches: Batches, tmp_path: Path) -> None:
    train(tiny_model(), TOKENS, tone_batches, tone_batches, config(epochs=1), tmp_path, quiet=True)
    other = AcousticModel([Normalize(torch.zeros(20), torch.ones(20)), Linear(20, len(TOKENS))])
    with pytest.raises(InputError, match="not a checkpoint of this model"):
        train(other, TOKENS, tone_batches, tone_batches, config(epochs=1), tmp_path, quiet=True)


def test_consistency_is_a_named_term_of_the_loss(tone_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model()
    settings = config(epochs=1, cr_ctc=0.2, augment=AugmentConfig(speeds=(1.0, 0.9), frequency_bins=4, after_epochs=0))
    trainer = loop.Trainer(model, TOKENS, tone_batches, tone_batches, settings, tmp_path, (), quiet=True)
    values = trainer._backward(tone_batches.longest())
    assert values["consistency"] > 0 and values["loss"] == pytest.approx(values["ctc"] + values["consistency"])
    trainer.journal.close()


def test_the_denominator_comes_after_the_easy_epochs(tone_batches: Batches, tmp_path: Path) -> None:
    settings = config(crf=0.9, shortest_first_epochs=1)
    trainer = loop.Trainer(tiny_model(), TOKENS, tone_batches, tone_batches, settings, tmp_path, (), quiet=True)
    batch = tone_batches.longest()
    assert set(trainer._backward(batch)) == {"loss"}
    trainer.progress.epoch = 1
    values = trainer._backward(batch)
    assert values["crf"] < 0 and values["loss"] == pytest.approx(values["ctc"] + values["crf"])
    trainer.journal.close()


def test_perturbed_speech_keeps_room_for_its_labels(tone_batches: Batches, tmp_path: Path) -> None:
    settings = config(features={"bins": 20}, augment=AugmentConfig(speeds=(1.0, 0.9), tempo=0.45, after_epochs=0))
    trainer = loop.Trainer(tiny_model(), TOKENS, tone_batches, tone_batches, settings, tmp_path, (), quiet=True)
    batch = tone_batches.longest()
    changed = trainer._perturbed(batch)
    assert not torch.equal(changed.feature_lengths, batch.feature_lengths)
    assert (changed.feature_lengths >= 2 * batch.target_lengths).all()
    assert changed.texts == batch.texts
    trainer.journal.close()


def _gradient(rank: int, count: int, port: int, batches: Batches, folder: Path) -> None:
    import os

    os.environ.update(WORLD_SIZE=str(count), RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    model = tiny_model()
    trainer = loop.Trainer(model, TOKENS, batches, batches, config(epochs=1), folder / str(rank), (), quiet=True)
    values = trainer._backward(next(batches.epoch(0)))
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
    torch.save({"loss": values["loss"], "gradient": gradient}, folder / f"{count}-{rank}.bin")
    if count > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_give_the_loss_and_gradient_of_one(tone_batches: Batches, tmp_path: Path) -> None:
    multiprocessing.spawn(_gradient, (1, 29561, tone_batches, tmp_path), nprocs=1)
    multiprocessing.spawn(_gradient, (2, 29562, tone_batches, tmp_path), nprocs=2)
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.bin", "2-0.bin", "2-1.bin"))
    assert first["loss"] == pytest.approx(one["loss"], rel=1e-5) == second["loss"]
    torch.testing.assert_close(first["gradient"], one["gradient"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(first["gradient"], second["gradient"], rtol=0, atol=0)


def test_batches_are_the_same_for_the_same_seed_and_epoch(tone_batches: Batches) -> None:
    def ids(batches: Batches, epoch: int) -> list[tuple[str, ...]]:
        return [batch.ids for batch in batches.epoch(epoch)]

    assert ids(tone_batches, 3) == ids(tone_batches, 3) != ids(tone_batches, 4)
    assert sorted(sum(ids(tone_batches, 3), ())) == sorted(cut.id for cut in tone_batches.cuts)
    skipped = [batch.ids for batch in tone_batches.epoch(3, skip=2)]
    assert skipped == ids(tone_batches, 3)[2:]


def test_rows_share_a_batch_out(tone_batches: Batches) -> None:
    batch = tone_batches.longest()
    parts = [batch.rows(rank, 2) for rank in range(2)]
    assert sorted(parts[0].ids + parts[1].ids) == sorted(batch.ids)
    assert torch.equal(replace(batch).features[1::2], parts[1].features)
