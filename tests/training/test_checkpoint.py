"""Checkpoints: the newest undamaged step is restored, bit for bit."""

import errno
import functools
import json
import logging
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint import CheckpointManager

from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.training import step_files
from fr_jax.training.checkpoint import Checkpoints
from fr_jax.training.step_files import MANIFEST, check_layout
from tests.support import toy


def tree(value: float):
    return {"a": jnp.full((300, 40), value), "b": [jnp.int32(value), jnp.ones(3)]}


def like():
    place = sharding.replicated(sharding.make_mesh())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree(0)
    )


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(step, tree(step))
    checkpoints.close()
    return tmp_path / "checkpoints"


def latest(folder):
    checkpoints = Checkpoints(folder)
    restored = checkpoints.latest(like())
    checkpoints.close()
    return restored


def test_a_write_that_fails_at_its_end_is_reported_by_its_cause(tmp_path, monkeypatch):
    """orbax's last thread moves the files to their place; the step is not sealed."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CheckpointManager, "_finalize_checkpoint", full)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, tree(1))
    while checkpoints._manager.is_saving_in_progress():
        time.sleep(0.01)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoints.poll()
    checkpoints.settle()


def test_latest_step_is_restored_bit_for_bit(saved):
    step, restored = latest(saved)
    assert step == 3
    assert toy.same(restored, tree(3))
    assert jax.tree.structure(restored) == jax.tree.structure(tree(3))
    assert latest(saved.parent / "empty") is None


def test_relative_folder_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("runs/one")
    checkpoints.save(1, tree(1))
    checkpoints.close()
    assert latest(tmp_path / "runs/one")[0] == 1


def test_only_the_newest_steps_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(5):
        checkpoints.save(step, tree(step))
    checkpoints.close()
    steps = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert sorted(map(int, steps)) == [3, 4]


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        ((10, 20, 30, 40), {30, 40}),
        ((10, 20, 22, 24), {10, 20, 22, 24}),  # 10 is the last one before 24 - 9
        ((10, 14, 16), {10, 14, 16}),
        ((2, 20, 40), {20, 40}),
    ],
    ids=str,
)
def test_steps_of_the_span_are_kept_and_one_before(tmp_path, steps, kept):
    checkpoints = Checkpoints(tmp_path, keep=1, span=9)
    for step in steps:
        checkpoints.save(step, tree(step))
    checkpoints.close()
    assert {int(path.name) for path in tmp_path.iterdir() if path.is_dir()} == kept


def test_discarded_steps_can_be_saved_again(saved):
    checkpoints = Checkpoints(saved)
    checkpoints.discard_after(1)
    assert checkpoints.latest(like())[0] == 1
    checkpoints.save(2, tree(7))
    checkpoints.close()
    step, restored = latest(saved)
    assert step == 2
    assert toy.same(restored, tree(7))


def flip_bit(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Checkpoints with one undamaged step, and a copy of its folder."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(3, tree(3))
    checkpoints.wait()
    step = folder / "checkpoints/3"
    shutil.copytree(step, folder / "copy")
    yield checkpoints, step, folder / "copy"
    checkpoints.close()


@pytest.fixture
def step(whole):
    """Returns the folder of an undamaged step, and a function returning its damage."""
    _, folder, copy = whole
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    problem = functools.partial(step_files.damage, epath.Path(folder))
    assert problem() == ""
    return folder, problem


def names_of(folder):
    names = step_files.files(epath.Path(folder))
    return [name for name in names if (folder / name).stat().st_size]


@pytest.mark.parametrize("seed", range(50))
def test_flipped_bit_is_detected(step, seed):
    folder, problem = step
    rng = np.random.default_rng(seed)
    names = names_of(folder)
    name = names[rng.integers(len(names))]
    flip_bit(folder / name, rng)
    assert f"{name} was altered" in problem()


@pytest.mark.parametrize("kind", ["truncated", "missing"])
def test_truncated_or_missing_file_is_detected(step, whole, kind):
    folder, problem = step
    names = names_of(folder)
    assert len(names) > 3
    for name in names:
        path, content = folder / name, (folder / name).read_bytes()
        if kind == "truncated":
            path.write_bytes(content[: len(content) // 2])
            assert f"{name} was altered" in problem()
        else:
            path.unlink()
            assert f"{name} is missing" in problem()
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("extra", "x", "extra was added"),
        (MANIFEST, None, "not completely written"),
        (MANIFEST, "{", "Expecting"),
        (MANIFEST, "[1]", ""),
    ],
    ids=["added file", "no manifest", "truncated manifest", "manifest is a list"],
)
def test_other_damage_is_detected(step, name, content, match):
    folder, problem = step
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert problem()
    assert match in problem()


def test_damaged_steps_are_moved_and_the_previous_one_is_restored(saved, caplog):
    flip_bit(saved / "3/_CHECKPOINT_METADATA", np.random.default_rng(0))
    (saved / "2" / MANIFEST).unlink()
    with caplog.at_level(logging.WARNING, "absl"):
        step, restored = latest(saved)
    assert step == 1
    assert toy.same(restored, tree(1))
    assert "checkpoint 3 is damaged (_CHECKPOINT_METADATA was altered)" in caplog.text
    assert "checkpoint 2 is damaged (manifest.json is missing" in caplog.text
    assert sorted(p.name for p in (saved.parent / "damaged").iterdir()) == ["2", "3"]
    # Their numbers can be saved again.
    checkpoints = Checkpoints(saved)
    checkpoints.save(2, tree(22))
    checkpoints.close()
    assert latest(saved)[0] == 2


def test_other_tree_raises_a_one_line_error(saved):
    checkpoints = Checkpoints(saved)
    other = dict(like(), c=jax.ShapeDtypeStruct((2,), jnp.float32))
    with pytest.raises(UserError, match="3 does not fit this configuration") as caught:
        checkpoints.latest(other)
    assert len(str(caught.value).splitlines()) == 1
    checkpoints.close()


def test_error_in_a_background_thread_is_raised(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "a")

    def failing(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fr_jax.training.step_files.sha256", failing)
    checkpoints.save(1, tree(1))
    with pytest.raises(UserError, match="could not write .*No space left on device"):
        checkpoints.wait()


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ({}, ""),
        ({"tmp": None}, ""),
        ({"500": None}, r"0\.1\.0"),
        ({"500": None, "layout": "2"}, r"0\.2\.0"),
        ({"500": None, "layout": "9"}, "of another version"),
        ({"500": None, "layout": "3"}, ""),
        ({"500": "run.json"}, ""),
    ],
    ids=["empty", "no step", "1", "2", "later", "3", "3 without the file layout"],
)
def test_checkpoints_of_another_layout_are_refused(tmp_path, names, version):
    folder = tmp_path / "checkpoints"
    check_layout(folder)  # does not exist yet
    folder.mkdir()
    for name, text in names.items():
        if name == "layout":
            (folder / name).write_text(text)
            continue
        (folder / name).mkdir()
        if text:
            (folder / name / text).write_text("{}")
    if not version:
        check_layout(folder)
        return
    for opening in (check_layout, Checkpoints):
        with pytest.raises(UserError, match=f"fr_jax {version}, .* another") as caught:
            opening(folder)
        assert len(str(caught.value).splitlines()) == 1
    assert (folder / "layout").exists() == ("layout" in names)


def test_manifest_lists_every_file(saved):
    listed = json.loads((saved / "3" / MANIFEST).read_text())
    assert sorted(listed) == step_files.files(epath.Path(saved / "3"))
    assert all(len(digest) == 64 for digest in listed.values())
