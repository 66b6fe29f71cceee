"""Fixtures of several commands: a weight file, its embedder, folders of faces."""

import pickle

import numpy as np
import pytest

import fr_jax
from fr_jax import models
from fr_jax.convert import to_state_dict
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables

OPTIONS = {"width": 0.125, "embedding_size": 8}


@pytest.fixture(scope="session")
def weight_file(tmp_path_factory):
    """A small network with the tensor names of arcface_torch, in an .npz."""
    variables = random_variables(models.create("iresnet18", **OPTIONS), 32)
    path = tmp_path_factory.mktemp("published") / "net.npz"
    np.savez(path, **to_state_dict(variables, "arcface_torch"))
    return path


@pytest.fixture(scope="session")
def embedder(weight_file, tmp_path_factory):
    """The folder of the embedder imported from `weight_file`."""
    path = tmp_path_factory.mktemp("imported") / "net"
    fr_jax.import_weights(weight_file).save(path)
    return path


@pytest.fixture(scope="session")
def identities(tmp_path_factory):
    """Six identities with three faces of 112 x 112 each, <identity>/<number>.jpg."""
    root = tmp_path_factory.mktemp("identities")
    for number in range(18):
        path = root / f"p{number // 3}" / f"{number % 3}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(image=picture(112, 112, number)))
    return root


@pytest.fixture(scope="session")
def verification_bin(tmp_path_factory):
    """Forty pairs of faces in insightface's .bin."""
    images = [encoded(image=picture(112, 112, n // 2)) for n in range(80)]
    path = tmp_path_factory.mktemp("pairs") / "toy.bin"
    path.write_bytes(pickle.dumps((images, [True, False] * 20)))
    return path
