"""Progress of long loops: a bar in a terminal, lines in a file or a pipe."""

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 30.0  # between two lines
_COUNTS = " {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class _Lines(tqdm):
    def display(self, *_: Any, **__: Any) -> None:
        if self.n > self.last_print_n:
            print(self, file=sys.stderr, flush=True)


def progress_bar(
    iterable: Iterable | None = None, label: str = "", **options: Any
) -> tqdm:
    """Returns tqdm's progress bar over `iterable`.

    If standard error is not a terminal, it prints a line every 30 seconds and at the
    end instead, without carriage returns.

    Args:
      options: of tqdm, such as total, unit (default: images), leave, disable.
    """
    options = {"unit": " images", **options}
    if sys.stderr.isatty():
        return tqdm(iterable, label, bar_format="{l_bar}{bar}|" + _COUNTS, **options)
    options |= {
        "file": io.StringIO(),  # instead of the bar's control characters
        "mininterval": SECONDS,
        "maxinterval": SECONDS,
        "leave": True,
        "bar_format": "{l_bar}" + _COUNTS,
    }
    return _Lines(iterable, label, **options)
