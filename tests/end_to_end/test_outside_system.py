"""A system outside the repository: trained, resumed and evaluated."""

import json
import sys

import numpy as np
import pytest

import fr_jax
from fr_jax import models
from fr_jax.errors import UserError
from tests.support.commands import flags

METHOD = '''
"""Softmax on a linear embedding of pixels; batches of 4 classes x 2 images."""

import os
import signal
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_pipelines.samplers import Sampler
from fr_jax import ArrayStream, InputSpec, Network, System, models
from fr_jax.provenance import Provenance
from fr_jax.system import Input, NetState
from fr_jax.training.data import Streams, TrainingData


class Pixels(nn.Module):
    size: int = 8
    features: int = 16

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.features)(images.reshape(len(images), -1))


models.register("pixels", Pixels)


def make(num_classes, *, num_steps, steps_per_epoch, pretrained, features=16,
         learning_rate=0.1):
    model = models.create("pixels", features=features)
    optimizer = optax.sgd(learning_rate)
    spec = InputSpec(size=8)

    def pixels(batch):
        return batch["image"] / 127.5 - 1

    def init(key, batch, given=None):
        first, second = jax.random.split(key)
        params = {
            "network": model.init(first, pixels(batch))["params"],
            "classes": jax.random.normal(second, (features, num_classes)),
        }
        return NetState.create(params, {}, optimizer)

    def train_step(state, batch, key):
        def cost(params):
            embeddings = model.apply({"params": params["network"]}, pixels(batch))
            logits = embeddings @ params["classes"]
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, batch["label"]
            ).mean()

        loss, gradients = jax.value_and_grad(cost)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        state = NetState(params, {}, opt_state, state.updates + 1)
        return state, {"loss": loss}

    def embed(state, batch):
        variables = {"params": state.params["network"]}
        return {"embedding": model.apply(variables, pixels(batch))}

    def hand_over(state):
        variables = {"params": state.params["network"]}
        options = {"features": features}
        return {"embedding": Network("pixels", options, variables, spec, "embedding")}

    expects = {
        "image": Input(np.uint8, (None, 8, 8, 3)),
        "label": Input(np.int32, (None,), low=0, below=num_classes),
    }
    return System(init, train_step, embed, hand_over, expects=expects)


def four_times_two(seed):
    def numbers(step):
        rng = np.random.default_rng([seed, step])
        classes = rng.choice(6, 4, replace=False)
        images = rng.integers(0, 20, (4, 2))
        return {"image": (20 * classes[:, None] + images).ravel()}

    return Sampler(numbers, batch_size=8, epoch=120)


class Separation:
    """Between-class variance / total variance; sends SIGTERM if `interrupt` exists."""

    metric_names = ("separation",)

    def __init__(self, arrays, interrupt):
        self._arrays, self._interrupt = arrays, interrupt

    def __call__(self, trained):
        if self._interrupt and Path(self._interrupt).exists():
            Path(self._interrupt).unlink()
            os.kill(os.getpid(), signal.SIGTERM)
        embeddings = trained.embed(self._arrays["image"])["embedding"]
        means = embeddings.reshape(6, 20, -1).mean(axis=1)
        return {"separation": float(means.var(0).sum() / embeddings.var(0).sum())}


def load(config, context):
    rng = np.random.default_rng(context.seed)
    label = np.repeat(np.arange(6, dtype=np.int32), 20)
    centres = rng.integers(60, 196, (6, 8, 8, 3))
    noise = rng.integers(-50, 50, (120, 8, 8, 3))
    arrays = {"image": (centres[label] + noise).astype(np.uint8), "label": label}
    evaluator = Separation(arrays, config.interrupt)

    def open_():
        stream = ArrayStream(arrays, four_times_two(context.seed), mesh=context.mesh)
        return Streams(stream, None, [evaluator], [evaluator])

    provenance = Provenance({"noise": list("abcdef")}, {"noise": "none needed"})
    return TrainingData(open_, {"num_classes": 6}, 8, 15.0, provenance, "six classes")
'''
CONFIG = '''
"""The configuration of a package in the same folder."""

from ml_collections import ConfigDict

from configs import run_defaults


def get_config():
    config = ConfigDict(
        {
            "system_name": "outside_package.pixels",
            "system": {"features": 16, "learning_rate": 0.1},
            "data": {"interrupt": ""},
            **run_defaults(epochs=2),
        }
    )
    config.train.save_every = config.train.evaluate_every = 10
    return config
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The configuration file of a package outside sys.path."""
    package = tmp_path / "project/outside_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "pixels.py").write_text(METHOD)
    (tmp_path / "project/config.py").write_text(CONFIG)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "project/config.py"
    models.ARCHITECTURES.pop("pixels", None)
    for name in ("outside_package", "outside_package.pixels"):
        sys.modules.pop(name, None)


def test_outside_system_trains_resumes_and_is_evaluated(command, config, tmp_path):
    workdir, interrupt = tmp_path / "w", tmp_path / "interrupt"
    settings = {"data.interrupt": interrupt}
    words = ("train", f"--config={config}", "--workdir", workdir, *flags(settings))
    interrupt.touch()
    code, _, error = command(*words)
    assert code == 143, error
    assert "is saved in" in error
    assert not (workdir / "embedder").exists()

    code, _, error = command(*words)
    assert code == 0, error
    assert "resumed at step 1" in error  # 10, or 11 if the signal came late
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    evaluated = [row for row in map(json.loads, rows) if "separation" in row]
    assert [row["step"] for row in evaluated] == [10, 20, 30]
    results = json.loads((workdir / "results.json").read_text())
    assert results["separation"] == pytest.approx(evaluated[-1]["separation"], rel=1e-5)
    assert evaluated[-1]["separation"] > evaluated[0]["separation"]

    embedder = fr_jax.load_embedder(workdir / "embedder")
    assert embedder.embed(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 16)
    models.ARCHITECTURES.pop("pixels")  # as in a program that does not import it
    with pytest.raises(
        UserError, match="'pixels' is registered by 'outside_package.pixels'"
    ):
        fr_jax.load_embedder(workdir / "embedder")


def test_interrupted_run_resumes_bit_exactly(command, config, tmp_path):
    interrupt = tmp_path / "interrupt"
    for name in ("whole", "parts"):
        settings = {"data.interrupt": interrupt if name == "parts" else "''"}
        words = ("train", f"--config={config}", "--workdir", tmp_path / name)
        if name == "parts":
            interrupt.touch()
            assert command(*words, *flags(settings))[0] == 143
        assert command(*words, *flags(settings))[0] == 0
    weights = [
        np.load(tmp_path / name / "embedder/weights.npz") for name in ("whole", "parts")
    ]
    for name in weights[0].files:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("outside_package.pixel", "unknown system 'outside_package.pixel'"),
        ("outside_package", "has no function make()"),
    ],
)
def test_package_without_a_system_is_refused(mistake, config, tmp_path, name, match):
    words = ("train", f"--config={config}", "--workdir", tmp_path / "w")
    mistake(match, *words, f"--config.system_name={name}")
    assert not (tmp_path / "w").exists()
