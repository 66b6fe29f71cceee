"""Figures of a run and of its judgement: ROC, cosines, training curves, image grids.

Drawn on Matplotlib's Figure, never through pyplot: no display, no global state.
"""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from fr_jax.metrics import verification

# Of contrastive learning: whether the positive is found, and whether all is well; of
# generators how much made images differ.
_SHARES = ("top1", "top5", "queue_fill", "embedding_spread", "spread")


def roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: epath.PathLike
) -> None:
    """Draws one ROC per name, from (scores, same), on a logarithmic FAR axis."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    lowest = 1e-1
    for name, (scores, same) in curves.items():
        far, tar = verification.roc(scores, same)
        shown = far > 0
        lowest = min(lowest, 1 / max(np.sum(~same), 1))
        label = f"{name} (AUC {verification.area_under_roc(scores, same):.4f})"
        axes.step(far[shown], tar[shown], where="post", label=label)
    axes.plot(axis := np.logspace(-6, 0, 200), axis, ":", color="grey", label="chance")
    axes.set(
        xscale="log",
        xlim=(lowest, 1),
        ylim=(0, 1.01),
        xlabel="false accept rate (impostor pairs accepted)",
        ylabel="true accept rate (genuine pairs accepted)",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize=8)
    save(figure, path)


def cosines(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], path: epath.PathLike
) -> None:
    """Draws histograms of the cosines of genuine and impostor pairs, a panel per name.

    Takes what `roc` takes: by name (scores, same).
    """
    figure = Figure(figsize=(4.2 * len(pairs), 3.4), layout="constrained")
    panels = figure.subplots(1, len(pairs), squeeze=False, sharex=True)[0]
    lowest = min(0.0, *(np.min(scores) for scores, _ in pairs.values()))
    bins = np.linspace(max(lowest, -1), 1, 41)
    for axes, (name, (scores, same)) in zip(panels, pairs.items()):
        for kind, chosen in (("impostor", ~same), ("genuine", same)):
            some = np.clip(scores[chosen], -1, 1)  # rounding may leave the last bin
            label = f"{kind}: {some.mean():.2f} +- {some.std():.2f}"
            axes.hist(some, bins, density=True, alpha=0.6, label=label)
        axes.set(title=name, xlabel="cosine", ylabel="density", yticks=[])
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc="upper right", fontsize=8)
    save(figure, path)


def training(metrics: epath.PathLike, path: epath.PathLike) -> None:
    """Draws what a metrics.jsonl tells, against the step.

    Losses, beside what chance would give; accuracies; and of contrastive learning the
    cosines of positives and negatives, and the shares that tell how the learner is.
    """
    rows = [json.loads(line) for line in epath.Path(metrics).read_text().splitlines()]
    found = sorted({name for row in rows for name in row} - {"step"})
    kinds = {
        "loss": [name for name in found if name.endswith("loss")],
        "cosine": [name for name in found if name.endswith("_cosine")],
        "share": [name for name in found if name.split("/")[-1] in _SHARES],
        "accuracy": [name for name in found if name.endswith("accuracy")],
    }
    panels = [(names, label) for label, names in kinds.items() if names]
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (names, label) in zip(grid, panels):
        for name in names:
            steps, values = zip(*[(r["step"], r[name]) for r in rows if name in r])
            style = "k:" if "chance" in name else ".-"
            axes.plot(steps, values, style, markersize=3, label=name)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", fontsize=8)
    save(figure, path)


def contact_sheet(
    images: Sequence[np.ndarray],
    path: epath.PathLike,
    *,
    columns: int = 10,
    titles: Sequence[str] = (),
) -> None:
    """Draws uint8 RGB images in a grid, row by row, a title above each if given.

    Tiles are as wide to their height as the first image.
    """
    rows = math.ceil(len(images) / columns)
    wide = 1.1 * images[0].shape[1] / images[0].shape[0]
    figure = Figure(figsize=(columns * wide, rows * (1.35 if titles else 1.1)))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for number, (axes, image) in enumerate(zip(grid.flat, images)):
        axes.imshow(image)
        if titles:
            axes.set_title(titles[number], fontsize=6)
    figure.subplots_adjust(0, 0, 1, 0.97, 0.03, 0.2 if titles else 0.03)
    save(figure, path)


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes a figure as PNG, and the folders on the way."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=120)
