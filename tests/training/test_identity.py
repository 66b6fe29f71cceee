"""The identity of a run: what may change when it goes on, and what may not."""

import pytest

from fr_jax.cli import config as configs
from fr_jax.errors import UserError
from fr_jax.training.identity import FREE, Identity, check, resumed
from tests.support.commands import CONFIGS


def smoke(*overrides):
    words = [word.split("=", 1) for word in overrides]
    spec = f"{CONFIGS['inter_prototype']}:smoke"
    return configs.load(spec, [(key, value) for key, value in words]).to_dict()


BEGUN = Identity(
    settings=smoke(),
    data={
        "sets": {"cfp": {"identities": 450, "images": 6300, "digest": "a0"}},
        "stream": {"images": 6300, "classes": 450, "labels": "b0"},
        "first_batch": {
            "arrays": "image uint8(2, 8, 8, 3)",
            "labels_and_seeds": "c0",
            "mean_pixels": [100.0, 120.0],
        },
    },
    given={"init": "d0"},
    step="e0",
    num_steps=40,
    provenance={"identities": {"cfp": ["001"]}},
)


def refused(now, **options):
    with pytest.raises(UserError) as caught:
        check(BEGUN, now, "runs/w", **options)
    text = str(caught.value)
    assert text.startswith("runs/w holds another run (")
    assert "fresh=True" in text
    assert len(text.splitlines()) == 1
    return text


CHANGES = {
    "train.model_axis": "2",
    "train.log_every": "7",
    "train.save_every": "7",
    "train.evaluate_every": "7",
    "train.keep": "7",
    "train.best_metric": "a/b",
    "train.profile": "(1, 2)",
    "data.records.path": "elsewhere",
    "evaluation.sets": "('a=b',)",
    "evaluation.subset": "7",
}


@pytest.mark.parametrize("key", CHANGES)
def test_settings_that_change_no_weight_may_change(key):
    assert any(f"{key}.".startswith(f"{free}.") for free in FREE)
    check(BEGUN, BEGUN._replace(settings=smoke(f"{key}={CHANGES[key]}")), "w")


@pytest.mark.parametrize(
    ("changes", "steered", "match"),
    [
        (
            ["system.optimizer.learning_rate=0.2"],
            False,
            "optimizer.learning_rate: 0.1 before, 0.2 now",
        ),
        (["data.batch_size=16"], False, "data.batch_size: 32 before, 16 now"),
        (["train.guard=False"], False, "train.guard: True before, False now"),
        (["train.seed=1"], False, "train.seed: 4885 before, 1 now"),
        (["train.evaluate_every=7"], True, "train.evaluate_every: 100 before, 7 now"),
        (["evaluation.subset=7"], True, "evaluation.subset: 600 before, 7 now"),
        (
            [f"data.rendered.{name}=7" for name in ("num_images", "size")]
            + [f"data.children.{n}=7" for n in ("seed", "child_filter", "stand_ins")]
            + ["train.seed=1"],
            False,
            "; and 1 more",
        ),
    ],
    ids=["rate", "batch", "guard", "seed", "steering", "steering sets", "many"],
)
def test_other_settings_are_refused(changes, steered, match):
    now = BEGUN._replace(settings=smoke(*changes))
    assert match in refused(now, steered=steered)


def with_data(part, **changes):
    return BEGUN._replace(data={**BEGUN.data, part: {**BEGUN.data[part], **changes}})


@pytest.mark.parametrize(
    ("now", "match"),
    [
        (with_data("sets", cfp={"identities": 460}), "cfp.identities: 450 before, 460"),
        (with_data("sets", cfp={"digest": "a1"}), "other identities, labels or images"),
        (with_data("sets", lfw={"images": 9}), "lfw.images: 'absent' before, 9 now"),
        (with_data("stream", classes=451), "data: classes: 450 before, 451 now"),
        (with_data("stream", labels="b1"), "data: other labels"),
        (with_data("first_batch", labels_and_seeds="c1"), "seeds in the first batch"),
        (with_data("first_batch", mean_pixels=[101.0, 120.0]), "data: other images"),
        (with_data("first_batch", mean_pixels=[100.0]), "data: other images"),
        (BEGUN._replace(given={"init": "d1"}), "given as init: 'd0' before, 'd1' now"),
        (BEGUN._replace(given={}), "given as init: 'd0' before, 'absent' now"),
        (BEGUN._replace(step="e1"), "(the update: a loss, network, optimiser"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_data_weights_and_updates_are_refused(now, match):
    assert match in refused(now)


@pytest.mark.parametrize(
    "now",
    [
        with_data("first_batch", mean_pixels=[100.2, 119.9]),
        BEGUN._replace(data={"sets": BEGUN.data["sets"]}),
        BEGUN._replace(step=""),
        BEGUN._replace(step="e1", versions={"jax": "9", "fr_jax": "9"}),
        BEGUN._replace(num_steps=60, provenance={}),
    ],
    ids=["rounding", "unknown stream", "unknown update", "versions", "not compared"],
)
def test_what_is_unknown_or_rounded_is_no_difference(now):
    assert BEGUN.differences(now) == []


def test_identity_is_restored_from_json():
    assert Identity.from_json(BEGUN.to_json()).differences(BEGUN) == []
    assert Identity.from_json({**BEGUN.to_json(), "newer": 1}).num_steps == 40


def test_unset_option_of_another_version_is_no_difference():
    stored = BEGUN.to_json()
    stored["settings"]["system"]["retired"] = 0
    stored["settings"]["system"].pop("augmentation")
    begun = Identity.from_json(stored)
    now = BEGUN._replace(settings=smoke("system.augmentation=()"))
    assert begun.differences(now) == []
    (line,) = begun.differences(BEGUN)
    assert line.startswith("system.augmentation: 'absent' before")


# --- going on -------------------------------------------------------------------------


def test_other_versions_are_said_and_stored():
    said = []
    begun = BEGUN._replace(versions={"jax": "0.1", "fr_jax": "0.2"}, step="e9")
    kept = resumed(begun, BEGUN, "w", steered=False, say=said.append)
    assert kept.step == "e0" and kept.versions == BEGUN.versions
    (line,) = said
    assert line.startswith("the update was not compared: begun with jax 0.1 and fr_jax")


def test_provenance_and_settings_are_those_of_the_first_start():
    now = BEGUN._replace(
        settings=smoke("train.log_every=7"), provenance={"identities": {"lfw": []}}
    )
    kept = resumed(BEGUN, now, "w", steered=False, say=pytest.fail)
    assert kept == BEGUN


LONGER = BEGUN._replace(settings=smoke("train.num_steps=60"), step="e1", num_steps=60)


@pytest.mark.parametrize(
    ("former", "said"),
    [("e0", "follows a schedule of that length"), ("e1", "does not depend on the")],
)
def test_longer_run_is_accepted_if_it_is_asked_for(former, said):
    begun, lines = BEGUN._replace(step=former), []
    with pytest.raises(UserError, match="--prolong"):
        resumed(begun, LONGER._replace(step=former), "w", steered=False)
    kept = resumed(begun, LONGER, "w", steered=False, former=former, say=lines.append)
    assert said in lines[0]
    assert (kept.num_steps, kept.step) == (60, "e1")
    assert kept.settings["train"]["num_steps"] == 60


@pytest.mark.parametrize(
    ("changes", "former", "match"),
    [
        ({"num_steps": 30}, "e0", "the run in w has 40 steps, more than 30"),
        ({"given": {}}, "e0", "weights given as init"),
        ({"settings": smoke("train.num_steps=60", "train.seed=1")}, "e0", "train.seed"),
        ({}, "e9", "the update"),
    ],
    ids=["shorter", "weights", "seed", "another update"],
)
def test_prolonging_allows_nothing_else(changes, former, match):
    now = LONGER._replace(**changes)
    with pytest.raises(UserError, match=match):
        resumed(BEGUN, now, "w", steered=False, former=former)
