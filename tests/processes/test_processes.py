"""Killed runs, several processes and several devices, in processes of their own."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.processes import (
    finish,
    kill_until_done,
    start,
    start_two,
    steps_on_disk,
)

pytestmark = pytest.mark.xdist_group("processes")  # share `whole`


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The output of an uninterrupted run of 60 steps."""
    return finish(start(tmp_path_factory.mktemp("whole"), 60))


def test_run_killed_at_random_moments_resumes_bit_exactly(tmp_path, whole):
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    killed = kill_until_done(tmp_path, 60, 3, random.Random(seed))
    assert killed["digest"] == whole["digest"]
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(5, 61, 5))


def close(a, b, tolerance):
    """Whether the relative distance of the weights of two runs is within tolerance."""
    a, b = np.array(a["weights"]), np.array(b["weights"])
    return np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("devices", "model"), [pytest.param(8, 1, marks=pytest.mark.long), (8, 4)]
)
def test_eight_devices_train_as_one(tmp_path, whole, devices, model):
    many = finish(start(tmp_path, 60, "--model", model, devices=devices))
    assert close(many, whole, 1e-3)


@pytest.mark.parametrize("model", [pytest.param(1, marks=pytest.mark.long), 2])
def test_two_processes_train_as_one_and_their_checkpoint_fits_one(
    tmp_path, whole, model
):
    both = [finish(p) for p in start_two(tmp_path, 30, "--model", model, devices=2)]
    assert both[0]["digest"] == both[1]["digest"]
    alone = finish(start(tmp_path, 60))
    assert alone["step"] == 60
    assert close(alone, whole, 1e-3)


@pytest.fixture(scope="session")
def rolled_back(tmp_path_factory):
    """The output of a run with bad batches, which are left out by a rollback."""
    return finish(start(tmp_path_factory.mktemp("rolled_back"), 90, *BAD))


BAD = ("--bad", 53, 58)


@pytest.mark.long
def test_run_killed_around_a_rollback_resumes_bit_exactly(tmp_path, rolled_back):
    killed = kill_until_done(tmp_path, 90, 12, random.Random(0), *BAD)
    assert killed["digest"] == rolled_back["digest"]


@pytest.mark.long
@pytest.mark.parametrize("model", [1, 2])
def test_two_processes_roll_back_as_one(tmp_path, rolled_back, model):
    pair = start_two(tmp_path, 90, "--model", model, *BAD, devices=2)
    both = [finish(process) for process in pair]
    assert both[0]["digest"] == both[1]["digest"]
    assert both[0]["step"] == 90
    assert close(both[0], rolled_back, 1e-3)


@pytest.mark.long
def test_momentum_contrast_is_equal_on_one_and_two_processes(tmp_path):
    """Keys are gathered across processes; the queue is sharded between them."""
    alone = finish(start(tmp_path / "one", 6, "--contrast"))
    pair = start_two(tmp_path / "two", 6, "--contrast", "--model", 2)
    both = [finish(process) for process in pair]
    assert both[0]["digest"] == both[1]["digest"]
    assert close(both[0], alone, 1e-3)


@pytest.mark.long
def test_sigterm_to_one_process_saves_the_same_step_on_both(tmp_path):
    pair = start_two(tmp_path, 2000, "--slow", 0.02, "--save-every", 1000)
    deadline = time.monotonic() + 300
    while not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.05)
        if pair[1].poll() is not None or time.monotonic() > deadline:
            pair[0].kill()
            pair[1].kill()
            pytest.fail(pair[1].communicate()[1][-3000:])
    pair[1].send_signal(signal.SIGTERM)
    results = [finish(process) for process in pair]
    assert results[0]["digest"] == results[1]["digest"]
    assert 0 < results[0]["step"] == results[1]["step"] < 1000
    assert steps_on_disk(tmp_path) == [results[0]["step"]]


@pytest.mark.long
def test_second_training_is_refused_until_the_first_is_killed(tmp_path, whole):
    """All processes of the second are; the next one takes the lock over."""
    finish(start(tmp_path, 30))
    first = start(tmp_path, 60, "--slow", 3600)  # waits for its first batch
    lock, name = tmp_path / "lock", f"process {first.pid} on {socket.gethostname()}"
    while first.poll() is None and not (lock.exists() and lock.read_text() == name):
        time.sleep(0.05)
    others = (start(tmp_path, 60), *start_two(tmp_path, 60))
    errors = [process.communicate(timeout=600)[1] for process in others]
    assert [process.returncode for process in others] == [1, 1, 1]
    for error in errors:
        assert f"{tmp_path} is in use by {name}" in error
    assert first.poll() is None
    first.kill()
    first.communicate()
    assert lock.read_text() == name
    assert finish(start(tmp_path, 60))["digest"] == whole["digest"]
    assert not lock.exists()


@pytest.mark.long
def test_two_processes_refuse_another_run(tmp_path):
    finish(start(tmp_path, 10))
    steps = steps_on_disk(tmp_path)
    pair = start_two(tmp_path, 20, "--contrast")
    errors = [process.communicate(timeout=600)[1] for process in pair]
    assert all("holds another run (" in error for error in errors)
    assert [process.returncode for process in pair] == [1, 1]
    assert steps_on_disk(tmp_path) == steps


# A limit of 20 kB a file acts as a full disk.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.argv = ['subject', sys.argv[1], '60']
from fr_jax.errors import UserError
from tests.support.subject import main
try:
    main()
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.long
def test_full_disk_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    finish(start(tmp_path, 10))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"},  # writes files, too
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if "could not write to" in line]
    assert len(lines) == 1
    after = done.stderr.partition("could not write to")[2]
    assert "never retrieved" not in after and "never awaited" not in after
    assert "/orbax/" not in done.stderr  # no traceback of its threads
    assert 10 in steps_on_disk(tmp_path)
    assert finish(start(tmp_path, 60))["step"] == 60
