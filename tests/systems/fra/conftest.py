"""Fixtures of FRA's tests: records, and data loaded from them."""

import pytest

from data_pipelines.builders import faces as builder
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.systems import fra
from fr_jax.training.data import Context
from tests.support.fra import RECORD_SIZE, FivePixels, lacking, some_faces


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    return {
        name: str(builder.build(faces, root, name, size=RECORD_SIZE, licence="mine")[0])
        for name, faces in (("some", some_faces()), ("lacking", lacking()))
    }


@pytest.fixture
def load(records):
    def loaded(variant="faces", embedder=None, workdir="", given=None, **changes):
        settings = {
            "source": "records",
            "records.path": records["some"],
            "split.validation_identities": 3,
            "split.held_out": 1,
            "batch_size": 16,
            "num_tuples": 64,
        }
        settings |= {name.replace("__", "."): x for name, x in changes.items()}
        overrides = [(f"data.{name}", str(value)) for name, value in settings.items()]
        config = configs.load(f"fra:{variant}", overrides)
        context = Context(
            sharding.make_mesh(),
            pretrained={"embedder": embedder or FivePixels()} | (given or {}),
            workdir=str(workdir),
        )
        return fra.load(config.data, context)

    return loaded
