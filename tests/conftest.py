"""Fixtures that many tests share, and what the suite prints at its end."""

import os
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.support.paths import DATA, PARITY, read_npz

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two workers whose OpenMP threads spin for the same two cores take four times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests, workers and processes share what each of them compiles.
_cache = tempfile.TemporaryDirectory(prefix="fr_jax_xla_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
_SLOWEST = 15  # tests listed at the end


def pytest_configure(config):
    if config.option.durations is None:
        config.option.durations = _SLOWEST


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


@pytest.fixture(autouse=True)
def strict_ranks():
    """Makes implicit rank promotion an error."""
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Makes the intervals of evaluations cheap."""
    monkeypatch.setattr("fr_jax.metrics.intervals.RESAMPLES", 20)


@pytest.fixture
def command(capsys):
    """Returns a function: words of a command -> its exit code, output and errors."""

    from fr_jax.cli.main import main

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        out, error = capsys.readouterr()
        return left.value.code, out, error

    return run


@pytest.fixture
def mistake(command):
    """Returns a function that runs a command with a mistake in it.

    The command must end with code 2 and one message, of at most two lines.
    """

    def run(match, *words):
        code, _, error = command(*words)
        lines = error.splitlines()
        messages = [line for line in lines if line.startswith("fr-jax: ")]
        assert code == 2, error
        assert match in error
        assert len(messages) == 1
        assert "Traceback" not in error
        assert len(lines[lines.index(messages[0]) :]) <= 2

    return run


@pytest.fixture(scope="session")
def quick_drawing():
    """Rendering that compiles in a third of the time, and runs more slowly.

    Eight rows at a time, so that a size, or the labels of a set, are one program.
    """
    import jax
    import numpy as np

    from fr_jax.faces import sets, video

    rows, options = 8, {"xla_backend_optimization_level": 0}

    def quick(function, *static):
        function = getattr(function, "__wrapped__", function)
        return jax.jit(function, static_argnames=static, compiler_options=options)

    label_rows = quick(sets.label_rows, "face_set")

    def label(face_set, key, *numbers):
        count = len(numbers[0])
        starts = range(0, count, rows)
        padded = [np.pad(column, (0, -count % rows), "edge") for column in numbers]
        parts = [
            label_rows(face_set, key, *(column[n : n + rows] for column in padded))
            for n in starts
        ]
        return jax.tree.map(lambda *fields: np.concatenate(fields)[:count], *parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sets, "_labeller", lambda: label)
        drawn = quick(sets.render_rows, "mesh", "size", "frame", "quality")
        patch.setattr(sets, "render_rows", drawn)
        frame = quick(video._frame, "num_identities", "together", "size", "quality")
        patch.setattr(video, "_frame", frame)
        patch.setattr(sets, "CHUNK", rows)
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """Training programs without optimisation: for runs of a few steps."""
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
    """Returns the module that makes the weights and inputs of the golden outputs."""
    if not PARITY.exists():
        pytest.skip(f"needs real data: {PARITY}")
    sys.path.insert(0, str(PARITY))
    import reference_inputs

    return reference_inputs


@pytest.fixture(scope="session")
def golden(reference):
    """Returns a function: name -> (state dict, arrays of the golden file)."""

    def load(name: str):
        state = reference.random_state_dict(PARITY / "keys" / f"{name}.keys.txt")
        return state, read_npz(PARITY / "golden" / f"{name}.npz")

    return load


@pytest.fixture(scope="session")
def cfp(real, tmp_path_factory):
    """Returns a folder with the first 20 identities of CFP."""
    folder = tmp_path_factory.mktemp("cfp")
    with tarfile.open(real("cfp_aligned112.tar")) as archive:
        wanted = [m for m in archive.getmembers() if m.name[4:7].isdigit()]
        wanted = [m for m in wanted if int(m.name[4:7]) <= 20]
        archive.extractall(folder, wanted, filter="data")
    return folder / "cfp"


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    missing = [r for r in skipped if "needs real data" in str(r.longrepr)]
    terminalreporter.write_line(
        f"{len(missing)} tests skipped: they need real data in {DATA}"
    )
