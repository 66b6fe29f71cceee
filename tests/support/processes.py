"""Training in processes of its own: `tests.support.subject` and `fr-jax train`."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

Process = subprocess.Popen[str]


def _started(words: list[str], **environment: str) -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(workdir: Path, steps: int, *options: object, devices: int = 1) -> Process:
    """Starts `tests.support.subject`."""
    words = ["tests.support.subject", str(workdir), str(steps), *map(str, options)]
    flags = f"--xla_force_host_platform_device_count={devices}"
    return _started(words, XLA_FLAGS=flags)


def start_two(
    workdir: Path, steps: int, *options: object, devices: int = 1
) -> list[Process]:
    """Starts two processes that train as one."""
    port = free_port()
    return [
        start(workdir, steps, "--processes", index, 2, port, *options, devices=devices)
        for index in range(2)
    ]


def start_training(*words: object) -> Process:
    """Starts `fr-jax train`."""
    return _started(["fr_jax", "train", *map(str, words)])


def finish(process: Process) -> Any:
    """Waits for `tests.support.subject`; returns its printed result."""
    try:
        out, error = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, error[-3000:]
    return json.loads(out.splitlines()[-1])


def free_port() -> int:
    """Returns a free port of localhost."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def steps_on_disk(workdir: Path) -> list[int]:
    """Returns the steps of complete checkpoints."""
    return [
        int(p.parent.name) for p in (workdir / "checkpoints").glob("*/manifest.json")
    ]


def wait_for_step(process: Process, workdir: Path, step: int) -> None:
    """Waits until the checkpoint of a step is complete or the process has ended."""
    deadline = time.monotonic() + 300
    while max(steps_on_disk(workdir), default=0) < step:
        if process.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.02)


def kill_until_done(
    workdir: Path, steps: int, kills: int, rng: random.Random, *options: object
) -> Any:
    """Kills a run at random moments, then lets it finish; returns its result."""
    for _ in range(kills):
        process = start(workdir, steps, "--slow", 0.02, *options)
        # Only kills during training count; earlier ones would hit the imports.
        reached = max(steps_on_disk(workdir), default=0)
        wait_for_step(process, workdir, reached + 1)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
    return finish(start(workdir, steps, *options))


def run_command(*words: object, **environment: str) -> Process:
    """Starts any command of `fr-jax`."""
    return _started(["fr_jax", *map(str, words)], **environment)


def read_until(process: Process, text: str) -> str:
    """Returns the errors of a process up to the line that contains a text, or all."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            break
    return "".join(lines)


def ended(process: Process) -> tuple[int, str]:
    """Waits until a process ends; returns its exit code and the rest of its errors."""
    assert process.stderr is not None
    with process:
        try:
            rest = process.stderr.read()
            return process.wait(timeout=300), rest
        finally:
            process.kill()


def wait_for_handlers(process: Process) -> None:
    """Waits until a program handles SIGTERM, which Python alone does not."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE)
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
