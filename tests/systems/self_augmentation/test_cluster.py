"""`fr-jax cluster`: persons of scripted tracklets, mistakes."""

import csv
import json

import cv2
import numpy as np
import pytest

from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from tests.support.networks import random_variables

PERSONS, TRACKS, LENGTH = 3, 4, 3  # per person, per tracklet


def picture(person, size, rng):
    """A plain colour per person, with a little noise."""
    colour = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220)])[person]
    image = colour + rng.integers(-15, 16, (size, size, 3))
    bgr = np.clip(image, 0, 255).astype(np.uint8)[..., ::-1]
    return cv2.imencode(".png", bgr)[1].tobytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "tracks"
    rng = np.random.default_rng(0)
    for name, size in (("aligned", 112), ("crops", 256)):
        records, frame = [], 0
        for track in range(PERSONS * TRACKS):
            for _ in range(LENGTH + (track % PERSONS == 1)):
                image = picture(track % PERSONS, size, rng)
                time = frame / 25
                records.append(Face(image, frame=frame, time=time, shot=0, track=track))
                frame += 1
        builder.build(records, folder, name, size=size)
    return folder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """A small random network: plain colours stay apart."""
    options = {"width": 0.0625, "embedding_size": 16}
    model = models.create("sphere20", **options)
    spec = InputSpec(size=32)
    network = Network("sphere20", options, random_variables(model, spec), spec)
    folder = tmp_path_factory.mktemp("embedder") / "embedder"
    Embedder(network).save(folder)
    return folder


def words(store, embedder, target, *more):
    return ("cluster", store, "--embedder", embedder, "--to", target, *more)


def test_persons_are_found(store, embedder, tmp_path, command):
    target = tmp_path / "persons"
    code, out, error = command(*words(store, embedder, target))
    assert code == 0, error
    assert "12 tracklets of 3 persons" in out
    with (target / "persons.csv").open() as file:
        rows = list(csv.DictReader(file))
    owners = {}
    for row in rows:
        owners.setdefault(row["person"], set()).add(int(row["track"]) % PERSONS)
    assert sorted(owners) == ["0", "1", "2"]
    assert all(len(one) == 1 for one in owners.values())
    assert owners["0"] == {1}  # that with the most faces is the first
    results = json.loads((target / "results.json").read_text())
    assert results["persons"] == results["estimated_persons"] == 3
    assert max(results["silhouettes"].items(), key=lambda pair: pair[1])[0] == "3"
    sheets = sorted(path.name for path in target.glob("person_*.png"))
    assert sheets == ["person_00.png", "person_01.png", "person_02.png"]
    assert (target / "timeline.png").stat().st_size > 1000


def test_the_number_of_persons_can_be_given(store, embedder, tmp_path, command):
    target = tmp_path / "persons"
    code, out, _ = command(*words(store, embedder, target, "--persons", 2))
    assert code == 0 and "12 tracklets of 2 persons" in out
    results = json.loads((target / "results.json").read_text())
    assert (results["persons"], results["estimated_persons"]) == (2, 3)


def test_mistakes_leave_nothing(store, embedder, tmp_path, mistake):
    target = tmp_path / "persons"
    mistake("1 to 12 are possible", *words(store, embedder, target, "--persons", 13))
    mistake("no face records here", *words(tmp_path, embedder, target))
    mistake("use 0 or more", *words(store, embedder, target, "--persons", -1))
    assert not target.exists()
    target.mkdir()
    mistake("exists; choose another --to", *words(store, embedder, target))
