"""Checkpoints that resume exactly: safetensors for every tensor, JSON for the rest, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from asr_compress.runtime.errors import InputError
from asr_compress.runtime.files import atomic_write


def save_checkpoint(path: Path, model: nn.Module, optimizer: optim.Optimizer | None, progress: dict[str, Any]) -> None:
    """Write model, optimizer, random state and `progress` (JSON values).

    Raises:
        OSError: the disk is full or the folder cannot be written; what was at `path` stays.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})
    except SafetensorError as error:  # its writer wraps the system's error
        raise OSError(f"{path}: not written, the file before it stays ({error})") from None


def load_checkpoint(path: Path, model: nn.Module, optimizer: optim.Optimizer | None) -> dict[str, Any]:
    """Put back what `save_checkpoint` wrote and return its `progress`.

    Without an optimizer only the model is loaded, and the random state stays.

    Raises:
        InputError: not a checkpoint, or one of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        model.load_state_dict(_under("model.", tensors))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        advice = "delete the run folder to start anew"
        raise InputError(f"{path}: not a checkpoint of this model ({reason}); {advice}") from None
    if optimizer is None:
        return progress
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return progress


def average_models(paths: Sequence[Path], model: nn.Module) -> None:
    """Load into `model` the mean of the weights in `paths`."""
    total: dict[str, Tensor] = {}
    for path in paths:
        load_checkpoint(path, model, None)
        for name, tensor in model.state_dict().items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    model.load_state_dict({name: (tensor / len(paths)) for name, tensor in total.items()})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
