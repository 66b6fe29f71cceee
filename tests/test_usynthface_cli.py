"""`fr-jax train` without labels: every source of pairs, what is left, every mistake."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from data_pipelines.builders import faces as builder
from fr_jax import augment
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.cli import evaluate as evaluating
from fr_jax.faces import sets
from fr_jax.models import preprocess
from fr_jax.systems.usynthface import data as training_pairs
from fr_jax.systems.usynthface import figures as pair_figures
from tests.conftest import ROOT
from tests.test_images import encoded, picture
from tests.test_records import some_faces

pytestmark = [
    pytest.mark.usefixtures("quick_drawing", "quick_compilation"),
    pytest.mark.xdist_group("drawn"),
]
CONFIG = ROOT / "configs/usynthface.py"
NETWORK = {
    "train.num_steps": 4,
    "train.log_every": 2,
    "train.evaluate_every": 2,
    "system.image_size": 16,
    "system.backbone": "iresnet18",
    "system.backbone_options": {
        "stage_sizes": (1, 1, 1, 1),
        "width": 0.125,
        "embedding_size": 16,
    },
    "system.queue_size": 8,
    "data.batch_size": 4,
    "evaluation.subset": 20,
}
DRAWN = {"data.num_identities": 16, "data.num_images": 2, "data.size": 16}
DRAWN |= {"data.num_strangers": 20}


def flags(settings):
    return [f"--config.{name}={value}" for name, value in settings.items()]


def run(command, variant, workdir, settings):
    words = (f"--config={CONFIG}:{variant}", "--workdir", workdir, *flags(settings))
    code, _, error = command("train", *words)
    assert code == 0, error
    assert " pairs/s  data wait" in error
    rows = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((workdir / "results.json").read_text())
    about = json.loads((workdir / "embedder/embedder.json").read_text())
    return rows, results, about["provenance"]


def test_drawn_people_without_labels(command, tmp_path):
    settings = NETWORK | DRAWN | {"evaluation.subset": 600}  # more than there are
    rows, results, about = run(command, "smoke", tmp_path / "w", settings)
    learning = [row for row in rows if "chance_loss" in row]
    assert [row["step"] for row in learning] == [2, 4]
    assert learning[1]["queue_fill"] == 1 and learning[1]["valid_negatives"] == 8
    assert learning[1]["pairs_per_second"] > 0
    assert "images_per_second" not in learning[1]
    assert about["selection"] == {"kind": "clean", "sets": ["strangers"]}
    assert results["selection_clean/accuracy"] == results["strangers/accuracy"]
    assert len(about["people"]["drawn"]) == 16
    assert "note" not in about
    figures = {path.stem for path in (tmp_path / "w/figures").iterdir()}
    assert figures == {
        *("pairs", "augmentation", "training", "roc", "cosines", "pair_cosines")
    }


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(46, 3), folder, "some", size=20)[0]


def test_records_with_the_rate_following_people_held_out(command, tmp_path, records):
    settings = NETWORK | {
        "data.path": records,
        "data.num_identities": 45,
        "data.template": "train96",
        "data.num_ops": 2,
        "selection.held_out": 20,
        "system.bn_groups": 2,
    }
    rows, results, about = run(command, "paper_100k", tmp_path / "w", settings)
    assert [r["step"] for r in rows if "heldout:20/accuracy" in r] == [2, 4]
    assert rows[0]["learning_rate"] == pytest.approx(0.1 * 4 / 512)
    assert len(about["people"]["some"]) == 25
    scores = {
        r["step"]: r["heldout:20/accuracy"] for r in rows if "heldout:20/auc" in r
    }
    best = {"metric": "heldout/accuracy", "last_step": 4}
    assert about["best"] == best | {"value": max(scores.values())}
    assert scores[about["steps"]] == max(scores.values())
    assert about["note"] == "the step was chosen by heldout/accuracy"
    assert results["selection_clean/accuracy"] == results["heldout/accuracy"]
    config = configs.load(f"{CONFIG}:paper_100k", overrides(settings))
    open_, facts, _ = training_pairs.records(config, sharding.make_mesh())
    _, (heldout,) = open_()
    assert len(set(heldout.people)) == 20
    assert not set(heldout.people) & set(about["people"]["some"])
    people = np.array(heldout.people)[heldout.pairs]
    assert ((people[:, 0] == people[:, 1]) == heldout.same).all()
    assert heldout.same.sum() == 60  # every two of three images
    assert heldout.images.shape == (60, 20, 20, 3)
    assert facts["num_classes"] == 25


def test_what_followed_the_test_sets_is_named_legacy():
    about = source("smoke", DRAWN | {"selection.kind": "legacy"})[3]
    assert about["selection"] == {"kind": "legacy", "sets": ["strangers"]}
    assert "followed strangers, as published" in about["note"]
    found = {"a/accuracy": 0.7, "b/accuracy": 0.9, "c/accuracy": 0.1}
    selection = {"kind": "legacy", "sets": ["a", "b"]}
    assert evaluating._selected(selection, found) == {
        "selection_legacy/accuracy": pytest.approx(0.8)
    }


def overrides(settings):
    return [(name, str(value)) for name, value in settings.items()]


def source(variant, settings):
    config = configs.load(f"{CONFIG}:{variant}", overrides(NETWORK | settings))
    found = training_pairs.SOURCES[config.data.source](config, sharding.make_mesh())
    return config, *found


def test_generated_pairs_are_two_new_images_of_one_person(monkeypatch):
    def shown(codes, *, mesh, size, quality):
        """Who it is in red, how they look in green, instead of a face."""
        colour = [codes.identity[:, 0], codes.pose[:, 0] / 30, 0 * codes.age]
        colour = 100 + 30 * jnp.stack(colour, axis=1)
        pixels = jnp.clip(colour, 0, 255).astype(jnp.uint8).reshape(-1, 1, 1, 3)
        return (jnp.broadcast_to(pixels, (len(colour), size, size, 3)),)

    settings = {"data.source": "generated", **DRAWN, "selection.sets": "()"}
    _, open_, facts, _ = source("smoke", settings)
    assert facts["augmentation"][1] == ("rand_augment", {"num_ops": 1, "magnitude": 16})
    stream, _ = open_()
    assert stream.unit == "pairs"
    monkeypatch.setattr(sets, "draw_rows", shown)
    batches = [stream.batch_at(step) for step in range(8)]
    first, second, label = (
        np.concatenate([batch[name] for batch in batches])
        for name in ("image", "positive", "label")
    )
    assert first.shape == (32, 16, 16, 3)
    np.testing.assert_array_equal(first[..., 0], second[..., 0])
    assert (first[:, 0, 0, 1] != second[:, 0, 0, 1]).mean() > 0.8
    for who in np.unique(label):
        assert len(np.unique(first[label == who][..., 0])) == 1
    assert all(len(set(np.asarray(batch["label"]).tolist())) == 4 for batch in batches)
    assert label.min() >= 0 and label.max() < 16


def test_a_flat_folder_is_a_set_of_images_paired_with_themselves(command, tmp_path):
    for number, face in enumerate(some_faces(3, 4)):
        path = tmp_path / f"faces/{number % 2}/{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(face.image)
    words = ("convert", tmp_path / "faces", "--to", tmp_path, "--name", "flat")
    code, out, error = command("data", *words, "--size", "20", "--flat")
    assert code == 0, error
    assert "12 images to" in out
    settings = {"data.path": tmp_path / "flat", "data.augment": "none"}
    settings |= {"data.pairing": "flat", "data.num_identities": 10}
    settings |= {"selection.held_out": 0, "selection.sets": "()"}
    settings |= {"system.schedule": "constant", "evaluation.sets": "()"}
    _, open_, facts, about = source("paper_100k", settings)
    assert facts["num_classes"] == 10 and facts["augmentation"] == ()
    assert about["people"] == {"flat": []}
    batch = open_()[0].batch_at(0)
    np.testing.assert_array_equal(batch["image"], batch["positive"])
    assert (batch["label"] < 10).all() and len(set(batch["label"])) == 4


def test_images_are_augmented_where_the_network_does_not_run(monkeypatch):
    assert source("smoke", DRAWN)[2]["augmentation"] == ()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert source("smoke", DRAWN)[2]["augmentation"][0] == ("flip", {})
    host = source("smoke", DRAWN | {"data.augment": "host"})
    assert host[2]["augmentation"] == ()


def test_figures_show_what_the_device_augments(monkeypatch):
    """As in training: made as small as the network's input first."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 24, 24, 3), np.uint8),
        "positive": rng.integers(0, 256, (4, 24, 24, 3), np.uint8),
        "label": np.arange(4, dtype=np.int32),
        "seed": np.arange(4, dtype=np.uint32),
    }

    class Stream:
        batch_size = 4

        def batch_at(self, step):
            return batch

    def column(keys, images):
        """The first column black: half as wide before the image is made smaller."""
        return images.at[:, :, 0].set(0.0)

    monkeypatch.setitem(augment.AUGMENTATIONS, "column", column)
    config = configs.load(f"{CONFIG}:smoke", [("system.image_size", "12")])
    views = pair_figures._views(config, Stream(), (("column", {}),), 3)
    for shown, name in zip(views, ("image", "positive")):
        expected = np.array(preprocess.resize(jnp.asarray(batch[name][:3]), 12))
        expected[:, :, 0] = 0
        assert shown.dtype == np.uint8
        np.testing.assert_allclose(shown, expected, atol=0.51)
        assert (shown[:, :, 0] == 0).all() and shown[:, :, 1].mean() > 64
    assert views[2].tolist() == [0, 1, 2]


def test_every_variant_is_a_whole_configuration():
    import importlib.util

    spec = importlib.util.spec_from_file_location("variants", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for variant in module.VARIANTS:
        config = configs.load(f"{CONFIG}:{variant}")
        system = config.system
        if variant.startswith("paper"):
            people = config.data.num_identities
            assert people == {"1": 100_000, "2": 200_000, "4": 400_000}[variant[6]]
            assert config.train.evaluate_every in (195, 390, 781)
            assert (system.queue_size, system.margin) == (32_768, 0.1)
        elif variant != "cfp":
            assert system.queue_size <= config.data.num_identities / 2
        assert config.data.batch_size % system.bn_groups == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [((), ["train.evaluate_every"]), ((("selection.sets", "()"),), [])],
)
def test_evaluations_that_steer_a_run_stay_as_they_are(tmp_path, settings, told):
    stored = epath.Path(tmp_path / "config.json")
    stored.write_text(configs.to_json(configs.load(f"{CONFIG}:smoke", settings)))
    changed = (*settings, ("train.evaluate_every", "99"), ("train.log_every", "3"))
    lines = configs.differences(configs.load(f"{CONFIG}:smoke", changed), stored)
    assert [line.partition(":")[0] for line in lines] == told


def test_mistakes(mistake, tmp_path, records):
    def train(match, settings, variant="smoke"):
        words = flags(NETWORK | settings)
        config = f"--config={CONFIG}:{variant}"
        mistake(match, "train", config, "--workdir", tmp_path / "w", *words)
        assert not (tmp_path / "w/config.json").exists()

    to = ("--to", tmp_path / "r", "--name", "r")
    some = {"data.path": records, "selection.held_out": 0, "selection.sets": "()"}
    some |= {"system.schedule": "constant", "data.num_identities": 0}
    long = {"system.queue_size": 9, "system.mask_identity": False}
    train("use queue_size <= 8, mask_identity", DRAWN | long)
    train("did you mean 'host'", DRAWN | {"data.augment": "hots"})
    train("use one of disco", DRAWN | {"data.pairing": "disko"})
    train("4 pairs of distinct people out of 3", DRAWN | {"data.num_identities": 3})
    train("16 of 16 identities have a single image", DRAWN | {"data.num_images": 1})
    train("unknown set to select by 'lfw'", DRAWN | {"selection.sets": '("lfw",)'})
    train("did you mean 'clean'", DRAWN | {"selection.kind": "clear"})
    train("held_out is for records", DRAWN | {"selection.held_out": 10})
    train("num_ops is -1; use 0 to 99", DRAWN | {"data.num_ops": -1})
    train("magnitude is 31; use 1 to 30", DRAWN | {"data.magnitude": 31})
    train("size is 8; a face needs 16", DRAWN | {"data.size": 8})
    train("max_yaw is 400.0; use 0 to 90", DRAWN | {"data.max_yaw": 400.0})
    train("-5 steps of training", DRAWN | {"train.num_steps": -5})
    train("a batch of -4 rows", DRAWN | {"data.batch_size": -4})
    train("a decay of 1.5 averages nothing", DRAWN | {"train.ema_decay": 1.5})
    faces = [encoded(image=picture(20, 20, number)) for number in range(40)]
    named = tmp_path / "some_pairs.bin"  # as the records are, whose people it may hold
    named.write_bytes(pickle.dumps((faces, [True, False] * 10)))
    steered = some | {"evaluation.sets": f'("some_pairs={named}",)'}
    steered |= {"selection.sets": '("some_pairs",)', "train.best_metric": ""}
    train("--config.selection.kind=legacy", steered, "paper_100k")
    steered |= {"selection.kind": "legacy"}
    train("did you mean 'some_pairs_seen/accuracy'", steered, "paper_100k")
    train("unknown data source 'drawn'", DRAWN | {"data.source": "drawn"})
    flat = {"data.source": "generated", "data.pairing": "flat"}
    train("two new images of a person", DRAWN | flat)
    train(
        "schedule 'plateau' follows accuracies",
        DRAWN | {"system.schedule": "plateau", "train.evaluate_every": 0},
    )
    train("4 rows cannot be cut into 3", some | {"system.bn_groups": 3}, "paper_100k")
    train("say where the records are", {}, "cfp")
    train("unknown data.template", some | {"data.template": "arc"}, "paper_100k")
    train(
        "num_identities is 99, the records have 46",
        some | {"data.num_identities": 99},
        "paper_100k",
    )
    mistake("no .jpg", "data", "convert", tmp_path, "--flat", *to)
    train("held_out is 50 people", some | {"selection.held_out": 50}, "paper_100k")
    everybody = {"selection.held_out": 40, "data.num_identities": 40}
    train("somebody must be left to train on", some | everybody, "paper_100k")
