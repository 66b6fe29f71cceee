"""Logs of a run: metrics.jsonl, TensorBoard events, a progress line."""

import json
import math
import os
import sys
from typing import Any

from absl import logging
from etils import epath


class MetricLog:
    """The logs of one run.

    Args:
      workdir: folder of metrics.jsonl and the TensorBoard events.
      num_steps: total of the run, for the time left.
      unit: name of the rows of a batch, as in the names of the rates.
      active: False in all processes but one, which then write nothing.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        num_steps: int,
        unit: str = "images",
        active: bool = True,
    ):
        self._file = epath.Path(workdir) / "metrics.jsonl"
        self._num_steps, self._unit = num_steps, unit
        self._active = active
        self._tensorboard = _tensorboard(workdir) if active else None

    def cut_back(self, step: int, *, evaluated: bool = True) -> None:
        """Removes unfinished lines and those after `step`, where the run continues.

        Args:
          evaluated: False removes the results of the evaluation of `step` as well.
        """
        if not self._active or not self._file.exists():
            return

        def kept(line: str) -> bool:
            # The rates are in every line but those of evaluations.
            is_evaluation = '"steps_per_second"' not in line
            at = _step(line)
            return at < step or (at == step and (evaluated or not is_evaluation))

        lines = self._file.read_text().splitlines(keepends=True)
        part = self._file.with_name(self._file.name + ".part")
        part.write_text("".join(line for line in lines if kept(line)))
        part.replace(self._file)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Appends the scalars of a step."""
        if not self._active or not scalars:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, dict(scalars))

    def progress(self, step: int, scalars: dict[str, float]) -> None:
        """Prints a line: step, losses, accuracies, images per second, time left.

        Losses and accuracies are metrics with that name, or with that name after the
        name of a network, such as 'generator/loss'.
        """
        left = (self._num_steps - step) / max(scalars["steps_per_second"], 1e-9)
        parts = [f"step {step:,}/{self._num_steps:,}"]
        for kind in ("loss", "accuracy"):
            names = [name for name in scalars if name.rpartition("/")[2] == kind]
            parts += [f"{name} {scalars[name]:.4g}" for name in names]
        rate = scalars[f"{self._unit}_per_second"]
        parts.append(f"{rate:,.0f} {self._unit}/s")
        parts.append(f"data wait {scalars['data_wait']:.0%}")
        if scalars.get("skipped"):
            parts.append(f"{scalars['skipped']:.0f} updates skipped")
        parts.append(f"{duration(left)} left")
        self.say("  ".join(parts))

    def say(self, line: str) -> None:
        """Prints a line to standard error."""
        if self._active and line:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.flush()
            self._tensorboard.close()


def _step(line: str) -> float:
    """Returns the step of a line; infinity for a line that is not complete."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def duration(seconds: float) -> str:
    """Returns a time span as text: '3 h 05 min', '4 min', '12 s'."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _tensorboard(workdir: epath.PathLike) -> Any:
    """Returns clu's TensorBoard writer, or None if TensorFlow is not installed."""
    try:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN logs at import
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # left to JAX
        from clu import metric_writers

        return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))
    except ImportError as error:
        logging.warning("no TensorBoard events (%s); metrics.jsonl alone", error)
        return None
