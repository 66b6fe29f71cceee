"""Where the real data are, and how the whole suite runs."""

import gc
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one test or process has compiled the next one finds.
_cache = tempfile.TemporaryDirectory(prefix="fr_jax_xla_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FR_JAX_TEST_DATA", ROOT.parent / "shared/data"))
PARITY = DATA.parent / "parity"

_missing: set[str] = set()


@pytest.fixture(autouse=True)
def strict_ranks():
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def own_heap():
    """Keeps what other tests left in memory out of collections that a test times."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


@pytest.fixture
def command(capsys):
    """Runs a command; returns its exit code, output and errors."""

    from fr_jax.cli import main

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        out, error = capsys.readouterr()
        return left.value.code, out, error

    return run


@pytest.fixture
def mistake(command):
    """Runs a command that must end with code 2 and at most two lines."""

    def run(match, *words):
        code, _, error = command(*words)
        told = [line for line in error.splitlines() if line.startswith("fr-jax: ")]
        assert code == 2, error
        assert match in error
        assert len(told) == 1
        assert "Traceback" not in error
        assert len(error.splitlines()[error.splitlines().index(told[0]) :]) <= 2

    return run


@pytest.fixture(scope="session")
def quick_drawing():
    """Drawing that compiles in a third of the time, and is slow; few at a time."""
    import jax

    from fr_jax.faces import sets, video

    def quick(function, *static):
        options = {"xla_backend_optimization_level": 0}
        function = function.__wrapped__
        return jax.jit(function, static_argnames=static, compiler_options=options)

    with pytest.MonkeyPatch.context() as patch:
        rows = quick(sets.draw_rows, "mesh", "size", "frame", "quality")
        patch.setattr(sets, "draw_rows", rows)
        frame = quick(video._frame, "people", "together", "size", "quality")
        patch.setattr(video, "_frame", frame)
        patch.setattr(sets, "CHUNK", 8)
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """Programs that compile sooner than they would run: for a few steps."""
    from fr_jax.backend import cpu

    quick = {"xla_backend_optimization_level": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "compiler_options", lambda: quick)
        patch.setattr(cpu, "quick_compilation", lambda: quick)
        yield


@pytest.fixture(scope="session")
def real():
    """Returns a function: file name -> its path among the real data, or skips."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"needs real data: {path}")
        return path

    return find


@pytest.fixture(scope="session")
def reference():
    """The module that makes the weights and inputs of the golden outputs."""
    if not PARITY.exists():
        pytest.skip(f"needs real data: {PARITY}")
    sys.path.insert(0, str(PARITY))
    import reference_inputs

    return reference_inputs


def read_npz(path):
    """Returns the arrays of an .npz, which is closed again."""
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden(reference):
    """Returns a function: name -> (state dict, arrays of the golden file)."""

    def load(name: str):
        state = reference.random_state_dict(PARITY / "keys" / f"{name}.keys.txt")
        return state, read_npz(PARITY / "golden" / f"{name}.npz")

    return load


@pytest.fixture(scope="session")
def cfp(real, tmp_path_factory):
    """A folder with the first 20 people of CFP."""
    folder = tmp_path_factory.mktemp("cfp")
    with tarfile.open(real("cfp_aligned112.tar")) as archive:
        wanted = [m for m in archive.getmembers() if m.name[4:7].isdigit()]
        wanted = [m for m in wanted if int(m.name[4:7]) <= 20]
        archive.extractall(folder, wanted, filter="data")
    return folder / "cfp"


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    wanting = [
        report for report in skipped if "needs real data" in str(report.longrepr)
    ]
    terminalreporter.write_line(
        f"{len(wanting)} tests skipped for want of real data in {DATA}"
    )
