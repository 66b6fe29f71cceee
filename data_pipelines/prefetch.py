"""Batches made ahead in threads, in order of their steps."""

import collections
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetch:
    """`at(step)` gives make(step), while the next `depth` steps are being made."""

    def __init__(self, make: Callable[[int], Any], depth: int):
        self._make, self._depth = make, depth
        self._pool = ThreadPoolExecutor(max(depth, 1))
        self._made: dict[int, Future] = collections.OrderedDict()

    def at(self, step: int) -> Any:
        """Returns what belongs to a step. Steps in order are fast."""
        wanted = range(step, step + 1 + self._depth)
        for late in [number for number in self._made if number not in wanted]:
            self._made.pop(late).cancel()
        for number in wanted:
            if number not in self._made:
                self._made[number] = self._pool.submit(self._make, number)
        return self._made.pop(step).result()
