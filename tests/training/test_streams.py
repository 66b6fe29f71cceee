"""Streams without TensorFlow: contents of batches and determinism."""

import jax
import numpy as np
import pytest

from data_pipelines import DataError
from fr_jax.errors import UserError
from fr_jax.training.streams import ArrayStream, GeneratedStream
from tests.support import toy


def numbered(rows=10):
    label = np.arange(rows, dtype=np.int32)
    image = np.broadcast_to(label.reshape(-1, 1, 1, 1), (rows, 2, 2, 3))
    return {"image": image.astype(np.uint8), "label": label}


def test_every_row_occurs_once_per_epoch_and_batches_span_epochs():
    stream = ArrayStream(numbered(), 4, seed=3)
    batches = [stream.batch_at(step) for step in range(10)]
    labels = np.concatenate([batch["label"] for batch in batches])
    for epoch in labels.reshape(4, 10):
        assert sorted(epoch) == list(range(10))
    assert (labels[:10] != labels[10:20]).any()
    for batch in batches:
        assert (batch["image"][:, 0, 0, 0] == batch["label"]).all()
        assert batch["image"].dtype == np.uint8
        assert batch["seed"].dtype == np.uint32
    seeds = np.concatenate([batch["seed"] for batch in batches])
    assert len(set(seeds.tolist())) == 40


def test_batch_is_a_function_of_seed_and_step():
    first = ArrayStream(numbered(), 4, seed=3).batch_at(7)
    stream = ArrayStream(numbered(), 4, seed=3)
    stream.batch_at(2)
    assert toy.same(stream.batch_at(7), first)
    assert not toy.same(ArrayStream(numbered(), 4, seed=4).batch_at(7), first)
    late = ArrayStream(numbered(), 4, seed=3).batch_at(2_000_000_000)
    assert len(set(np.asarray(late["label"]).tolist())) >= 2


def test_invalid_arrays_and_batch_sizes_are_refused():
    with pytest.raises(UserError, match="different lengths"):
        ArrayStream(numbered() | {"label": np.zeros(3, np.int32)}, 4)
    with pytest.raises(UserError, match="a batch of 11 rows from a set of 10"):
        ArrayStream(numbered(), 11)
    with pytest.raises(DataError, match="'label' of the data has 4294967292, .* int32"):
        ArrayStream(numbered() | {"label": np.arange(10) + 2**32 - 4}, 4)


def test_stream_states_the_extremes_of_its_columns():
    columns = {"label": np.arange(-1, 9), "age": np.linspace(0, 1, 10)}
    stream = ArrayStream(numbered() | columns, 4)
    assert stream.extremes == {"label": (-1, 8)} and stream.num_classes == 9
    del (arrays := numbered())["label"]
    assert ArrayStream(arrays, 4).num_classes is None


def test_generated_batches_depend_on_seed_and_step_only():
    def make_batch(key):
        return {"x": jax.random.normal(key, (6, 2))}

    streams = [GeneratedStream(make_batch, 6, seed=seed) for seed in (0, 0, 1)]
    assert toy.same(streams[0].batch_at(5), streams[1].batch_at(5))
    assert not toy.same(streams[0].batch_at(5), streams[2].batch_at(5))
    assert not toy.same(streams[0].batch_at(5), streams[0].batch_at(6))
