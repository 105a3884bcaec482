"""The training loop: CTC and whatever compression passes add, with exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn, optim

from asr_compress.corpora.batches import Batch, Batches
from asr_compress.models.layers import mask_padding
from asr_compress.runtime.errors import InputError
from asr_compress.runtime.tokens import Tokens
from asr_compress.training import schedule
from asr_compress.training.augment import SpecAugment
from asr_compress.training.checkpoints import average_models, load_checkpoint, save_checkpoint
from asr_compress.training.config import OptimizerConfig, TrainConfig
from asr_compress.training.crf import TokenBigram, log_partition
from asr_compress.training.distributed import Processes, join
from asr_compress.training.journal import Journal
from asr_compress.training.objective import consistency, ctc, frames_needed
from asr_compress.training.perturb import Perturb
from asr_compress.training.validation import DevResult, validate

LOG_EVERY_STEPS = 20
CHECKPOINT_EVERY_S = 300.0


class Diverged(RuntimeError):
    """The loss is no longer a number. The last good checkpoint is kept."""


@dataclass(frozen=True)
class Outputs:
    """What the model gave for a batch: logits `(batch, frames', tokens)` and int64 lengths `(batch,)`."""

    logits: Tensor
    lengths: Tensor


class Hook(Protocol):
    """What a compression pass hangs into the loop."""

    def on_step(self, step: int, steps: int) -> None:
        """Called before each step of `steps`."""

    def losses(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Named scalar terms to add to the loss. `batch` holds the frames before masking."""

    def settled(self, step: int, steps: int) -> bool:
        """Whether the weights after update `step` have the final structure, and so may be the run's result."""


@dataclass
class Progress:
    """Where a run stands; saved with each checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    dev_errors: list[float] = field(default_factory=list)
    trained_s: float = 0.0


def train(
    model: nn.Module,
    tokens: Tokens,
    batches: Batches,
    dev: Batches,
    config: TrainConfig,
    folder: Path,
    hooks: Sequence[Hook] = (),
    quiet: bool = False,
) -> DevResult:
    """Train `model` in place; it ends with the best weights found.

    Interrupted at any point, the same call with the same `folder` goes on from the last checkpoint and ends with the
    same weights as if it had not been interrupted.

    Raises:
        Diverged: the loss became NaN or infinite.
        InputError: `folder` holds the run of another model.
    """
    return Trainer(model, tokens, batches, dev, config, Path(folder), hooks, quiet).run()


class Trainer:
    """One run. Use `train`."""

    def __init__(
        self,
        model: nn.Module,
        tokens: Tokens,
        batches: Batches,
        dev: Batches,
        config: TrainConfig,
        folder: Path,
        hooks: Sequence[Hook],
        quiet: bool,
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.processes: Processes = join()
        self.device = choose_device(config)
        self.model, self.tokens, self.hooks = model.to(self.device), tokens, hooks
        self.config, self.folder = config, folder
        self.batches, self.dev = batches, list(dev.epoch(0, shortest_first=True))
        self.optimizer = make_optimizer(model, config.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        mean = getattr(getattr(model, "layers", [None])[0], "mean", torch.zeros(1))
        self.masks = SpecAugment(config.augment, mean.cpu())
        self.stride = int(getattr(model, "stride", 1))  # input frames an output frame
        self.perturb = Perturb(config.augment, config.feature_config())
        self.bigram = TokenBigram.of(batches.labels.values(), len(tokens)) if config.crf else None
        self.progress = Progress()
        if self.checkpoint.exists():
            self.progress = Progress(**load_checkpoint(self.checkpoint, model, self.optimizer))
        self.epoch_steps = batches.steps()
        self.steps = self.epoch_steps * config.epochs
        self.journal = Journal(folder, self.steps, self.progress.step, quiet or not self.processes.first)
        self.saved_s = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def run(self) -> DevResult:
        """All epochs, then the average of the best."""
        if self.progress.step == 0:
            self._estimate()
        try:
            while self.progress.epoch < self.config.epochs:
                self._epoch()
            return self._finish()
        finally:
            self.journal.close()

    def _estimate(self) -> None:
        state = torch.get_rng_state()
        batch = self.batches.longest()
        for _ in range(2):  # the first step also sets kernels up
            start = time.perf_counter()
            self._backward(batch)
            self.optimizer.zero_grad(set_to_none=True)
            step_s = time.perf_counter() - start
        torch.set_rng_state(state)
        hours = step_s / batch.audio_s * self.batches.hours() * self.config.epochs * 1.05
        self.journal.say(
            f"{sum(p.numel() for p in self.model.parameters()):,} parameters; {self.batches.hours():.2f} h of speech, "
            f"{self.epoch_steps} steps an epoch, {self.config.epochs} epochs: about {hours:.1f} h on {self.device} "
            f"with {torch.get_num_threads()} threads; {peak_memory_bytes() / 1e9:.1f} GB of memory at the longest batch"
        )

    def _epoch(self) -> None:
        progress, config = self.progress, self.config
        self.model.train()
        totals: dict[str, float] = {}
        waited_s = worked_s = audio_s = 0.0
        steps = 0
        clock = time.perf_counter()
        shortest_first = progress.epoch < config.shortest_first_epochs
        for batch in self.batches.epoch(progress.epoch, shortest_first, skip=progress.batch):
            waited_s += time.perf_counter() - clock
            values = self._step(batch)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
            audio_s += batch.audio_s
            steps += 1
            now = time.perf_counter()
            progress.batch, progress.step = progress.batch + 1, progress.step + 1
            progress.trained_s += now - clock
            worked_s += now - clock
            if progress.step % LOG_EVERY_STEPS == 0:
                shown = {name: value / steps for name, value in totals.items()}
                shown |= {"epoch": progress.epoch, "x_real_time": audio_s / worked_s, "data_share": waited_s / worked_s}
                self.journal.step(progress.step, shown)
                totals, waited_s, worked_s, audio_s, steps = {}, 0.0, 0.0, 0.0, 0
            if time.monotonic() - self.saved_s > CHECKPOINT_EVERY_S:
                self._save()
            clock = time.perf_counter()
        progress.epoch, progress.batch = progress.epoch + 1, 0
        self._end_of_epoch()

    def _step(self, batch: Batch) -> dict[str, float]:
        """One update; the terms of the loss, the learning rate and the norm of the gradient."""
        for hook in self.hooks:
            hook.on_step(self.progress.step, self.steps)
        lr = self.config.optimizer.lr * self._lr_factor()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        values = self._backward(batch)
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip))
        if not math.isfinite(values["loss"]) or (not math.isfinite(norm) and self.config.precision != "fp16"):
            raise Diverged(
                f"loss {values['loss']} and gradient norm {norm} at step {self.progress.step} (utterances "
                f"{', '.join(batch.ids[:3])}, ...); the last good state is in {self.folder}; "
                f"lower optimizer.lr (now {self.config.optimizer.lr:g}) and resume"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return values | {"lr": lr, "gradient": norm}

    def _backward(self, batch: Batch) -> dict[str, float]:
        total = max(1, int(batch.target_lengths.sum()))  # there are none where a teacher alone speaks
        batch = self._perturbed(batch)
        masked = self._mask(batch)
        mine = batch.rows(self.processes.rank, self.processes.count).to(self.device)
        views = [view[self.processes.rank :: self.processes.count].to(self.device) for view in masked]
        if not mine.ids:  # fewer utterances than processes
            self.processes.sum_gradients(self.model.parameters())
            return {"loss": float(self.processes.sum(torch.zeros(())))}
        terms = self._terms(mine, views, total)
        loss = torch.stack(list(terms.values())).sum()
        self.scaler.scale(loss).backward()
        self.processes.sum_gradients(self.model.parameters())
        values = {name: float(self.processes.sum(term.detach().clone())) for name, term in terms.items()}
        return {"loss": sum(values.values())} | (values if len(values) > 1 else {})

    def _perturbed(self, batch: Batch) -> Batch:
        """The batch as other voices through other microphones say it."""
        if not self.perturb.active or self.progress.epoch < self.config.augment.after_epochs:
            return batch
        labels = zip(batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
        outputs = torch.tensor([frames_needed(row[:count]) for row, count in labels])
        features, lengths = self.perturb(batch.features, batch.feature_lengths, outputs * self.stride)
        return replace(batch, features=features, feature_lengths=lengths)

    def _mask(self, batch: Batch) -> list[Tensor]:
        """The views of the batch that the model sees: two for consistency regularization, else one."""
        count = 2 if self.config.cr_ctc else 1
        if self.progress.epoch < self.config.augment.after_epochs:
            return [batch.features] * count
        return [
            mask_padding(self.masks(batch.features, batch.feature_lengths), batch.feature_lengths) for _ in range(count)
        ]

    def _terms(self, batch: Batch, views: list[Tensor], total: int) -> dict[str, Tensor]:
        """Named parts of this process's share of the loss; their sum over processes is the loss of the whole batch."""
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.precision)
        with torch.autocast(self.device.type, low, enabled=low is not None):
            logits, lengths = self.model(torch.cat(views), batch.feature_lengths.repeat(len(views)))
        parts = logits.split(len(batch.ids))
        lengths = lengths[: len(batch.ids)]
        weight = math.prod(getattr(hook, "ctc_weight", 1.0) for hook in self.hooks)
        likelihood = torch.stack([ctc(part, lengths, batch) for part in parts]).mean()
        terms = {"ctc": weight * likelihood / total}
        if self.bigram is not None and self.progress.epoch >= self.config.shortest_first_epochs:
            sums = [log_partition(part.float().log_softmax(-1), lengths, self.bigram).sum() for part in parts]
            terms["crf"] = weight * self.config.crf * torch.stack(sums).mean() / total
        if len(parts) == 2:
            terms["consistency"] = self.config.cr_ctc * consistency(parts[0], parts[1], lengths) / total
        for hook in self.hooks:
            for name, term in hook.losses(batch, Outputs(parts[0].float(), lengths)).items():
                terms[name] = term / self.processes.count
        return terms

    def _lr_factor(self) -> float:
        chosen, step = self.config.schedule, self.progress.step
        if chosen.kind == "cosine":
            return schedule.cosine(step, self.steps, chosen.warmup_steps, chosen.final)
        factor = schedule.warmup(step, chosen.warmup_steps)
        if chosen.kind == "plateau":
            factor *= schedule.plateau(self.progress.dev_errors, chosen.factor, chosen.patience)
        return factor

    def _end_of_epoch(self) -> None:
        result = validate(self.model, self.dev, self.tokens, self.device)
        self.progress.dev_errors.append(result.error)
        if self.processes.first:
            save_checkpoint(self._snapshot(self.progress.epoch), self.model, None, {})
            for epoch in set(range(1, self.progress.epoch + 1)) - set(self._best_epochs()):
                self._snapshot(epoch).unlink(missing_ok=True)
        self._save()
        self.journal.record("dev", self.progress.step, {"epoch": self.progress.epoch, **vars(result)})
        self.journal.say(
            f"epoch {self.progress.epoch}: dev {result.unit} error {result.error:.2%}, loss {result.loss:.3f}, "
            f"blank rate {result.blank_rate:.2f}\n  ref {result.sample[0]}\n  hyp {result.sample[1]}"
        )

    def _best_epochs(self) -> list[int]:
        """Best first. Epochs in which a pass still changed the structure are of another model; the last stands in."""
        errors = self.progress.dev_errors
        ends = {epoch: epoch * self.epoch_steps - 1 for epoch in range(1, len(errors) + 1)}
        settled = [epoch for epoch, end in ends.items() if all(hook.settled(end, self.steps) for hook in self.hooks)]
        return sorted(settled or [len(errors)], key=lambda epoch: (errors[epoch - 1], -epoch))[: self.config.average]

    def _snapshot(self, epoch: int) -> Path:
        return self.folder / "epochs" / f"{epoch:03d}.safetensors"

    def _save(self) -> None:
        if self.processes.first:
            save_checkpoint(self.checkpoint, self.model, self.optimizer, vars(self.progress))
        self.processes.wait()
        self.saved_s = time.monotonic()

    def _finish(self) -> DevResult:
        """Keep the better of the best epoch and the average of the best epochs (Izmailov et al. 2018)."""
        self.processes.wait()
        candidates = {}
        for count in sorted({1, self.config.average}):
            average_models([self._snapshot(epoch) for epoch in self._best_epochs()[:count]], self.model)
            candidates[count] = validate(self.model, self.dev, self.tokens, self.device)
        count = min(candidates, key=lambda key: candidates[key].error)
        average_models([self._snapshot(epoch) for epoch in self._best_epochs()[:count]], self.model)
        self.model.eval()
        self.journal.record("result", self.progress.step, {"averaged": count, **vars(candidates[count])})
        self.journal.say(f"mean of the best {count}: dev {candidates[count].unit} error {candidates[count].error:.2%}")
        return candidates[count]


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> optim.Optimizer:
    """The named optimizer, fused: its many small operations took 8 % of a small model's step. Only matrices decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match config.name:
        case "adamw":
            return optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        case "adam":
            return optim.Adam(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        case "rmsprop":
            return optim.RMSprop(groups, lr=config.lr)
        case "sgd":
            return optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)


def choose_device(config: TrainConfig) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        InputError: a GPU is asked for and there is none; fp16 without a GPU.
    """
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this torch sees no GPU; use `device: cpu` or `auto`")
    if config.precision == "fp16" and device.type != "cuda":
        raise InputError("precision fp16 works on a GPU only; use bf16 or fp32 on a CPU")
    return device


def peak_memory_bytes() -> int:
    """Most memory that this process has held so far."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
