"""Checkpoints: what is restored is what was saved, or an earlier whole one."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.training.checkpoint import MANIFEST, Checkpoints, _files
from tests import toy


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
    found = checkpoints.latest(like())
    checkpoints.close()
    return found


def test_the_latest_comes_back_bit_for_bit(saved):
    step, restored = latest(saved)
    assert step == 3
    assert toy.same(restored, tree(3))
    assert jax.tree.structure(restored) == jax.tree.structure(tree(3))
    assert latest(saved.parent / "empty") is None


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("runs/one")
    checkpoints.save(1, tree(1))
    checkpoints.close()
    assert latest(tmp_path / "runs/one")[0] == 1


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(5):
        checkpoints.save(step, tree(step))
    checkpoints.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [3, 4]


def flip_bit(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def test_every_flipped_bit_truncation_loss_and_addition_is_found(saved, caplog):
    rng = np.random.default_rng(0)
    step = saved / "3"
    whole = saved.parent / "whole"
    shutil.copytree(step, whole)
    checkpoints = Checkpoints(saved)
    names = [name for name in _files(step) if (step / name).stat().st_size]
    assert checkpoints._problem(3) == ""

    def damaged(change, expected):
        shutil.rmtree(step)
        shutil.copytree(whole, step)
        change()
        assert expected in checkpoints._problem(3)

    for _ in range(50):
        name = names[rng.integers(len(names))]
        damaged(lambda name=name: flip_bit(step / name, rng), f"{name} was altered")
    for name in names:
        size = (step / name).stat().st_size
        cut = (step / name).read_bytes()[: size // 2]
        damaged(lambda n=name, c=cut: (step / n).write_bytes(c), f"{name} was altered")
        damaged(lambda n=name: (step / n).unlink(), f"{name} is missing")
    damaged(lambda: (step / "extra").write_text("x"), "extra was added")
    damaged(lambda: (step / MANIFEST).unlink(), "not completely written")
    damaged(lambda: (step / MANIFEST).write_text("{"), "Expecting")
    damaged(lambda: (step / MANIFEST).write_text("[1]"), "")
    checkpoints.close()


def test_a_damaged_latest_gives_way_to_the_one_before_and_says_so(saved, caplog):
    flip_bit(saved / "3/_CHECKPOINT_METADATA", np.random.default_rng(0))
    (saved / "2" / MANIFEST).unlink()
    with caplog.at_level(logging.WARNING, "absl"):
        step, restored = latest(saved)
    assert step == 1
    assert toy.same(restored, tree(1))
    assert "checkpoint 3 is damaged (_CHECKPOINT_METADATA was altered)" in caplog.text
    assert "checkpoint 2 is damaged (manifest.json is missing" in caplog.text
    assert sorted(p.name for p in (saved.parent / "damaged").iterdir()) == ["2", "3"]
    # The steps can be written again.
    checkpoints = Checkpoints(saved)
    checkpoints.save(2, tree(22))
    checkpoints.close()
    assert latest(saved)[0] == 2


def test_a_tree_of_another_shape_is_refused_in_one_line(saved):
    checkpoints = Checkpoints(saved)
    other = dict(like(), c=jax.ShapeDtypeStruct((2,), jnp.float32))
    with pytest.raises(UserError, match="3 does not fit this configuration") as caught:
        checkpoints.latest(other)
    assert len(str(caught.value).splitlines()) == 1
    checkpoints.close()


def test_what_goes_wrong_in_the_background_is_raised(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "a")

    def failing(step):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_digests", failing)
    checkpoints.save(1, tree(1))
    with pytest.raises(UserError, match="could not write .*No space left on device"):
        checkpoints.wait()


def test_manifest_lists_every_file(saved):
    listed = json.loads((saved / "3" / MANIFEST).read_text())
    assert sorted(listed) == _files(saved / "3")
    assert all(len(digest) == 64 for digest in listed.values())
