"""Figures of rotated faces: rows of images, confidence against pose and light."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from fr_jax.report.figures import legend, panels, save


def rows(
    images: Sequence[Sequence[np.ndarray | None]],
    path: epath.PathLike,
    *,
    titles: Sequence[str] = (),
    names: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
) -> None:
    """Plots rows of uint8 RGB images, with gaps for None.

    Args:
      titles, names: texts of the columns and of the rows.
      notes: texts on the images, row by row.
    """
    height, width = len(images), max(map(len, images))
    figure = Figure(figsize=(width * 1.05 + 1.0 * bool(names), height * 1.05 + 0.3))
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
    left = 1.0 / (width * 1.05 + 1.0) if names else 0.01
    top = 1 - 0.3 / (height * 1.05 + 0.3)
    figure.subplots_adjust(left, 0.01, 0.99, top, 0.04, 0.04)
    save(figure, path)


def pose_grid(
    inputs: np.ndarray,
    generated: np.ndarray,
    path: epath.PathLike,
    *,
    angles: Sequence[float],
    truth: Sequence[Sequence[np.ndarray | None]] | None = None,
) -> None:
    """Plots inputs with the images generated at every angle; below, the ground truth.

    Args:
      inputs: uint8 RGB [N, S, S, 3].
      generated: uint8 RGB [N, A, S, S, 3].
      angles: [A] in degrees.
      truth: [N][A] real images, None for a gap.
    """
    lines: list[Sequence[np.ndarray | None]] = []
    for number, face in enumerate(inputs):
        lines.append([face, *generated[number]])
        if truth is not None:
            lines.append([None, *truth[number]])
    names = ["generated", "real"] * len(inputs) if truth is not None else []
    titles = ["input", *(f"{angle:+g}" for angle in angles)]
    rows(lines, path, titles=titles, names=names)


def confidence(
    means: Mapping[str, Mapping[float, float]],
    path: epath.PathLike,
    *,
    quality: np.ndarray,
    trusted: np.ndarray,
) -> None:
    """Plots the confidence of each image against quality, and mean confidences.

    Args:
      means: axis label -> {value: mean confidence}, a panel each.
      quality, trusted: [N] quality and confidence of each image.
    """
    count = len(means) + 1
    with panels(path, count, (3.6 * count, 3.2)) as (first, *others):
        first.plot(quality, trusted, ".", markersize=3, alpha=0.5)
        first.set(xlabel="quality (share of the pixels' side)", ylabel="confidence")
        for axes, (name, mean) in zip(others, means.items()):
            axes.plot(list(mean), list(mean.values()), ".-")
            axes.set(xlabel=name, ylabel="mean confidence")


def known(
    shares: np.ndarray, trusted: np.ndarray, quality: np.ndarray, path: epath.PathLike
) -> None:
    """Plots confidence against the probability of the true identity, by quality.

    Args:
      shares, trusted, quality: [N] probability, confidence and quality of each image.
    """
    with panels(path, 1, (4.6, 3.4)) as (axes,):
        points = axes.scatter(shares, trusted, 6, quality, alpha=0.7)
        axes.figure.colorbar(points, label="quality (share of the pixels' side)")
        axes.set(xlabel="probability of the true identity", ylabel="confidence")


def number_of_images(
    tables: Mapping[str, np.ndarray], path: epath.PathLike, way: str = "fused by "
) -> None:
    """Plots rank-1 against the number of fused images, a curve per name.

    Args:
      tables: name -> rank-1 [numbers, draws]; the band is the deviation over draws.
      way: prefix of the names in the legend.
    """
    with panels(path, 1, (4.4, 3.4)) as (axes,):
        for name, shares in tables.items():
            mean, deviation = shares.mean(axis=1), shares.std(axis=1)
            numbers = np.arange(1, len(shares) + 1)
            (line,) = axes.plot(numbers, mean, ".-", label=way + name)
            band = {"color": line.get_color(), "alpha": 0.15, "linewidth": 0}
            axes.fill_between(numbers, mean - deviation, mean + deviation, **band)
        axes.set(xlabel="images per identity", ylabel="rank-1")
        legend(axes)
