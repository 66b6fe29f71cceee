"""Figures of rotated faces, and of confidence against pose and light."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from fr_jax.report.figures import legend, panels, rows


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
        axes.locator_params(axis="x", integer=True)
        legend(axes)
