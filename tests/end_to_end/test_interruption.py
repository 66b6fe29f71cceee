"""Signals to processes that train on records: exit codes, files, exact continuation."""

import json
import random
import re
import signal
import time

import numpy as np
import pytest

from data_pipelines.builders import faces as builder
from tests.support.commands import CONFIGS, flags
from tests.support.faces import some_faces
from tests.support.processes import (
    ended,
    free_port,
    read_until,
    start_training,
    steps_on_disk,
    wait_for_handlers,
)

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("processes")]
STEPS, INTERRUPTIONS = 400, 8
SHARED = {
    "train.num_steps": STEPS,
    "train.log_every": 5,
    "train.save_every": 150,
    "train.evaluate_every": 0,
    "system.backbone": "iresnet18",
    "system.image_size": 32,
    "system.backbone_options": {
        "stage_sizes": (1, 1, 1, 1),
        "width": 0.125,
        "embedding_size": 16,
        "dtype": "float32",
        "bn_groups": 1,
    },
    "data.batch_size": 16,
}
SETTINGS = {
    "inter_prototype": SHARED,
    # Augmented on the host, and evaluated with a plateau schedule.
    "usynthface": SHARED
    | {
        "train.evaluate_every": 50,
        "train.best_metric": "heldout/auc",
        "data.pairing": "disco",
        "data.records.held_out": 20,
        "data.selection.sets": ("heldout",),
        "system.queue.size": 16,
        "system.optimizer.schedule": "plateau",
    },
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of forty identities with eight images each."""
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(40, 8, 32), folder, "faces", size=32)[0]


@pytest.fixture(scope="module")
def train(records):
    """Returns a function: name of the system, workdir, more flags -> the process."""

    def start(name, workdir, *words, **settings):
        settings = SETTINGS[name] | {"data.records.path": records} | settings
        config = f"--config={CONFIGS[name]}:own"
        return start_training(config, "--workdir", workdir, *flags(settings), *words)

    return start


def check_interrupted(process, number=signal.SIGINT):
    """Checks exit code and message of an interrupted run; returns the saved step."""
    code, error = ended(process)
    assert code == 128 + number, error
    assert not re.search("Traceback|terminate called|Fatal", error), error
    assert "is saved in" in error, error
    (line,) = [line for line in error.splitlines() if "is saved in" in line]
    return int(re.search(r"step ([\d,]+) is saved in", line)[1].replace(",", ""))


def lines(workdir):
    """The lines of metrics.jsonl without rates."""
    rates = {"images_per_second", "pairs_per_second", "steps_per_second", "data_wait"}
    text = (workdir / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{name: x for name, x in row.items() if name not in rates} for row in rows]


@pytest.mark.pod
@pytest.mark.parametrize("name", ["inter_prototype", "usynthface"])
def test_eight_interruptions_change_nothing(train, tmp_path, name):
    """Ctrl-C at random moments of eight runs; then the run is that without them."""
    code, error = ended(train(name, tmp_path / "whole"))
    assert code == 0, error
    workdir, seed = tmp_path / "parts", random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    rng, saved = random.Random(seed), 0
    for number in range(INTERRUPTIONS):
        process = train(name, workdir)
        read_until(process, f"step {5 * (saved // 5 + 1 + rng.randrange(4))}/")
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGINT)
        before, saved = saved, check_interrupted(process)
        assert before < saved < STEPS
        assert max(steps_on_disk(workdir)) == saved
        present = {path.name for path in (workdir / "checkpoints").iterdir()}
        assert all(name.isdigit() or name == "layout" for name in present), present
        assert not list(workdir.glob("*.part"))
        assert number or not (workdir / "embedder").exists()
    process = train(name, workdir)
    assert f"resumed at step {saved}" in read_until(process, "resumed")
    code, error = ended(process)
    assert code == 0, error
    assert lines(workdir) == lines(tmp_path / "whole")
    weights = [
        np.load(tmp_path / w / "embedder/weights.npz") for w in ("whole", "parts")
    ]
    for array in weights[0].files:
        np.testing.assert_array_equal(weights[0][array], weights[1][array])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["start", "compiling"])
def test_before_the_first_step_nothing_is_lost(train, tmp_path, number, moment):
    # A larger network compiles for long enough.
    deep = {"stage_sizes": (2, 3, 3, 2), "width": 0.25, "embedding_size": 16}
    settings = {"system.backbone_options": deep} if moment == "compiling" else {}
    process = train("inter_prototype", tmp_path / "w", **settings)
    if moment == "compiling":
        read_until(process, "identities")
    else:
        wait_for_handlers(process)
    time.sleep(1)
    process.send_signal(number)
    code, error = ended(process)
    assert code == 128 + number, error
    (line,) = error.splitlines()
    assert line.startswith("fr-jax: interrupted"), error
    assert steps_on_disk(tmp_path / "w") == []


def test_a_second_ctrl_c_leaves_at_once_and_the_run_goes_on(train, tmp_path):
    process = train("usynthface", tmp_path)
    read_until(process, "step 160/")
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C again leaves at once")
    process.send_signal(signal.SIGINT)
    code, error = ended(process)
    assert code == 130, error
    assert "Traceback" not in error
    assert re.search("left at once|is saved in", error.splitlines()[-1])
    process = train("usynthface", tmp_path)
    assert "resumed at step 1" in read_until(process, "resumed")
    assert ended(process)[0] == 0


def test_ctrl_c_after_training_keeps_the_last_step(train, tmp_path):
    settings = {"train.num_steps": 20}
    process = train("inter_prototype", tmp_path, **settings)
    read_until(process, "step 20/")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert check_interrupted(process) == 20
    assert ended(train("inter_prototype", tmp_path, **settings))[0] == 0
    assert (tmp_path / "embedder/weights.npz").exists()


@pytest.mark.parametrize(
    ("number", "to"),
    [
        pytest.param(signal.SIGINT, (0,), marks=pytest.mark.pod),
        pytest.param(signal.SIGINT, (1,), marks=pytest.mark.pod),
        pytest.param(signal.SIGINT, (0, 1), marks=pytest.mark.pod),
        (signal.SIGTERM, (1,)),
    ],
)
def test_two_processes_agree_on_the_step(train, tmp_path, number, to):
    """Whichever received the signal, both leave with its exit code, and go on."""

    def pair():
        port = free_port()
        cluster = ("--distributed", "--coordinator", f"localhost:{port}")
        cluster += ("--num-processes", 2, "--process-id")
        return [
            train("inter_prototype", tmp_path, *cluster, index) for index in range(2)
        ]

    saved = [0]
    for _ in range(2):
        workers, last = pair(), saved[0]
        if last:
            assert f"resumed at step {last}" in read_until(workers[0], "resumed")
        read_until(workers[0], f"step {5 * (last // 5 + 1)}/")
        for index in to:
            workers[index].send_signal(number)
        saved = [check_interrupted(worker, number) for worker in workers]
        assert last < saved[0] == saved[1] == max(steps_on_disk(tmp_path))
