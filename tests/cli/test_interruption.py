"""Interrupted commands: exit code, one line, and no file that is half-written."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import records
from data_pipelines.vision import align, detect
from fr_jax import interrupt
from fr_jax.cli import embed
from fr_jax.faces import files as face_files
from fr_jax.faces import sets
from fr_jax.report import figures
from tests.support.faces import encoded
from tests.support.processes import ended, run_command, wait_for_handlers


def left_over(folder: Path) -> list[str]:
    """The names of temporary files and folders."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.endswith(".part") or path.name.startswith("incomplete")
    ]


def interrupted_after(calls: int, function):
    """Returns `function`, of which a later call is interrupted."""
    remaining = iter(range(calls))

    def stop(*arguments, **options):
        if next(remaining, None) is None:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return stop


class Detector:
    """Finds the template in every image."""

    def __init__(self, path):
        pass

    def __call__(self, image):
        points = align.template()
        return [detect.Detection((0, 0, 112, 112), points, 0.9)]


EVALUATE = ("evaluate", "--embedder", "{embedder}", "--set=toy={bin}", "--to", "{to}")
VIDEO = ("--set=video", "--shots=1", "--shot-frames=6", "--frame-size=160x120")
SMALL = ("--size=32", "--quality=fast", "--identities=3")
COMMANDS = {
    "convert": ("data", "convert", "{faces}", "--to", "{to}", "--name=mine"),
    "align": ("data", "align", "{faces}", "--to", "{to}", "--detector=d.onnx"),
    "embed": ("embed", "{faces}", "--embedder", "{embedder}", "--to", "{to}.npz"),
    "evaluate": EVALUATE,
    "records": ("faces", "render", "--to", "{to}", "--format=records", *SMALL),
    "video": ("faces", "render", "--to", "{to}", *SMALL[1:], *VIDEO),
}


@pytest.mark.usefixtures("quick_drawing")
@pytest.mark.xdist_group("drawn")
@pytest.mark.parametrize(
    ("name", "module", "function", "calls"),
    [
        ("convert", records, "encode", 5),
        ("align", align, "crop", 5),
        ("embed", embed.np, "savez", 0),
        pytest.param(
            *("evaluate", figures.Figure, "savefig", 0), marks=pytest.mark.long
        ),
        ("records", face_files, "jpeg", 10),
        pytest.param(*("video", face_files, "jpeg", 5), marks=pytest.mark.long),
    ],
)
def test_an_interrupted_command_leaves_nothing_half_written(
    command,
    embedder,
    identities,
    verification_bin,
    monkeypatch,
    tmp_path,
    name,
    module,
    function,
    calls,
):
    monkeypatch.setattr(detect, "YuNet", Detector)
    to = tmp_path / "to"
    places = {"faces": identities, "embedder": embedder, "to": to}
    places["bin"] = verification_bin
    words = [word.format(**places) for word in COMMANDS[name]]
    with monkeypatch.context() as patch:
        stop = interrupted_after(calls, getattr(module, function))
        patch.setattr(module, function, stop)
        code, _, error = command(*words)
    assert code == 130, error
    assert error.splitlines()[-1] == f"fr-jax: {interrupt.TEXT}"
    assert "Traceback" not in error
    assert left_over(tmp_path) == []
    assert not list(tmp_path.rglob("*.png")) and not to.with_suffix(".npz").exists()
    assert name == "evaluate" or not list(tmp_path.rglob("*.[a-z]*"))
    code, _, error = command(*words)
    assert code == 0, error
    assert left_over(tmp_path) == []


# --- processes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_faces(tmp_path_factory):
    """Two thousand faces of forty identities, so that commands take a while."""
    root = tmp_path_factory.mktemp("many")
    faces = sets.arrays(sets.default(20.0), num_identities=10, images=1)
    images = [encoded(image=face) for face in faces["image"]]
    for number in range(2000):
        path = root / f"p{number // 50}" / f"{number % 50}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images[number % 10])
    return root


@pytest.fixture(scope="module")
def detector(real):
    return real("weights/face_detection_yunet_2026may.onnx")


SLOW = ("--size=64", "--identities=40", "--images-per-identity=20")
PROCESSES = COMMANDS | {
    "align": ("data", "align", "{faces}", "--to", "{to}", "--detector={detector}"),
    "records": ("faces", "render", "--to", "{to}", "--format=records", *SLOW),
    "folder": ("faces", "render", "--to", "{to}", *SLOW),
}
FINISHED = {  # files of the complete result
    "convert": ["mine/1.0.0/index.npz"],
    "align": ["alignment.csv"],
    "embed": ["../to.npz"],
    "evaluate": ["results.json", "figures/roc.png", "figures/cosines.png"],
    "records": ["default/1.0.0/index.npz"],
    "video": ["group.mp4", "group_tracks.csv"],
    "folder": ["labels.csv"],
}


@pytest.mark.pod
@pytest.mark.parametrize("name", FINISHED)
def test_signals_at_random_moments_of_a_process(
    request, embedder, many_faces, verification_bin, tmp_path, name
):
    """Whatever the moment: the code, one line, and all of the result or nothing."""
    to, seed = tmp_path / "to", random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    places = {"faces": many_faces, "embedder": embedder, "to": to}
    places["bin"] = verification_bin
    if name == "align":
        places["detector"] = request.getfixturevalue("detector")
    words = [word.format(**places) for word in PROCESSES[name]]
    started = time.monotonic()
    process = run_command(*words)
    code, error = ended(process)
    assert code == 0, error
    duration = time.monotonic() - started
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        shutil.rmtree(to, ignore_errors=True)
        to.with_suffix(".npz").unlink(missing_ok=True)
        process = run_command(*words)
        wait_for_handlers(process)
        time.sleep(rng.uniform(0, 0.9 * duration))
        process.send_signal(number)
        code, error = ended(process)
        lines = [line for line in error.splitlines() if line.startswith("fr-jax: ")]
        whole = all(os.path.exists(os.path.normpath(to / f)) for f in FINISHED[name])
        if code:
            assert code == 128 + number, error
            assert len(lines) == 1 and "interrupted: " in lines[0], error
        assert "Traceback" not in error and "terminate called" not in error, error
        assert whole or code
        if name == "evaluate":  # each of its files is whole or absent
            whole = False
        elif not whole:
            assert not to.with_suffix(".npz").exists()
            kept = ["to.part"] if name == "folder" else []
            assert set(left_over(tmp_path)) <= set(kept), error
            assert name == "folder" or not any(p.is_file() for p in to.rglob("*"))
    code, error = ended(run_command(*words)) if not whole else (0, "")
    assert code == 0, error
    assert left_over(tmp_path) == []
    if name == "embed":
        with np.load(to.with_suffix(".npz")) as stored:
            assert stored["embeddings"].shape == (2000, 8)
