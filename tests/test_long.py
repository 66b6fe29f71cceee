"""Longer checks, before a release: `make test-long`."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.test_cli import CONFIG, TINY
from tests.test_processes import finish, free_port, kill_until_done, start

pytestmark = pytest.mark.long


def test_twenty_kills_change_no_bit(tmp_path):
    whole = finish(start(tmp_path / "whole", 150))
    killed = kill_until_done(tmp_path / "killed", 150, 20, random.Random(0))
    assert killed["digest"] == whole["digest"]


def test_the_command_line_trains_on_two_processes(tmp_path):
    """What a pod runs: one claim, one embedder, one set of results."""
    port = free_port()
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "fr_jax", "train"),
                *(f"--config={CONFIG}:smoke", "--workdir", str(tmp_path / "w")),
                *("--distributed", "--coordinator", f"localhost:{port}"),
                *("--num-processes", "2", "--process-id", str(index)),
                *TINY,
            ],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    told = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    assert "results:" in told[0][0]
    assert "results:" not in told[1][0]
    results = json.loads((tmp_path / "w/results.json").read_text())
    assert 0 <= results["strangers/accuracy"] <= 1
    assert (tmp_path / "w/embedder/weights.npz").exists()


def test_the_smoke_configuration_learns(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fr_jax", "train"),
            *(f"--config={CONFIG}:smoke", "--workdir", str(tmp_path)),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["strangers/accuracy"] > 0.9  # chance: 0.5


def test_the_real_checkpoint_scores_as_its_onnx_network(real, tmp_path):
    """Flip-sum, ten folds; both scores were measured with onnxruntime."""
    sets = {"lfw": 0.9883, "cfp_fp": 0.8391}
    for arguments in (
        ("import", str(real("weights/mobilefacenet.pt")), "--to", str(tmp_path / "e")),
        (
            *("evaluate", "--embedder", str(tmp_path / "e"), "--to", str(tmp_path)),
            *(f"--set={name}={real(name + '.bin')}" for name in sets),
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fr_jax", *arguments],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    for name, accuracy in sets.items():
        assert abs(results[f"{name}/accuracy"] - accuracy) < 0.0005
