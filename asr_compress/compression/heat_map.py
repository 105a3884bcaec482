"""A sensitivity scan as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def heat_map(lines: Sequence[dict[str, Any]], path: Path, figure: str = "error") -> None:
    """A picture of a scan: parts down, strengths across, in color and number the rise of `figure`.

    Args:
        figure: "error" (in points), "kl", "deletions" or another number that lines hold.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    baseline = next(line for line in lines if line["part"] == "model")
    rest = [line for line in lines if line is not baseline]
    parts = list(dict.fromkeys(line["part"] for line in rest))
    strengths = list(dict.fromkeys(line["strength"] for line in rest))
    scale = 100.0 if figure == "error" else 1.0
    values = np.full((len(parts), len(strengths)), np.nan)
    for line in rest:
        if "skipped" not in line:
            rise = scale * (line[figure] - baseline[figure])
            values[parts.index(line["part"]), strengths.index(line["strength"])] = rise
    size = (2.5 + 0.9 * len(strengths), 1.5 + 0.28 * len(parts))
    axes_figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    limit = max(float(np.nanmax(np.abs(values), initial=0.0)), 1e-9)
    picture = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(strengths)), strengths, rotation=45, ha="right")
    axes.set_yticks(range(len(parts)), parts)
    for row, column in np.argwhere(~np.isnan(values)):
        axes.text(column, row, f"{values[row, column]:.1f}", ha="center", va="center", fontsize=7)
    unit = "points of error" if figure == "error" else figure
    axes_figure.colorbar(picture, label=f"rise over the untouched model, {unit}")
    path.parent.mkdir(parents=True, exist_ok=True)
    axes_figure.savefig(path, dpi=120)
    pyplot.close(axes_figure)
