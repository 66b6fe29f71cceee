"""What a run writes down: metrics.jsonl, TensorBoard events, a progress line."""

import json
import os
import sys
from typing import Any

from absl import logging
from etils import epath


class MetricLog:
    """The written record of one run; only process 0 of several has one.

    Args:
      workdir: metrics.jsonl and the TensorBoard events go here.
      num_steps: of the whole run, for the time left.
      unit: what a batch has rows of, as the rates are named.
      active: whether this process is the one that writes.
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

    def cut_back(self, step: int) -> None:
        """Drops the lines of steps after `step`: the run goes on from there."""
        if not self._active or not self._file.exists():
            return
        kept = []
        for line in self._file.read_text().splitlines(keepends=True):
            try:
                if json.loads(line)["step"] > step:
                    continue
            except (ValueError, KeyError, TypeError):
                continue  # a line that a killed run did not finish
            kept.append(line)
        part = self._file.with_name(self._file.name + ".part")
        part.write_text("".join(kept))
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
        """Shows a line: step, losses, accuracies, images per second, time left.

        Metrics named 'loss' or 'accuracy' are shown, also those of one network of
        several, such as 'generator/loss'.
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
        """Shows a line to whoever watches the run."""
        if self._active and line:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.flush()
            self._tensorboard.close()


def duration(seconds: float) -> str:
    """Returns a time span a person can read: '3 h 05 min', '4 min', '12 s'."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _tensorboard(workdir: epath.PathLike) -> Any:
    """clu's TensorBoard writer, or None where TensorFlow is not installed."""
    try:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # logs when imported
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
        from clu import metric_writers

        return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))
    except ImportError as error:
        logging.warning("no TensorBoard events (%s); metrics.jsonl alone", error)
        return None
