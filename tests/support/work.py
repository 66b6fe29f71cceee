"""Work of a call, counted instead of timed: machines drift, counts do not."""

import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Lines:
    """Lines of Python executed; work within one line (a copy) counts as one."""

    count = 0


@contextlib.contextmanager
def counted_lines() -> Iterator[Lines]:
    """Counts the lines that functions called in the block execute in this thread."""
    lines = Lines()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        lines.count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
