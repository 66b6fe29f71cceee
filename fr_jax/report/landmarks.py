"""Figures of landmarks: cumulative errors, and crops with their points."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from fr_jax.metrics import landmarks
from fr_jax.report import figures

_PARTS = (  # first and last point, and whether the line is closed
    *((0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False)),
    *((31, 35, False), (36, 41, True), (42, 47, True), (48, 59, True), (60, 67, True)),
)


def cumulative_errors(
    curves: Mapping[str, np.ndarray],
    path: epath.PathLike,
    limit: float = landmarks.LIMIT,
) -> None:
    """Plots the cumulative curve of normalised errors [N] of each name, up to `limit`.

    The legend has the area under the curve; see `metrics.landmarks`.
    """
    with figures.panels(path, 1, (6, 4.2 + 0.2 * len(curves))) as (axes,):
        for name, errors in curves.items():
            error, share = landmarks.cumulative(errors)
            area = 100 * landmarks.area_under_curve(errors, limit)
            label = f"{name} (AUC {area:.1f} %)"
            error, share = np.append(0, error), np.append(0, share)
            axes.step(100 * error, 100 * share, where="post", label=label)
        axes.set(xlim=(0, 100 * limit), ylim=(0, 103))
        axes.set_xlabel("mean error of a face (% of the distance of the eye corners)")
        axes.set_ylabel("faces (%)")
        figures.legend(axes)


def points_sheet(
    images: Sequence[np.ndarray],
    points: Sequence[np.ndarray],
    path: epath.PathLike,
    *,
    truth: Sequence[np.ndarray] | None = None,
    titles: Sequence[str] = (),
    columns: int = 5,
) -> None:
    """Plots uint8 RGB crops with landmarks [68, 2], the true ones in another colour."""
    count = len(images)
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes in grid:
        axes.set_axis_off()
    for number, (image, face) in enumerate(zip(images, points)):
        axes = figure.axes[number]
        axes.imshow(image)
        if truth is not None:
            axes.plot(*truth[number].T, ".", color="lime", markersize=2.5)
        for first, last, closed in _PARTS:
            line = face[first : last + 1]
            line = np.concatenate([line, line[:1]]) if closed else line
            axes.plot(*line.T, "-", color="red", linewidth=0.5)
        axes.plot(*face.T, ".", color="red", markersize=2.5)
        if number < len(titles):
            axes.set_title(titles[number], fontsize=7)
    figures.save(figure, path)
