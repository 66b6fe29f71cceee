"""Logs of a run: metrics.jsonl and the progress line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from tensorboard.compat.proto import event_pb2

from data_pipelines import index
from fr_jax.training.metric_log import MetricLog, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (89, "89 s"), (240, "4 min"), (3600 * 3 + 300, "3 h 05 min")],
    ids=str,
)
def test_duration_is_readable(seconds, text):
    assert duration(seconds) == text


def test_lines_after_a_step_and_unfinished_ones_are_dropped(tmp_path):
    log = MetricLog(tmp_path, num_steps=40)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1.0})
    log.write(40, {})  # writes no line
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"loss": 2.0}\n{"step": 15, "lo')
    log.cut_back(20)
    log.close()
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [10, 20]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (b"", ""),
        (b'\n{"step": 15, "lo', ""),  # the process was killed while it wrote
        (b'\n\xff\xfe\n{"step": 16}\n', "removed 1 damaged lines"),
        (b"\n\x00\x00\n" + b"[" * 100_000 + b"\n", "removed 2 damaged lines"),
        (b'\n{"step": NaN}', ""),
    ],
    ids=["no last newline", "unfinished", "not UTF-8", "zeros and nesting", "NaN"],
)
def test_damaged_file_is_continued(tmp_path, capsys, after, said):
    log = MetricLog(tmp_path, num_steps=40)
    log.write(10, {"loss": 1.0})
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes().rstrip(b"\n") + after)
    log.cut_back(15)
    log.write(20, {"loss": 0.5})
    log.close()
    rows = [json.loads(row)["step"] for row in file.read_text().splitlines()]
    assert rows == [10, 20]
    error = capsys.readouterr().err
    assert said in error and bool(error) == bool(said)


def test_progress_names_the_unit_and_the_time_left(tmp_path, capsys):
    log = MetricLog(tmp_path, num_steps=2000, unit="pairs")
    scalars = {"steps_per_second": 2.0, "pairs_per_second": 128.0, "data_wait": 0.25}
    log.progress(1000, scalars | {"loss": 1.25, "skipped": 3.0})
    log.close()
    assert capsys.readouterr().err == (
        "step 1,000/2,000  loss 1.25  128 pairs/s  data wait 25%  3 updates skipped  "
        "8 min left\n"
    )


def test_progress_names_losses_and_accuracies_of_each_network(tmp_path, capsys):
    log = MetricLog(tmp_path, num_steps=2000)
    rates = {"steps_per_second": 2.0, "images_per_second": 64.0, "data_wait": 0.0}
    losses = {"generator/loss": 2.5, "discriminator/loss": 0.75}
    rest = {"generator/pose_loss": 9.0, "discriminator/pose_accuracy": 0.1}
    log.progress(1000, {"discriminator/accuracy": 0.625} | losses | rest | rates)
    log.close()
    assert capsys.readouterr().err == (
        "step 1,000/2,000  generator/loss 2.5  discriminator/loss 0.75  "
        "discriminator/accuracy 0.625  64 images/s  data wait 0%  8 min left\n"
    )


def test_inactive_log_writes_nothing(tmp_path, capsys):
    log = MetricLog(tmp_path, num_steps=10, active=False)
    log.write(1, {"loss": 1.0})
    log.say("hello")
    log.close()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_events_of_tensorboard_have_the_scalars(tmp_path):
    log = MetricLog(tmp_path, num_steps=10)
    written = {1: {"loss": 1.5}, 2: {"lfw/auc": 0.75, "loss": 2.0**40}}
    for step, scalars in written.items():
        log.write(step, scalars)
    log.close()
    (path,) = epath.Path(tmp_path).glob("events.out.tfevents.*")
    content, found = path.read_bytes(), {}
    for start, length, _ in zip(*index.scan(path)):
        record = content[start + 12 : start + length - 4]  # without the checksums
        event = event_pb2.Event.FromString(record)
        if event.step:
            values = event.summary.value
            found[event.step] = {one.tag: one.simple_value for one in values}
    assert found == written
    assert np.isfinite(event.wall_time)


def test_events_need_no_tensorflow(tmp_path):
    """Which takes seconds to import."""
    code = f"""
import sys
from fr_jax.training.metric_log import MetricLog
log = MetricLog({str(tmp_path)!r}, 10)
log.write(1, {{"loss": 1.0}})
log.close()
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(tmp_path.glob("events.*"))) == 1
