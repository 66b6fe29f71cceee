"""Figures of turned faces: rows of images, confidence against pose and light."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from fr_jax.report.figures import save


def rows(
    images: Sequence[Sequence[np.ndarray | None]],
    path: epath.PathLike,
    *,
    titles: Sequence[str] = (),
    names: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
) -> None:
    """Draws rows of uint8 RGB images, a gap where there is none.

    Args:
      titles: of the columns; names: of the rows; notes: on the images, row by row.
    """
    height, width = len(images), max(map(len, images))
    figure = Figure(figsize=(width * 1.05 + 1.0 * bool(names), height * 1.05 + 0.3))
    grid = figure.subplots(height, width, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for line, faces in zip(grid, images):
        for axes, image in zip(line, faces):
            if image is not None:
                axes.imshow(image)
    for line, words in zip(grid, notes):
        for axes, word in zip(line, words):
            box = {"facecolor": "black", "pad": 1.5, "linewidth": 0}
            at = {"transform": axes.transAxes, "va": "bottom"}
            axes.text(0.03, 0.03, word, color="white", fontsize=7, bbox=box, **at)
    for axes, title in zip(grid[0], titles):
        axes.set_title(title, fontsize=8)
    for axes, name in zip(grid[:, 0], names):
        axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    left = 1.0 / (width * 1.05 + 1.0) if names else 0.01
    top = 1 - 0.3 / (height * 1.05 + 0.3)
    figure.subplots_adjust(left, 0.01, 0.99, top, 0.04, 0.04)
    save(figure, path)


def pose_grid(
    inputs: np.ndarray,
    made: np.ndarray,
    path: epath.PathLike,
    *,
    angles: Sequence[float],
    truth: Sequence[Sequence[np.ndarray | None]] | None = None,
) -> None:
    """Draws each input and what was made of it at every angle; below, what is true.

    Args:
      inputs: [N, S, S, 3]; made: [N, A, S, S, 3]; truth: [N][A] images or None.
    """
    lines: list[Sequence[np.ndarray | None]] = []
    for number, face in enumerate(inputs):
        lines.append([face, *made[number]])
        if truth is not None:
            lines.append([None, *truth[number]])
    names = ["made", "true"] * len(inputs) if truth is not None else []
    titles = ["input", *(f"{angle:+g}" for angle in angles)]
    rows(lines, path, titles=titles, names=names)


def confidence(
    panels: Mapping[str, Mapping[float, float]],
    path: epath.PathLike,
    *,
    quality: np.ndarray,
    trusted: np.ndarray,
) -> None:
    """Draws mean confidence against each thing, and against quality image by image.

    Args:
      panels: axis label -> {value: mean confidence}.
      quality, trusted: [N] true quality and confidence of each image.
    """
    figure = Figure(figsize=(3.6 * (len(panels) + 1), 3.2), layout="constrained")
    first, *others = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    first.plot(quality, trusted, ".", markersize=3, alpha=0.5)
    first.set(xlabel="quality (share of the pixels' side)", ylabel="confidence")
    for axes, (name, means) in zip(others, panels.items()):
        axes.plot(list(means), list(means.values()), ".-")
        axes.set(xlabel=name, ylabel="mean confidence")
    for axes in (first, *others):
        axes.grid(alpha=0.3)
    save(figure, path)


def known(
    shares: np.ndarray, trusted: np.ndarray, quality: np.ndarray, path: epath.PathLike
) -> None:
    """Draws confidence against the probability of the true identity, by quality.

    Args:
      shares, trusted, quality: [N] probability, confidence and true quality.
    """
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    points = axes.scatter(shares, trusted, 6, quality, alpha=0.7)
    figure.colorbar(points, label="quality (share of the pixels' side)")
    axes.set(xlabel="probability of the true identity", ylabel="confidence")
    axes.grid(alpha=0.3)
    save(figure, path)


def number_of_images(
    tables: Mapping[str, np.ndarray], path: epath.PathLike, way: str = "fused by "
) -> None:
    """Draws rank-1 against the number of images that are fused, a line each way.

    Args:
      tables: name -> shares [numbers, draws]; the band is their deviation over draws.
      way: what comes before each name.
    """
    figure = Figure(figsize=(4.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, shares in tables.items():
        mean, deviation = shares.mean(axis=1), shares.std(axis=1)
        numbers = np.arange(1, len(shares) + 1)
        (line,) = axes.plot(numbers, mean, ".-", label=way + name)
        band = {"color": line.get_color(), "alpha": 0.15, "linewidth": 0}
        axes.fill_between(numbers, mean - deviation, mean + deviation, **band)
    axes.set(xlabel="images of a person", ylabel="rank-1")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    save(figure, path)
