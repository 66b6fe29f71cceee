"""Logs of a run: metrics.jsonl, TensorBoard events, a progress line."""

import dataclasses
import json
import math
import sys
import time
from typing import Any

from etils import epath


@dataclasses.dataclass
class MetricLog:
    """The logs of one run.

    Args:
      workdir: folder of metrics.jsonl and the TensorBoard events.
      num_steps: total of the run, for the time left.
      unit: name of the rows of a batch, as in the names of the rates.
      active: False in all processes but one, which then write nothing.
    """

    workdir: epath.PathLike
    num_steps: int
    unit: str = "images"
    active: bool = True

    def __post_init__(self):
        self._file = epath.Path(self.workdir) / "metrics.jsonl"
        self._events: Events | None = None  # a refused run leaves no file
        self._told: set[str] = set()  # metrics that were not finite

    def cut_back(self, step: int, *, evaluated: bool = True) -> None:
        """Removes unfinished lines and those after `step`, where the run continues.

        Args:
          evaluated: False removes the results of the evaluation of `step` as well.
        """
        if not self.active or not self._file.exists():
            return

        def kept(line: bytes) -> bool:
            # The rates are in every line but those of evaluations.
            is_evaluation = b'"steps_per_second"' not in line
            at = _step(line)
            return at < step or (at == step and (evaluated or not is_evaluation))

        *lines, last = self._file.read_bytes().split(b"\n")
        if damaged := sum(_step(line) == math.inf for line in lines):
            self.say(f"{self._file}: removed {damaged} damaged lines")
        part = self._file.with_name(self._file.name + ".part")
        part.write_bytes(
            b"".join(line + b"\n" for line in (*lines, last) if kept(line))
        )
        part.replace(self._file)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Appends the scalars of a step.

        A non-finite one is null, as JSON has no word for it, and is named once.
        """
        if not self.active or not scalars:
            return
        row = {n: x if math.isfinite(x) else None for n, x in scalars.items()}
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **row}, allow_nan=False) + "\n")
        for name, value in scalars.items():
            if row[name] is None and name not in self._told:
                self._told.add(name)
                self.say(f"{name} is {value} at step {step:,}; metrics.jsonl has null")
        self._events = self._events or Events(self.workdir)
        self._events.write(step, scalars)

    def progress(self, step: int, scalars: dict[str, float]) -> None:
        """Prints a line: step, losses, accuracies, images per second, time left.

        Losses and accuracies are metrics with that name, or with that name after the
        name of a network, such as 'generator/loss'.
        """
        left = (self.num_steps - step) / max(scalars["steps_per_second"], 1e-9)
        parts = [f"step {step:,}/{self.num_steps:,}"]
        for kind in ("loss", "accuracy"):
            names = [name for name in scalars if name.rpartition("/")[2] == kind]
            parts += [f"{name} {scalars[name]:.4g}" for name in names]
        rate = scalars[f"{self.unit}_per_second"]
        parts.append(f"{rate:,.0f} {self.unit}/s")
        parts.append(f"data wait {scalars['data_wait']:.0%}")
        if scalars.get("skipped"):
            parts.append(f"{scalars['skipped']:.0f} updates skipped")
        parts.append(f"{duration(left)} left")
        self.say("  ".join(parts))

    def say(self, line: str) -> None:
        """Prints a line to standard error."""
        if self.active and line:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _step(line: bytes) -> float:
    """Returns the step of a line; infinity for a line that is not complete."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def duration(seconds: float) -> str:
    """Returns a time span as text: '3 h 05 min', '4 min', '12 s'."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class Events:
    """Scalars as TensorBoard events, in a new file of a folder, without TensorFlow."""

    def __init__(self, workdir: epath.PathLike):
        from tensorboard.compat import tensorflow_stub
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer import event_file_writer

        if "://" not in str(workdir):
            # The writer would import TensorFlow where it is installed, to open a file.
            setattr(event_file_writer, "tf", tensorflow_stub)  # noqa: B010 - a module
        events: Any = event_pb2  # their classes exist at run time only
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        self._file = event_file_writer.EventFileWriter(str(workdir))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Appends the scalars of a step."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
        ]
        summary = self._summary(value=values)
        event = self._event(wall_time=time.time(), step=step, summary=summary)
        self._file.add_event(event)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
