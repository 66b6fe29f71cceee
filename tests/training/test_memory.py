"""A state or an update that exceeds the memory: what is needed, what would fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fr_jax.backend import memory, sharding
from fr_jax.errors import UserError
from fr_jax.training.memory import check_state
from tests.support import toy

WIDTH = 4096  # so that an update needs memory in proportion to the rows
STATE = 2 * 192 * 128 * 4  # the toy's weights and momentum


def wide(multiple: int = 1):
    """Returns the toy system with a wide intermediate array for every row."""
    system = toy.make()
    expects = system.expects["label"]._replace(multiple=multiple)

    def train_step(state, batch, key):
        state, metrics = system.train_step(state, batch, key)
        seeds = jnp.arange(WIDTH)[None] * batch["label"][:, None].astype(jnp.float32)
        ordered = jnp.sort(jnp.sin(seeds), axis=1)  # [B, WIDTH], twice in memory
        return state, metrics | {"sum": ordered[:, ::2].sum()}

    return system._replace(
        train_step=train_step, expects=system.expects | {"label": expects}
    )


@pytest.mark.parametrize("multiple", [1, 4])
def test_the_batch_that_would_fit_is_named_and_fits(tmp_path, monkeypatch, multiple):
    limit = 600_000
    monkeypatch.setattr(memory, "free", lambda device: limit)
    match = r"an update with a batch of 64 rows needs ([\d.]+) MB of memory, 0.6 MB are"
    with pytest.raises(UserError, match=match) as raised:
        toy.run(tmp_path, 2, wide(multiple), toy.stream(64))
    assert float(re.search(match, str(raised.value))[1]) > 1
    found = re.search(r"a batch of (\d+) rows needs 0\.\d MB$", str(raised.value))
    rows = int(found[1])
    assert 0 < rows < 64 and rows % multiple == 0
    assert not list(tmp_path.glob("checkpoints/[0-9]*"))
    assert toy.run(tmp_path, 2, wide(multiple), toy.stream(rows)).step == 2


def test_a_batch_of_which_no_part_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: STATE + 4000)
    with pytest.raises(
        UserError, match="use smaller images, a smaller network or more"
    ):
        toy.run(tmp_path, 2, wide(64), toy.stream(64))


def test_a_state_that_cannot_fit_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: STATE // 2)
    match = (
        r"state of the run needs 0.2 MB of memory, 0.1 MB are free: 0.1 MB would fit"
    )
    with pytest.raises(UserError, match=match):
        toy.run(tmp_path, 2)


def test_classifier_rows_over_more_devices_are_a_remedy(monkeypatch):
    mesh = sharding.make_mesh()

    def leaf(rows, *spec):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct((rows, 1000), np.float32, sharding=place)

    monkeypatch.setattr(memory, "free", lambda device: 5_000_000)
    like = {"rows": leaf(2500, "model"), "network": leaf(250)}
    with pytest.raises(UserError, match=r"on 3 devices: --config.train.model_axis=3"):
        check_state(like)
    with pytest.raises(UserError) as raised:
        check_state({"network": leaf(2500)})
    assert "model_axis" not in str(raised.value)


def test_what_is_not_known_is_not_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: None)
    assert toy.run(tmp_path, 2).step == 2
