"""What a measurement was made on: without it a number of seconds means nothing.

The record names no paths, hosts or users, so that tables can be published with it.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from asr_compress.runtime.engine import native_instructions

# The instruction sets that decide the speed of a recurrent product, as Linux names them on x86 and Arm.
_TELLING_FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_PACKAGES = ("asr-compress", "numpy", "torch", "torchaudio", "onnxruntime", "openvino", "flashlight-text", "jiwer")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(uses_gpu: bool = False) -> dict[str, Any]:
    """The environment record, plain JSON values; two runs on one machine differ in `date` and `load` only.

    `load` is the number of processes that were running or waiting when the run began; a machine that does other work
    gives other times. `kernels` is the instruction set of the native engine; None where that was not built.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "instruction_sets": instruction_sets(),
        "kernels": native_instructions(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages(),
        "thread_variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "gpu": gpu() if uses_gpu else None,
        "commit": commit(),
    }


def machine(record: dict[str, Any]) -> str:
    """The machine in a few words: times are comparable only where this is the same."""
    gpu_name = record.get("gpu", {}).get("name") if isinstance(record.get("gpu"), dict) else None
    words = [str(record.get("cpu")), f"{record.get('cores')} cores", *([gpu_name] if gpu_name else [])]
    return ", ".join(words)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or _cpuinfo("Model") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Those of the processor's instruction sets that matter here."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return [flag for flag in _TELLING_FLAGS if flag in flags]


def packages() -> dict[str, str]:
    """Versions of the packages that compute; those not installed are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gpu() -> dict[str, str] | None:
    """Name, CUDA and cuDNN versions of torch's first GPU; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return {
        "name": torch.cuda.get_device_name(0),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def commit() -> str | None:
    """The commit of this package's checkout, with `+` behind it where files were changed; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "asr_compress")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _cpuinfo(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    values = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in values if name.strip() == key), None)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
