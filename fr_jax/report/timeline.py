"""A figure of when each tracklet, or each person, of a video is seen."""

from collections.abc import Sequence

import numpy as np

from fr_jax.report import figures

_GAP = 0.5  # seconds without a face that interrupt a bar
_LEAST = 0.04  # seconds of a bar, so that one face is visible
_HEIGHT, _MOST = 0.22, 14.0  # inches of a row, of the figure


def plot(
    times: Sequence[np.ndarray],
    path,
    *,
    names: Sequence[str] | None = None,
    cuts: Sequence[float] = (),
    label: str = "tracklet",
) -> None:
    """Writes a PNG with a bar for every span of time.

    Args:
      times: seconds of the faces of each row, ascending.
      names: of the rows; by default their numbers.
      cuts: seconds at which a shot begins.
      label: what a row is.
    """
    count = len(times)
    height = min(_MOST, max(2.0, 1.0 + _HEIGHT * count))
    with figures.panels(path, 1, (9.0, height)) as (axes,):
        for row, seconds in enumerate(times):
            starts = np.flatnonzero(np.diff(seconds, prepend=-np.inf) > _GAP)
            spans = [
                (part[0], max(part[-1] - part[0], _LEAST))
                for part in np.split(np.asarray(seconds), starts[1:])
            ]
            axes.broken_barh(spans, (row - 0.4, 0.8), color=f"C{row % 10}")
        for second in cuts:
            axes.axvline(second, color="0.6", linewidth=0.6, zorder=0)
        axes.set(xlabel="seconds", ylabel=label, ylim=(count - 0.5, -0.5))
        if names is not None or count <= 40:
            labels = names if names is not None else [str(row) for row in range(count)]
            axes.set_yticks(range(count), labels)
