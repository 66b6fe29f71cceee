"""A run goes on as the run that it was; the files of its workdir may be damaged."""

import json
from unittest import mock

import jax
import numpy as np
import optax
import pytest

from fr_jax.errors import UserError
from fr_jax.training import metric_log
from fr_jax.training.identity import Identity
from fr_jax.training.streams import ArrayStream
from tests.support import toy
from tests.support.toy import metrics, run


@pytest.fixture(scope="module", autouse=True)
def no_events():
    """TensorBoard's import would take as long as all the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metric_log, "Events", mock.Mock())
        yield


def with_loss(weight):
    """Returns the toy system with the loss that a notebook closes over."""
    system = toy.make()

    def train_step(state, batch, key):
        state, reported = system.train_step(state, batch, key)
        params = jax.tree.map(lambda x: x * (1 - weight), state.params)
        return state._replace(params=params), reported

    return system._replace(train_step=train_step)


def other_order():
    """The same images and labels, in batches of another seed."""
    return ArrayStream(toy.arrays(), 16, seed=2)


def other_images():
    return toy.stream(image=toy.arrays()["image"][::-1].copy())


def last_label():
    """One label of 120 is another, of an image that the first batch lacks."""
    label = toy.arrays()["label"].copy()
    label[-1] = (label[-1] + 1) % toy.CLASSES
    stream = toy.stream(label=label)
    assert np.array_equal(
        stream.batch_at(0)["label"], toy.stream().batch_at(0)["label"]
    )
    return stream


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The workdir of a run of 20 steps, with a loss of weight 0.001."""
    workdir = tmp_path_factory.mktemp("begun")
    run(workdir, 20, system=with_loss(0.001))
    return workdir


OTHERS = {
    "closure constant": ({"system": lambda: with_loss(0.002)}, "the update"),
    "learning rate": ({"system": lambda: toy.make(learning_rate=0.2)}, "the update"),
    "order": ({"streams": other_order}, "labels or seeds in the first batch"),
    "images": ({"streams": other_images}, "images in the first batch"),
    "batch size": ({"streams": lambda: toy.stream(8)}, "batch_size: 16 before, 8 now"),
    "fewer images": (
        {"streams": lambda: ArrayStream(toy.arrays(100), 16, seed=1)},
        "data: images: 120 before, 100 now",
    ),
    "seed": ({"seed": lambda: 8}, "seed: 0 before, 8 now"),
    "guard": ({"guard": lambda: None}, "guard"),
    "given weights": (
        {"given": lambda: {"weights": np.ones((192, 128), np.float32)}},
        "weights given as weights: 'absent' before",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_run_is_refused_in_its_workdir(begun, kind):
    changes, match = OTHERS[kind]
    options = {"system": with_loss(0.001)}
    options |= {name: make() for name, make in changes.items()}
    files, events = sorted(begun.rglob("*")), metric_log.Events.call_count
    with pytest.raises(UserError, match=match) as caught:
        run(begun, 40, **options)
    assert f"{begun} holds another run" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(begun.rglob("*")) == files
    assert metric_log.Events.call_count == events


def test_label_outside_the_first_batch_is_noticed(begun):
    with pytest.raises(UserError, match="data: other labels"):
        run(begun, 40, system=with_loss(0.001), streams=last_label())


def test_fresh_run_moves_the_other_aside(begun, tmp_path, capsys):
    whole = run(tmp_path / "whole", 20)
    run(tmp_path / "w", 20, system=with_loss(0.001))
    result = run(tmp_path / "w", 20, fresh=True)
    assert "was moved to" in capsys.readouterr().err
    assert toy.same(result.state, whole.state)
    assert len(metrics(tmp_path / "w")) == 2
    old = tmp_path / "w/previous-1"
    assert metrics(old)[-1]["loss"] == metrics(begun)[-1]["loss"]
    resumed = run(old, 20, system=with_loss(0.001))
    assert resumed.step == 20


def test_other_versions_are_said_and_only_the_update_is_not_compared(tmp_path, capsys):
    run(tmp_path, 10)
    later = Identity(versions={"jax": "9.9", "fr_jax": "9.9"})
    result = run(tmp_path, 20, system=with_loss(0.001), identity=later)
    assert result.step == 20
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "compared" in x]
    assert "this is jax 9.9 and fr_jax 9.9" in line
    with pytest.raises(UserError, match="seed: 0 before, 8 now"):
        run(tmp_path, 20, identity=later, seed=8)
    # Steps saved since then are compared with their own update.
    with pytest.raises(UserError, match="the update"):
        run(tmp_path, 20, identity=later)


def scheduled(num_steps):
    """Returns the toy system with a learning rate that ends at zero with the run."""
    rate = optax.linear_schedule(1.0, 0.0, num_steps)
    system = toy.make()

    def train_step(state, batch, key):
        new, reported = system.train_step(state, batch, key)
        factor = rate(state.updates)
        params = jax.tree.map(
            lambda old, now: old + factor * (now - old), state.params, new.params
        )
        return new._replace(params=params), reported | {"rate": factor}

    return system._replace(train_step=train_step)


def test_prolonged_run_follows_the_longer_schedule(tmp_path, capsys):
    run(tmp_path, 20, system=scheduled(20))
    with pytest.raises(UserError, match="the update"):
        run(tmp_path, 40, system=scheduled(40))
    with pytest.raises(UserError, match="the update"):
        run(tmp_path, 40, system=scheduled(40), prolongs=scheduled(30))
    with pytest.raises(UserError, match="has 20 steps, more than 10"):
        run(tmp_path, 10, system=scheduled(10), prolongs=scheduled(20))
    result = run(tmp_path, 40, system=scheduled(40), prolongs=scheduled(20))
    assert result.step == 40
    assert "prolonged to 40 steps: the update follows" in capsys.readouterr().err
    rates = {row["step"]: row["rate"] for row in metrics(tmp_path)}
    assert rates[20] == pytest.approx(np.mean(1 - np.arange(10, 20) / 20))
    assert rates[30] == pytest.approx(np.mean(1 - np.arange(20, 30) / 40))
    # From now on the run is the longer one.
    assert run(tmp_path, 40, system=scheduled(40)).step == 40


def test_run_that_does_not_depend_on_its_length_is_prolonged_without(tmp_path):
    run(tmp_path / "parts", 20)
    parts = run(tmp_path / "parts", 40)
    assert toy.same(parts.state, run(tmp_path / "whole", 40).state)


def test_provenance_is_that_of_the_checkpoint(tmp_path):
    first, later = (
        Identity(provenance={"identities": {"cfp": [name]}}) for name in "ab"
    )
    run(tmp_path, 10, identity=first)
    result = run(tmp_path, 20, identity=later)
    assert result.identity.provenance == first.provenance
    assert run(tmp_path, 20).identity.provenance == first.provenance


# --- damaged files --------------------------------------------------------------------


def test_damaged_step_is_moved_although_damaged_is_a_file(tmp_path):
    run(tmp_path, 20)
    (tmp_path / "damaged").write_text("mine")
    (tmp_path / "checkpoints/20/run.json").write_text("{}")
    result = run(tmp_path, 40)
    assert result.step == 40
    assert (tmp_path / "damaged").read_text() == "mine"
    assert (tmp_path / "damaged_steps/20/run.json").read_text() == "{}"


@pytest.mark.parametrize("content", [None, b"\xff\xfe{"])
def test_damaged_identity_of_a_step_costs_that_step_only(tmp_path, content):
    run(tmp_path, 20)
    path = tmp_path / "checkpoints/20/run.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert run(tmp_path, 20).step == 20
    assert (tmp_path / "damaged/20").exists()


def test_run_goes_on_with_damaged_metrics(tmp_path):
    run(tmp_path, 20)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + b"\xff\n{}")
    run(tmp_path, 40)
    rows = [json.loads(row)["step"] for row in file.read_text().splitlines()]
    assert rows == [10, 20, 30, 40]
