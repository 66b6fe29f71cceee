"""Test modules run as programs with eight devices."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.support.paths import ROOT


def on_eight_devices(module: str, *arguments: object) -> Any:
    """Runs a test module as a program with eight devices; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(repr, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
