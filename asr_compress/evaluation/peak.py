"""Largest memory of this process. Imports next to nothing: a process that measures itself must stay small."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Largest resident set of this process so far.

    On Linux the kernel's record of this process image: `getrusage` there starts with the size of the process that
    started this one, so that a child of a large process would look large.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
