"""What a run says while it goes: a progress line, a JSONL log, TensorBoard where it is installed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_LINE_EVERY_S = 60.0  # where the output is a file


class Journal:
    """Writes `log.jsonl` (appended on resume) and `tensorboard/` in the run folder, and the progress line."""

    def __init__(self, folder: Path, steps: int, done: int = 0, quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "log.jsonl").open("a")
        self._board = _summary_writer(folder / "tensorboard")
        self._console = Console(quiet=quiet, stderr=True, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=steps, completed=done)
        self._progress.start()
        self._last_line_s = 0.0

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log one logged step; show it on the progress line."""
        self.record("step", step, values)
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._progress.update(self._task, completed=step, description=text)
        if not self._console.is_terminal and time.monotonic() - self._last_line_s > PLAIN_LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            self._console.print(f"step {step}: {text}", highlight=False)

    def say(self, text: str) -> None:
        """Print a line above the progress line."""
        self._progress.console.print(text, highlight=False, markup=False)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a line to the log; numbers go to TensorBoard too."""
        self._log.write(json.dumps({"kind": kind, "step": step, "time_s": round(time.time(), 2), **values}) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._progress.stop()
        self._log.close()
        if self._board is not None:
            self._board.close()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
