"""Folders of faces that are written in parts."""

from types import SimpleNamespace

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.faces.files import LabelledFolder


def _folder(target, **options):
    return LabelledFolder(target, options, {}, columns=("number",), dense=False)


def _face(number):
    labels = {"age": 1.0, "yaw": 0, "pitch": 0, "roll": 0, "expression": ""}
    labels |= {"light": 0, "session": 0, "landmarks5": np.zeros((5, 2))}
    source = f"a/{number}.jpg"
    return SimpleNamespace(image=b"jpeg", source=source, identity="a", **labels)


def _interrupted(target, **options):
    with pytest.raises(KeyboardInterrupt), _folder(target, **options) as folder:
        for number in range(3):
            folder.add(_face(number), [number])
        raise KeyboardInterrupt


def test_a_cut_row_is_written_again(tmp_path):
    _interrupted(tmp_path / "faces", seed=1)
    table = tmp_path / "faces.part/labels.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[:-3])
    folder = _folder(tmp_path / "faces", seed=1)
    assert (folder.done, folder.last) == (2, "a/1.jpg")
    with folder:
        folder.add(_face(2), [2])
    names = {path.name for path in (tmp_path / "faces").iterdir()}
    assert names == {"a", "labels.csv"}
    assert (tmp_path / "faces/labels.csv").read_bytes() == whole


def test_images_with_other_options_are_kept(tmp_path):
    _interrupted(tmp_path / "faces", seed=1, shard=(0, 2))
    with pytest.raises(UserError, match="other options: seed is 2, there 1. Repeat"):
        _folder(tmp_path / "faces", seed=2, shard=(0, 2))
    assert _folder(tmp_path / "faces", seed=1, shard=(0, 2)).done == 3


def test_other_folders_are_kept(tmp_path):
    (tmp_path / "faces.part").mkdir()
    (tmp_path / "faces.part/own.txt").write_text("mine")
    with pytest.raises(UserError, match="is no unfinished folder of this command"):
        _folder(tmp_path / "faces", seed=1)
    assert (tmp_path / "faces.part/own.txt").read_text() == "mine"


def test_nothing_is_left_without_rows(tmp_path):
    with pytest.raises(KeyboardInterrupt), _folder(tmp_path / "faces", seed=1):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
