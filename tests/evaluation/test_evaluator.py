"""What evaluators see: networks built on first access."""

import numpy as np
import pytest

from fr_jax import models
from fr_jax.evaluation.evaluator import LazyNetworks, Trained
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from tests.support.networks import random_variables


@pytest.fixture
def lazy():
    """Lazy networks of a run, and a list with an item per call of their function."""
    calls = []

    def make():
        calls.append(1)
        options = {"width": 0.125, "embedding_size": 8, "stage_sizes": [1, 1]}
        variables = random_variables(models.create("iresnet18", **options), 16)
        spec = InputSpec(size=16)
        return {"embedding": Network("iresnet18", options, variables, spec)}

    return LazyNetworks(make), calls


@pytest.mark.parametrize(
    "access",
    [
        lambda networks: networks["embedding"],
        list,
        len,
        lambda networks: "embedding" in networks,
        lambda networks: networks.get("other"),
    ],
    ids=["item", "names", "length", "membership", "get"],
)
def test_networks_are_built_once_on_first_access(lazy, access):
    networks, calls = lazy
    trained = Trained(None, networks)
    assert not calls
    access(trained.networks)
    assert calls == [1]
    assert trained.networks["embedding"] is trained.networks["embedding"]
    assert calls == [1]


def test_networks_are_embedders(lazy):
    networks, _ = lazy
    faces = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    assert networks["embedding"].embed(faces).shape == (3, 8)
    assert list(networks) == ["embedding"]
    with pytest.raises(KeyError):
        networks["generator"]
