"""What this machine can do: the checks behind `asr-compress doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from asr_compress.evaluation import environment
from asr_compress.runtime.extension import instruction_set, instruction_sets

Status = Literal["ok", "missing", "problem"]

# What a missing extra takes away.
_EXTRAS = {
    "train": "prepare, train, compress, evaluate",
    "demo": "demo",
    "dev": "make test",
    "peers": "comparison with other engines",
}


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, how it is, what was found, and what to do if it is not well."""

    name: str
    status: Status
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Look at the interpreter, the machine, the engine and the packages. Takes seconds where torch is installed."""
    return [_python(), _processor(), _memory(), _engine(), _runtime(), *_extras(), *_torch(), _disk()]


def _python() -> Check:
    return Check(
        "python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    )


def _processor() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    sets = " ".join(environment.instruction_sets())
    found = [environment.cpu_model(), f"{usable} cores usable", *([sets] if sets else []), *limits]
    return Check("processor", "ok", ", ".join(found))


def _memory() -> Check:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Check("memory", "ok", "size not known")
    size_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    advice = "training needs about 4 GB; lower `batch_s`" if size_gb < 4 else ""
    return Check("memory", "problem" if advice else "ok", f"{size_gb:.1f} GB", advice)


def _engine() -> Check:
    chosen = instruction_set()
    if chosen is None:
        advice = "install a C++ compiler, then install asr-compress again"
        return Check("engine", "missing", "numpy reference, many times slower", advice)
    return Check("engine", "ok", f"native with {chosen}; this machine runs {', '.join(instruction_sets())}")


def _runtime() -> Check:
    names = ("numpy", "soundfile", "safetensors", "flashlight-text", "typer")
    return Check("runtime", "ok", ", ".join(f"{name} {version(name)}" for name in names))


def _extras() -> list[Check]:
    """One check an extra, from the installed metadata; none where the package runs from its source folder."""
    try:
        requirements = requires("asr-compress") or []
    except PackageNotFoundError:
        return [Check("extras", "missing", "asr-compress runs without being installed", "pip install --editable .")]
    checks = []
    for extra, use in _EXTRAS.items():
        wanted = [_name(line) for line in requirements if f'extra == "{extra}"' in line.replace("'", '"')]
        absent = [name for name in wanted if not _is_installed(name)]
        found = f"{len(wanted) - len(absent)} of {len(wanted)} packages" + (
            f", not {', '.join(absent)}" if absent else ""
        )
        advice = f"for {use}: pip install 'asr-compress[{extra}]'" if absent else ""
        checks.append(Check(f"extra {extra}", "missing" if absent else "ok", found, advice))
    return checks


def _name(requirement: str) -> str:
    return requirement[: next((i for i, c in enumerate(requirement) if c in " <>=!~;[("), len(requirement))]


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _torch() -> list[Check]:
    if find_spec("torch") is None:
        return []
    try:
        torch = import_module("torch")
    except (ImportError, OSError) as error:
        return [Check("torch", "problem", f"does not import ({error})", "install torch again, by exact version")]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    checks = [Check("torch", "ok", f"{torch.__version__}, {build} build, {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        checks.append(Check("gpu", "ok", torch.cuda.get_device_name(0)))
    else:
        advice = "the GPU's driver is not seen by torch" if shutil.which("nvidia-smi") else ""
        checks.append(Check("gpu", "problem" if advice else "missing", "none: GPU columns say n/a", advice))
    return checks


def _disk() -> Check:
    free_gb = shutil.disk_usage(".").free / 1e9
    advice = "runs need a few gigabytes" if free_gb < 3 else ""
    return Check("disk", "problem" if advice else "ok", f"{free_gb:.0f} GB free in {Path.cwd()}", advice)
