"""Inputs of embedders as FRA's authors computed them."""

import jax
import numpy as np
import pytest
from einops import rearrange

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.fra import inputs, stored


class Recorder:
    """A network that returns its input."""

    def apply(self, variables, images):
        del variables
        return rearrange(images, "b h w c -> b (h w c)")


def embedder(monkeypatch, architecture, **spec) -> Embedder:
    monkeypatch.setattr(models, "create", lambda *_, **__: Recorder())
    return Embedder(Network(architecture, {}, {}, InputSpec(**spec)), batch_size=2)


def shown(one: Embedder, images: np.ndarray) -> np.ndarray:
    """Returns the input [B, H, W, 3] of a network."""
    rows = one.apply({}, {"image": images})["embedding"]
    return np.asarray(rows).reshape(len(images), *one.network.input_spec.shape)


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)


def test_resnets_get_blue_first_over_255(monkeypatch):
    one = inputs.published(embedder(monkeypatch, "iresnet100"))
    np.testing.assert_allclose(shown(one, IMAGES), IMAGES[..., ::-1] / 255, rtol=1e-6)


@pytest.mark.parametrize("architecture", ["sphere20", "sphere20a"])
def test_height_and_width_of_spheres_are_exchanged(monkeypatch, architecture):
    plain = embedder(monkeypatch, architecture, crop=(112, 96), scale=128.0)
    one = inputs.published(plain)
    found = shown(one, IMAGES)
    assert found.shape == (2, 96, 112, 3)
    # Bilinear between rows, columns as they are; 112 / 96 pixels for each row.
    y = (np.arange(96) + 0.5) * 112 / 96 - 0.5
    low = np.floor(y).astype(int)
    part = (y - low)[:, None, None]
    rows = IMAGES[:, low] * (1 - part) + IMAGES[:, np.minimum(low + 1, 111)] * part
    np.testing.assert_allclose(found, (rows[..., ::-1] - 127.5) / 128, atol=1e-4)
    assert stored.identity(one) != stored.identity(plain)


def test_a_sphere_runs_on_exchanged_sides():
    model = models.create("sphere20", width=0.125)
    shape = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 112, 96, 3)))
    out = jax.eval_shape(model.apply, shape, np.zeros((1, 96, 112, 3), np.float32))
    assert out.shape == (1, 512)


def test_inputs_follow_the_augmenter_and_are_known_for_few_networks(monkeypatch):
    one = embedder(monkeypatch, "iresnet50")
    assert inputs.as_trained(one, {}) is one
    changed = inputs.as_trained(one, {"faithful_inputs": True})
    assert changed.network.input_spec.colour == "BGR"
    other = embedder(monkeypatch, "mobilefacenet")
    with pytest.raises(UserError, match="of mobilefacenet no published inputs"):
        inputs.published(other)
