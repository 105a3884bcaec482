"""A sensitivity scan as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_LEAST = {"error": 0.01, "kl": 0.001}  # color is linear up to this rise, logarithmic from there on
_TITLES = {
    "error": "error, rise over the untouched model in points",
    "kl": "KL divergence a frame from the untouched model, 1/1000 nats",
}
_SHOWN_TIMES = {"error": 100.0, "kl": 1000.0}


def heat_map(lines: Sequence[dict[str, Any]], path: Path, figure: str = "error") -> None:
    """A picture of a scan: parts down, strengths across, in color and number the rise of `figure`.

    Rises go over orders of magnitude from int8 to 90 % of blocks, so color is logarithmic.

    Args:
        path: PNG or SVG, as its name ends.
        figure: "error" (in points), "kl" (in thousandths), "deletions" or another number that lines hold.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import colors, pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    baseline = next(line for line in lines if line["part"] == "model")
    rest = [line for line in lines if line is not baseline]
    parts = list(dict.fromkeys(line["part"] for line in rest))
    strengths = list(dict.fromkeys(line["strength"] for line in rest))
    times = _SHOWN_TIMES.get(figure, 1.0)
    values = np.full((len(parts), len(strengths)), np.nan)
    for line in rest:
        if "skipped" not in line:
            values[parts.index(line["part"]), strengths.index(line["strength"])] = line[figure] - baseline[figure]
    least = _LEAST.get(figure, 1.0)
    limit = max(float(np.nanmax(np.abs(values), initial=0.0)), 10 * least)
    scale = colors.SymLogNorm(least, vmin=-limit, vmax=limit)
    # The same scan gives the same file, and letters stay letters, which makes it small.
    fonts = ["DejaVu Sans", "sans-serif"]
    with mpl.rc_context({"svg.hashsalt": "asr_compress", "svg.fonttype": "none", "font.sans-serif": fonts}):
        size = (2.5 + 0.75 * len(strengths), 1.3 + 0.26 * len(parts))
        layout = ConstrainedLayoutEngine(w_pad=0.15)  # room for the letters of other fonts
        drawing, axes = pyplot.subplots(figsize=size, layout=layout)
        axes.pcolormesh(values, cmap="RdBu_r", norm=scale, edgecolor="white", linewidth=0.5)
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(strengths)) + 0.5, strengths, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(parts)) + 0.5, parts)
        axes.set_title(_TITLES.get(figure, f"{figure}: rise over the untouched model"), fontsize=10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            dark = abs(scale(value) - 0.5) > 0.3
            axes.text(
                column + 0.5,
                row + 0.5,
                _number(times * value),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(drawing)


def _number(value: float) -> str:
    """With one decimal below ten."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}".replace("-0.0", "0.0")
