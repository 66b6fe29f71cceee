"""Figures of training and evaluation: ROC, cosines, training curves, image grids.

Matplotlib's Figure instead of pyplot: no display, no global state. Legends are above
the axes. Each curve is thinner than the one below it, so that all of several equal
curves are visible.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fr_jax.metrics import verification

# Metrics between 0 and 1: of contrastive learning, and the spread of generated images.
_SHARES = ("top1", "top5", "queue_fill", "embedding_spread", "spread")


def roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: epath.PathLike
) -> None:
    """Plots one ROC curve per name, from (scores, same), on a logarithmic FAR axis.

    A curve is pale where fewer than ten impostor pairs are accepted.
    """
    with panels(path, 1, (6, 4.2 + 0.2 * len(curves))) as (axes,):
        lowest = 1e-1
        for number, (name, (scores, same)) in enumerate(curves.items()):
            far, tar = verification.roc(scores, same)
            impostors = max(np.sum(~same), 1)
            lowest = min(lowest, 1 / impostors)
            style = _style(number, len(curves)) | {"where": "post"}
            start = np.count_nonzero(far == 0)
            reliable = np.count_nonzero(verification.few_impostors(far, impostors))
            pale = slice(start, reliable + 1)
            axes.step(far[pale], tar[pale], alpha=0.35, **style)
            label = f"{name} (AUC {verification.area_under_roc(scores, same):.4f})"
            axes.step(far[reliable:], tar[reliable:], label=label, **style)
        grey: dict[str, Any] = {"color": "grey"}
        axes.plot([], [], alpha=0.35, label="pale: FAR < 10 / impostor pairs", **grey)
        axes.plot(axis := np.logspace(-6, 0, 200), axis, ":", label="chance", **grey)
        axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.03))
        axes.set_xlabel("false accept rate (share of impostor pairs accepted)")
        axes.set_ylabel("true accept rate (share of genuine pairs accepted)")
        axes.grid(alpha=0.3, which="both")
        legend(axes)


def cosines(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], path: epath.PathLike
) -> None:
    """Plots histograms of the cosines of genuine and impostor pairs, a panel per name.

    Args:
      pairs: (scores, same) by name, as for `roc`.
    """
    lowest = min(0.0, *(np.min(scores) for scores, _ in pairs.values()))
    bins = np.linspace(max(lowest, -1), 1, 41)
    size = 4.2 * len(pairs), 3.8
    with panels(path, len(pairs), size, sharex=True, grid=False) as row:
        for axes, (name, (scores, same)) in zip(row, pairs.items()):
            for kind, mask in (("impostor", ~same), ("genuine", same)):
                values = np.clip(scores[mask], -1, 1)  # rounding may exceed 1
                label = f"{kind}: {values.mean():.2f} +- {values.std():.2f}"
                axes.hist(values, bins, density=True, alpha=0.6, label=label)
            axes.set(xlabel="cosine", ylabel="density", yticks=[])
            legend(axes, title=name)


def training(metrics: epath.PathLike, path: epath.PathLike) -> None:
    """Plots the metrics of a metrics.jsonl against the step.

    Panels: losses with their chance levels; for contrastive learning cosines of
    positives and negatives, and shares; accuracies.
    """
    rows = [json.loads(line) for line in epath.Path(metrics).read_text().splitlines()]
    present = sorted({name for row in rows for name in row} - {"step"})
    kinds = {
        "loss": [name for name in present if name.endswith("loss")],
        "cosine": [name for name in present if name.endswith("_cosine")],
        "share": [name for name in present if name.split("/")[-1] in _SHARES],
        "accuracy": [name for name in present if name.endswith("accuracy")],
    }
    kinds = {label: names for label, names in kinds.items() if names}
    if not kinds:
        return
    height = 3.2 + 0.2 * max(map(len, kinds.values()))
    with panels(path, len(kinds), (5 * len(kinds), height)) as row:
        for axes, (label, names) in zip(row, kinds.items()):
            for number, name in enumerate(names):
                steps, values = zip(*[(r["step"], r[name]) for r in rows if name in r])
                style = _style(number, len(names)) | {"marker": ".", "markersize": 3}
                if "chance" in name:
                    style |= {"color": "black", "linestyle": ":"}
                axes.plot(steps, values, **style, label=name)
            axes.set(xlabel="step", ylabel=label)
            legend(axes)


@contextlib.contextmanager
def panels(
    path: epath.PathLike,
    count: int,
    size: tuple[float, float],
    grid: bool = True,
    **options: Any,
) -> Iterator[Any]:
    """Yields a row of axes, and writes their figure to `path` on leaving.

    Args:
      size: width and height in inches.
      grid: whether the axes have grid lines.
      options: arguments of `Figure.subplots`.
    """
    figure = Figure(figsize=size, layout="constrained")
    row = figure.subplots(1, count, squeeze=False, **options)[0]
    yield row
    if grid:
        for axes in row:
            axes.grid(alpha=0.3)
    save(figure, path)


def _style(number: int, count: int) -> dict[str, Any]:
    """Returns colour, dashes and width of one of `count` curves, the widest first."""
    return {
        "color": f"C{number}",
        "linestyle": ("-", "--", "-.")[number % 3],
        "linewidth": 1 + 5 * (count - 1 - number) / max(count, 4),
    }


def legend(axes: Axes, title: str | None = None) -> None:
    """Adds a legend above the axes."""
    position: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    axes.legend(**position, fontsize=8, title=title, alignment="left", frameon=False)


def rows(
    images: Sequence[Sequence[np.ndarray | None]],
    path: epath.PathLike,
    *,
    titles: Sequence[str] = (),
    names: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
) -> None:
    """Plots rows of uint8 RGB images, with gaps for None.

    Tiles have the aspect ratio of the first image.

    Args:
      titles, names: texts of the columns and of the rows.
      notes: texts on the images, row by row.
    """
    height, width = len(images), max(map(len, images))
    shape = next(image.shape for image in images[0] if image is not None)
    wide = width * 1.05 * shape[1] / shape[0]
    figure = Figure(figsize=(wide + 1.0 * bool(names), height * 1.05 + 0.3))
    grid = figure.subplots(height, width, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, faces in zip(grid, images):
        for axes, image in zip(row, faces):
            if image is not None:
                axes.imshow(image)
    box = {"facecolor": "black", "pad": 1.5, "linewidth": 0}
    style = {"color": "white", "fontsize": 7, "va": "bottom", "bbox": box}
    for row, texts in zip(grid, notes):
        for axes, text in zip(row, texts):
            axes.text(0.03, 0.03, text, transform=axes.transAxes, **style)
    for axes, title in zip(grid[0], titles):
        axes.set_title(title, fontsize=8)
    for axes, name in zip(grid[:, 0], names):
        axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    left = 1.0 / (wide + 1.0) if names else 0.01
    top = 1 - 0.3 / (height * 1.05 + 0.3)
    figure.subplots_adjust(left, 0.01, 0.99, top, 0.04, 0.04)
    save(figure, path)


def contact_sheet(
    images: Sequence[np.ndarray],
    path: epath.PathLike,
    *,
    columns: int = 10,
    titles: Sequence[str] = (),
) -> None:
    """Plots uint8 RGB images row by row, with optional titles on them."""
    starts = range(0, len(images), columns)
    lines = [images[start : start + columns] for start in starts]
    notes = [titles[start : start + columns] for start in starts]
    rows(lines, path, notes=notes)


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes a figure as PNG, atomically; creates missing folders."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            figure.savefig(file, format="png", dpi=120)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
