"""Figures of a report as SVG: ROC and DET curves of several runs, histograms.

Names and other foreign texts are not in the figures but in their captions, where the
browser has the fonts; `swatch` is the line that a caption shows beside a name.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtri

from fr_jax.metrics import verification
from fr_jax.report.markup import Html, element
from fr_jax.report.runs import Curve, Scores

# Okabe and Ito's colours, which people who confuse red and green tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
_DASHES = ((), (5, 1.5), (5, 1.5, 1, 1.5), (1, 1))  # in widths of the line
_WIDTH = 1.7  # points
GENUINE, IMPOSTOR = 0, 1  # numbers of styles in histograms
_POINTS = 500  # of a curve
_SIZE = 4.3, 3.2  # inches: nearly the width of a phone at 96 pixels an inch
# Rates at which a DET curve has ticks.
_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.8)
_HIGHEST = (0.05, 0.2, 0.5, 0.9)  # rates at which its axes end
_LOWEST_TAR = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def roc(runs: Sequence[Scores]) -> bytes:
    """Returns a ROC curve for each run: TAR against FAR on a logarithmic axis.

    A curve is pale where fewer than ten impostor pairs are accepted.
    """
    lowest, least = 1e-1, 1.0
    with _figure() as (axes, data):
        for number, scores in enumerate(runs):
            far, tar = verification.roc(scores.values, scores.same)
            least = min(least, float(tar[far == 0][-1]))
            impostors = max(int(np.sum(~scores.same)), 1)
            lowest = min(lowest, 1 / impostors)
            kept = _thinned(np.log(np.maximum(far, 0.5 / impostors)))
            far, tar = far[kept], tar[kept]
            start = max(int(np.count_nonzero(far == 0)) - 1, 0)
            few = verification.few_impostors(far, impostors)
            reliable = int(np.count_nonzero(few))
            pale = slice(start, reliable + 1)
            style = {"where": "post"} | _style(number)
            # From the left edge on: FAR 0 is not on a logarithmic axis.
            left = np.maximum(far, 0.5 / impostors)
            axes.step(left[pale], tar[pale], alpha=0.35, **style)
            axes.step(far[reliable:], tar[reliable:], **style)
        chance = np.logspace(np.log10(lowest), 0, 100)
        axes.plot(chance, chance, ":", color="grey", linewidth=1)
        bottom = max((low for low in _LOWEST_TAR if low < least), default=0)
        top = 1 + 0.02 * (1 - bottom)
        axes.set(xscale="log", xlim=(lowest, 1), ylim=(bottom, top))
        axes.set(xlabel="FAR", ylabel="TAR", yticks=np.linspace(bottom, 1, 6))
    return data.getvalue()


def det(runs: Sequence[Scores]) -> bytes:
    """Returns a DET curve for each run: FRR against FAR, both as normal deviates."""
    with _figure() as (axes, data):
        lowest, corner = 0.5, 0.0
        for number, scores in enumerate(runs):
            far, tar = verification.roc(scores.values, scores.same)
            corner = max(corner, 1 - tar[far == 0][-1], far[tar == 1][0])
            least = [0.5 / max(int(np.sum(scores.same == kind)), 1) for kind in (0, 1)]
            x, y = (
                ndtri(np.clip(rate, low, 1 - low))
                for rate, low in zip((far, 1 - tar), least)
            )
            kept = _thinned(x - y)
            axes.plot(x[kept], y[kept], **_style(number))
            lowest = min(lowest, *least)
        # Of a small set without errors, far enough above the lowest rate.
        corner = max(corner, 4 * lowest)
        highest = next((rate for rate in _HIGHEST if rate >= corner), _HIGHEST[-1])
        limits = float(ndtri(max(lowest, 1e-7))), float(ndtri(highest))
        shown = [rate for rate in _RATES if lowest <= rate <= highest]
        names = [f"{100 * rate:.4g} %" for rate in shown]
        axes.plot(limits, limits, ":", color="grey", linewidth=1)
        axes.set(xlim=limits, ylim=limits, xlabel="FAR", ylabel="FRR")
        axes.set_xticks(ndtri(shown), names, rotation=45, ha="right")
        axes.set_yticks(ndtri(shown), names)
    return data.getvalue()


def histogram(
    scores: Scores, span: tuple[float, float], threshold: float | None = None
) -> bytes:
    """Returns histograms of the scores of genuine and impostor pairs, in shares.

    Args:
      span: lowest and highest score of the axis.
      threshold: of the protocol, on the scores; drawn as a vertical line.
    """
    bins = np.linspace(*span, 61)
    with _figure(height=2.6) as (axes, data):
        for number, mask in ((IMPOSTOR, ~scores.same), (GENUINE, scores.same)):
            if not mask.any():
                continue
            values = np.clip(scores.values[mask], *span)
            shares = np.histogram(values, bins)[0] / len(values)
            style = _style(number)
            axes.stairs(shares, bins, fill=True, alpha=0.25, color=style["color"])
            axes.stairs(shares, bins, **style)
        if threshold is not None:
            axes.axvline(threshold, color="black", linewidth=1)
        axes.set(xlabel="score", ylabel="share of pairs", xlim=span, ylim=(0, None))
    return data.getvalue()


def span(runs: Sequence[Scores]) -> tuple[float, float]:
    """Returns the lowest and highest score that histograms of these runs show."""
    low = min(float(np.min(scores.values)) for scores in runs)
    high = max(float(np.max(scores.values)) for scores in runs)
    if low >= -1.001 and high <= 1.001:  # cosines
        return max(np.floor(low * 4) / 4, -1.0) if low < 0 else 0.0, 1.0
    return low, high if high > low else low + 1


def curves(runs: Sequence[Curve]) -> bytes:
    """Returns a curve of each run in one figure, without titles of the axes."""
    with _figure() as (axes, data):
        for number, curve in enumerate(runs):
            kept = _thinned(np.asarray(curve.x, np.float64))
            x, y = np.asarray(curve.x)[kept], np.asarray(curve.y)[kept]
            axes.plot(x, y, **_style(number))
        if runs[0].log_x and all(np.min(curve.x) > 0 for curve in runs):
            axes.set_xscale("log")
    return data.getvalue()


def swatch(number: int) -> Html:
    """Returns a short line in the style of curve `number`, for a caption."""
    style, width = _style(number), 2.4
    dashes = " ".join(f"{part * width:g}" for part in _DASHES[number % len(_DASHES)])
    line = element(
        "line",
        x1=0,
        y1=5,
        x2=32,
        y2=5,
        stroke=style["color"],
        stroke_width=width,
        stroke_dasharray=dashes or None,
    )
    return element("svg", line, width=32, height=10, aria_hidden="true")


def _thinned(position: np.ndarray) -> np.ndarray:
    """Returns the indices of at most about `_POINTS` points, evenly along the axis.

    Args:
      position: [n], ascending or descending, of the points on an axis.
    """
    if len(position) <= _POINTS:
        return np.arange(len(position))
    low, high = np.min(position), np.max(position)
    cell = np.floor((position - low) / max(high - low, 1e-300) * _POINTS)
    ends = np.flatnonzero(np.append(np.diff(cell) != 0, True))
    return np.union1d(0, ends)


@contextlib.contextmanager
def _figure(height: float = _SIZE[1]) -> Iterator[tuple[Any, io.BytesIO]]:
    """Yields axes, and the buffer that has their figure as SVG on leaving."""
    style: dict[Any, Any] = {"font.size": 9, "svg.fonttype": "path"}
    style |= {"svg.hashsalt": "fr_jax", "lines.dash_capstyle": "butt"}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    data = io.BytesIO()
    with mpl.rc_context(style):
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.25, linewidth=0.6)
        yield axes, data
        # Without a date the same evaluation makes the same file.
        figure.savefig(data, format="svg", metadata={"Date": None})


def _style(number: int) -> dict[str, Any]:
    dashes = _DASHES[number % len(_DASHES)]
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": (0, dashes) if dashes else "-",
        "linewidth": _WIDTH,
    }
