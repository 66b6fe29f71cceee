"""RandAugment on the device against the host's, which equals Pillow's exactly."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp

from data_pipelines.vision import rand_augment as randaugment
from fr_jax import augment
from fr_jax.augment import rand_augment
from tests.support.faces import pictures
from tests.support.paths import ROOT

# Rounded once instead of twice, or divided in whole numbers: one level, rarely.
ROUNDED = ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast")
apply = jax.jit(rand_augment.apply)


@pytest.mark.parametrize("name", rand_augment.OPERATIONS)
def test_every_bin_matches_the_host(name):
    kind = rand_augment.OPERATIONS.index(name)
    settings = [(n, s) for n in range(1, 17) for s in (1, -1)]
    numbers, signs = np.array(settings, np.int32).T
    for image in pictures()[:4] + pictures()[-1:]:
        batch = np.broadcast_to(image.astype(np.int32), (32, *image.shape))
        actual = np.asarray(apply(batch, np.full(32, kind), numbers, signs))
        expected = np.stack(
            [randaugment.apply(name, image, n, s) for n, s in settings]
        ).astype(int)
        off = np.abs(actual - expected)
        if name in ROUNDED:
            assert off.max() <= 1
            assert (off > 0).mean() < 0.05  # most of it where an image is of one colour
        else:
            np.testing.assert_array_equal(actual, expected)


def test_operations_and_draws_match_the_host():
    assert rand_augment.OPERATIONS == randaugment.OPERATIONS
    keys = augment.example_keys(jax.random.key(0), jnp.arange(4000, dtype=jnp.uint32))
    seen = []

    def record(pixels, kind, number, sign):
        seen.append(np.stack([kind, number, sign]))
        return pixels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rand_augment, "apply", record)
        rand_augment.rand_augment(keys, jnp.zeros((4000, 2, 2, 3)), num_ops=3)
    draws = np.concatenate(seen, axis=1)
    assert draws.shape == (3, 12_000)
    for row, values in zip(draws, (range(13), range(1, 17), (-1, 1))):
        actual, counts = np.unique(row, return_counts=True)
        assert actual.tolist() == list(values)
        assert np.abs(counts * len(values) / 12_000 - 1).max() < 0.15
    assert abs(np.corrcoef(draws)[np.triu_indices(3, 1)]).max() < 0.05


def test_a_row_depends_on_its_key_alone():
    images = np.stack([pictures()[2][:48, :48]] * 24).astype(np.float32)
    keys = augment.example_keys(jax.random.key(0), jnp.arange(24, dtype=jnp.uint32))
    policy = (("rand_augment", {"num_ops": 2}),)
    function = jax.jit(lambda keys, images: augment.augment(keys, images, policy))
    out = np.asarray(function(keys, images))
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_array_equal(function(keys[order], images[order]), out[order])
    assert out.dtype == np.float32 and (out == np.round(out)).all()
    assert out.min() >= 0 and out.max() <= 255
    assert 15 < (out != images).any(axis=(1, 2, 3)).sum() <= 24


def test_mean_and_spread_of_many_views_match_the_host():
    """The same distribution: mean and spread over 1,500 views of one picture."""
    image = pictures()[2][40:72, 40:72]
    keys = augment.example_keys(jax.random.key(3), jnp.arange(1500, dtype=jnp.uint32))
    batch = jnp.broadcast_to(image.astype(np.float32), (1500, *image.shape))
    there = np.asarray(jax.jit(rand_augment.rand_augment)(keys, batch))
    here = np.stack(
        [
            randaugment.augment(image, np.random.default_rng(n), flip=0.0)
            for n in range(1500)
        ]
    ).astype(float)
    for measure in (np.mean, np.std):
        one, other = measure(there, axis=0), measure(here, axis=0)
        assert np.abs(one - other).mean() < 3
    assert ks_2samp(there.mean((1, 2, 3)), here.mean((1, 2, 3))).statistic < 0.07


CUT = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from fr_jax import augment
from fr_jax.backend import sharding
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
images = np.random.default_rng(0).uniform(0, 255, (16, 12, 12, 3)).astype("float32")
seeds = np.arange(16, dtype=np.uint32)
policy = (("flip", {}), ("rand_augment", {"num_ops": 3}))
def views(images, seeds):
    keys = augment.example_keys(jax.random.key(0), seeds)
    moved = sharding.rows_over_data(2 * augment.augment(keys, images, policy)[::-1])
    return moved / 2
rows = NamedSharding(mesh, PartitionSpec("data"))
cut = jax.jit(views)(*jax.device_put((images, seeds), rows))
assert cut.sharding.shard_shape(cut.shape)[0] == 4, cut.sharding
np.testing.assert_array_equal(cut, jax.jit(views)(images, seeds))
print("same")
"""


def test_sharded_batches_have_the_same_result_and_stay_sharded():
    done = subprocess.run(
        [sys.executable, "-c", CUT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr[-3000:]
