"""FRA's photographs: alignment and conversion in the workdir, landmarks of crops."""

import json

import numpy as np
import pytest

from data_pipelines.record_set import RecordSet
from data_pipelines.vision import align, detect
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.errors import UserError
from fr_jax.systems.fra import photographs
from fr_jax.training.data import Context
from tests.support.faces import encoded, picture
from tests.support.fra import Regressor


def test_points_are_found_in_pixels_of_the_image_by_two_crops():
    """A bright spot beside the centre is in the middle of the second crop."""
    images = np.zeros((3, 112, 112, 3), np.uint8)
    spots = np.array([[60, 50], [30, 80], [85, 61]])
    for image, (x, y) in zip(images, spots):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    regressor = Regressor(radius=30.0)
    found = photographs.points(regressor, images)
    assert found.shape == (3, 68, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=1), spots, atol=0.5)
    first, second = regressor.calls
    assert first.shape == second.shape == (3, 112, 112, 3)
    for crop in second:
        y, x = np.argwhere(crop[..., 0] > 128).mean(axis=0)
        assert abs(x - 55.5) < 2 and abs(y - 63) < 2  # the box is raised by a quarter
    # Radii are shares of the crops' sides, of 1.3 times the first ring's box.
    side = 1.3 * 1.25 * 2 * 30 * 1.3 * 108 / 112
    radius = np.linalg.norm(found - found.mean(axis=1, keepdims=True), axis=2)
    np.testing.assert_allclose(radius, 30 * side / 112, rtol=0.02)
    assert photographs.points(regressor, images[:0]).shape == (0, 68, 2)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """The preparation of six photographs; the detector finds no face in one of them."""
    source = tmp_path / "cmu_faces"
    source.mkdir()
    poses = ("left", "right", "straight", "up")
    names = [f"an2i_{pose}_sad_open" for pose in poses] + ["bo_up_sad_open_4", "notes"]
    for number, name in enumerate(names):
        image = picture(60, 60, seed=number)
        (source / f"{name}.png").write_bytes(encoded(".png", image))
    (source / "bo_left_sad_open.bad").write_bytes(encoded(".png"))
    detector = tmp_path / "yunet.onnx"
    detector.write_bytes(b"a detector")
    dark = picture(60, 60, seed=3)
    calls = []

    class YuNet:
        def __init__(self, path):
            assert path == str(detector)

        def __call__(self, image):
            calls.append(image.shape)
            if image.shape == dark.shape and (image == dark).all():
                return []
            points = align.template(56)
            return [detect.Detection(np.array([5.0, 5, 40, 50]), points, 0.9)]

    monkeypatch.setattr(detect, "YuNet", YuNet)
    monkeypatch.setattr(detect, "detect_or_pad", lambda yunet, image: yunet(image))

    def prepared(given=None, workdir=tmp_path / "run", **changes):
        settings = {"path": source, "layout": "cmu", "detector": detector} | changes
        overrides = [(f"data.photographs.{n}", str(x)) for n, x in settings.items()]
        options = configs.load("fra:cmu", overrides).data.photographs
        context = Context(sharding.make_mesh(), pretrained=given or {})
        calls.clear()
        context = context._replace(workdir=str(workdir))
        return *photographs.to_records(options, context), len(calls)

    return prepared


def test_photographs_become_records_once(prepare, tmp_path, capsys):
    regressor = Regressor()
    path, left_out, searched = prepare({"landmarks": regressor})
    assert searched == 6
    assert left_out == {
        "files: images marked .bad": 1,
        "photographs without a face": 1,
        "smaller copies": 1,
        "images not named as those of CMU Face Images": 1,
    }
    records = RecordSet(path)
    assert (len(records), records.name, records.size) == (3, "cmu_faces", 112)
    faces = list(records.faces(np.arange(3)))
    assert [face.yaw for face in faces] == [-45, 45, 0]
    assert all(face.landmarks68.shape == (68, 2) for face in faces)
    assert "left out, not named" in capsys.readouterr().err
    # Again: nothing is searched. Another regressor: all is, and a line names both.
    again = Regressor()
    assert prepare({"landmarks": again}) == (path, left_out, 0) and not again.calls
    assert "are reused" in capsys.readouterr().err
    other = prepare()
    assert other[2] == 6
    assert "landmarks landmark_regressor" in (err := capsys.readouterr().err)
    assert err.count("; now of files") == 1
    assert not len(next(iter(RecordSet(other[0]).faces(np.arange(1)))).landmarks68)
    (tmp_path / "run/photographs_aligned/origin.json").write_text(
        json.dumps({"origin": 3})
    )
    assert prepare()[2] == 6  # damaged: done again


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("give the folder of photographs: --config", {"path": ""}),
        ("photographs.detector=FILE", {"detector": ""}),
        ("layout 'cmuf'; did you mean 'cmu'", {"layout": "cmuf"}),
        ("need.* a local workdir", {"workdir": ""}),
        ("need.* a local workdir", {"workdir": "gs://runs/one"}),
    ],
)
def test_unsuitable_options_are_refused(prepare, match, changes):
    with pytest.raises(UserError, match=match):
        prepare(**changes)
