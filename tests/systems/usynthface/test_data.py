"""USynthFace's data: every source of pairs, results of a run, invalid settings."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import usynthface as variants
from data_pipelines import DataError
from data_pipelines.builders import faces as builder
from fr_jax import augment
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.errors import UserError
from fr_jax.evaluation import results as evaluation_results
from fr_jax.faces import sets
from fr_jax.models import preprocess
from fr_jax.system import Input
from fr_jax.systems import usynthface
from fr_jax.systems.usynthface.figures import PairFigures
from fr_jax.training import sources
from fr_jax.training.batch_checks import check_batch, check_stream
from fr_jax.training.data import Context
from fr_jax.training.identity import Identity
from tests.support.faces import encoded, picture, some_faces

pytestmark = [
    pytest.mark.usefixtures("quick_drawing", "quick_compilation"),
    pytest.mark.xdist_group("drawn"),
]
CONFIG = "usynthface"
BACKBONE = {"stage_sizes": (1, 1), "width": 0.125, "embedding_size": 16}
NETWORK = {
    "train.num_steps": 4,
    "train.log_every": 2,
    "train.evaluate_every": 2,
    "system.image_size": 16,
    "system.backbone": "iresnet18",
    "system.backbone_options": BACKBONE,
    "system.queue.size": 8,
    "data.batch_size": 4,
    "evaluation.subset": 20,
}
RENDERED = {
    "data.rendered.num_identities": 16,
    "data.rendered.num_images": 2,
    "data.rendered.size": 16,
    "data.rendered.num_unseen": 20,
}


def flags(settings):
    return [f"--config.{name}={value}" for name, value in settings.items()]


def configured(variant, settings):
    overrides = [(name, str(value)) for name, value in settings.items()]
    return configs.load(f"{CONFIG}:{variant}", overrides)


def load(variant, settings):
    """Returns the data of a variant."""
    config = configured(variant, NETWORK | settings)
    context = Context(sharding.make_mesh(), show_progress=False)
    return usynthface.load(config.data, context)


def run(command, variant, workdir, settings):
    words = (f"--config={CONFIG}:{variant}", "--workdir", workdir, *flags(settings))
    code, _, error = command("train", *words)
    assert code == 0, error
    assert " pairs/s  data wait" in error
    rows = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((workdir / "results.json").read_text())
    embedder = json.loads((workdir / "embedder/embedder.json").read_text())
    return rows, results, embedder["provenance"]


# --- sources ------------------------------------------------------------------------


@pytest.mark.long
def test_rendered_identities_without_labels(command, tmp_path):
    # More pairs than the set has: all are evaluated during training.
    settings = NETWORK | RENDERED | {"evaluation.subset": 600}
    rows, results, provenance = run(command, "smoke", tmp_path / "w", settings)
    learning = [row for row in rows if "chance_loss" in row]
    assert [row["step"] for row in learning] == [2, 4]
    assert learning[1]["queue_fill"] == 1 and learning[1]["valid_negatives"] == 8
    assert learning[1]["pairs_per_second"] > 0
    assert "images_per_second" not in learning[1]
    assert provenance["selection"] == {"kind": "clean", "sets": ["unseen"]}
    assert results["selection_clean/accuracy"] == results["unseen/accuracy"]
    assert len(provenance["identities"]["rendered"]) == 16
    assert "note" not in provenance
    figures = {path.stem for path in (tmp_path / "w/figures").iterdir()}
    assert figures == {
        *("pairs", "augmentation", "training", "roc", "cosines", "pair_cosines")
    }


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(46, 3), folder, "some", size=20)[0]


def test_records_with_a_plateau_on_held_out_identities(command, tmp_path, records):
    settings = NETWORK | {
        "data.records.path": records,
        "data.records.num_identities": 45,
        "data.records.template": "train96",
        "data.num_ops": 2,
        "data.records.held_out": 20,
        "system.backbone_options": BACKBONE | {"bn_groups": 2},
    }
    rows, results, provenance = run(command, "paper_100k", tmp_path / "w", settings)
    assert [r["step"] for r in rows if "heldout:20/accuracy" in r] == [2, 4]
    assert rows[0]["learning_rate"] == pytest.approx(0.1 * 4 / 512)
    assert len(provenance["identities"]["some"]) == 25
    scores = {
        r["step"]: r["heldout:20/accuracy"] for r in rows if "heldout:20/auc" in r
    }
    best = {"metric": "heldout/accuracy", "last_step": 4}
    assert provenance["best"] == best | {"value": max(scores.values())}
    assert scores[provenance["steps"]] == max(scores.values())
    assert provenance["note"] == "step chosen by heldout/accuracy"
    assert results["selection_clean/accuracy"] == results["heldout/accuracy"]
    assert len(provenance["held_out"]["some"]) == 20


HELD_OUT = {"data.records.num_identities": 45, "data.records.held_out": 20}


def test_held_out_identities_make_verification_pairs(records):
    data = load("paper_100k", {"data.records.path": records} | HELD_OUT)
    heldout, *_ = data.open().final_evaluators
    provenance = data.provenance
    assert len(set(heldout.identities)) == 20
    assert set(heldout.identities) == set(provenance.held_out["some"])
    assert not set(heldout.identities) & set(provenance.identities["some"])
    names = np.array(heldout.identities)[heldout.pairs]
    assert ((names[:, 0] == names[:, 1]) == heldout.same).all()
    assert heldout.same.sum() == 60  # every two of three images
    assert heldout.images.shape == (60, 20, 20, 3)
    assert data.arguments["num_classes"] == 25


def test_selection_on_test_sets_is_recorded_as_legacy():
    settings = RENDERED | {"data.selection.kind": "legacy"}
    provenance = load("smoke", settings).provenance
    selection = {"kind": "legacy", "sets": ["unseen"]}
    assert provenance.details["selection"] == selection
    assert "followed unseen, as published" in provenance.describe()["note"]
    measured = {"a/accuracy": 0.7, "b/accuracy": 0.9, "c/accuracy": 0.1}
    selection = {"kind": "legacy", "sets": ["a", "b"]}
    assert evaluation_results._selected(selection, measured) == {
        "selection_legacy/accuracy": pytest.approx(0.8)
    }


def test_generated_pairs_are_two_new_images_of_one_identity(monkeypatch):
    def colours(codes, *, mesh, size, quality):
        """The identity in red, the appearance in green, instead of a face."""
        colour = [codes.identity[:, 0], codes.pose[:, 0] / 30, 0 * codes.age]
        colour = 100 + 30 * jnp.stack(colour, axis=1)
        pixels = jnp.clip(colour, 0, 255).astype(jnp.uint8).reshape(-1, 1, 1, 3)
        return (jnp.broadcast_to(pixels, (len(colour), size, size, 3)),)

    settings = {"data.source": "generated", **RENDERED, "data.selection.sets": "()"}
    data = load("smoke", settings)
    policy = data.arguments["augmentation"]
    assert policy[1] == ("rand_augment", {"num_ops": 1, "magnitude": 16})
    monkeypatch.setattr(sets, "render_rows", colours)
    monkeypatch.setattr(sources, "unseen_pairs", lambda *_: lambda: None)
    stream = load("smoke", settings).open().train
    assert stream.unit == "pairs"
    batches = [stream.batch_at(step) for step in range(8)]
    first, second, label = (
        np.concatenate([batch[name] for batch in batches])
        for name in ("image", "positive", "label")
    )
    assert first.shape == (32, 16, 16, 3)
    np.testing.assert_array_equal(first[..., 0], second[..., 0])
    assert (first[:, 0, 0, 1] != second[:, 0, 0, 1]).mean() > 0.8
    for identity in np.unique(label):
        assert len(np.unique(first[label == identity][..., 0])) == 1
    assert all(len(set(np.asarray(batch["label"]).tolist())) == 4 for batch in batches)
    assert label.min() >= 0 and label.max() < 16


def test_images_of_a_flat_folder_are_paired_with_themselves(command, tmp_path):
    for number, face in enumerate(some_faces(3, 4)):
        path = tmp_path / f"faces/{number % 2}/{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(face.image)
    words = ("convert", tmp_path / "faces", "--to", tmp_path, "--name", "flat")
    code, out, error = command("data", *words, "--size", "20", "--flat")
    assert code == 0, error
    assert "12 images to" in out
    flat = {"path": tmp_path / "flat", "num_identities": 10, "held_out": 0}
    settings = {f"data.records.{name}": value for name, value in flat.items()}
    settings |= {"data.augment": "none", "data.pairing": "flat"}
    data = load("paper_100k", settings | {"data.selection.sets": "()"})
    assert data.arguments["num_classes"] == 10
    assert (
        data.arguments["augmentation"] == () and data.arguments["plateau_metrics"] == ()
    )
    assert data.provenance.identities == {"flat": []}
    stream = data.open().train
    check_stream({"label": Input(np.int32, (None,), below=10)}, stream)
    batch = stream.batch_at(0)
    np.testing.assert_array_equal(batch["image"], batch["positive"])
    assert (batch["label"] < 10).all() and len(set(batch["label"])) == 4


def test_batches_match_the_system(records):
    data = load("paper_100k", {"data.records.path": records} | HELD_OUT)
    config = configured("paper_100k", NETWORK)
    system = configs.call("usynthface", usynthface.make, config.system, data.arguments)
    check_batch(system.expects, data.open().train.batch_at(0))
    assert data.batch_size == 4 and data.epoch_steps == 25 / 4
    assert data.summary == "25 identities, 25 pairs an epoch"


# --- augmentation and figures -------------------------------------------------------


def test_the_processor_without_the_network_augments_images(monkeypatch):
    def augmentation(**changes):
        settings = {f"data.{name}": value for name, value in changes.items()}
        return load("smoke", RENDERED | settings).arguments["augmentation"]

    assert augmentation() == ()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert augmentation()[0] == ("flip", {})
    assert augmentation(augment="host") == ()


def test_figures_show_images_augmented_on_the_device(monkeypatch):
    """As in training: after resizing to the network's input."""
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
        """Sets the first column to black; before resizing it would be half as wide."""
        return images.at[:, :, 0].set(0.0)

    monkeypatch.setitem(augment.AUGMENTATIONS, "column", column)
    figures = PairFigures(Stream(), batch["image"][:2], (("column", {}),), 1, 16)
    views = figures.views(3, 12)
    for shown, name in zip(views, ("image", "positive")):
        expected = np.array(preprocess.resize(jnp.asarray(batch[name][:3]), 12))
        expected[:, :, 0] = 0
        assert shown.dtype == np.uint8
        np.testing.assert_allclose(shown, expected, atol=0.51)
        assert (shown[:, :, 0] == 0).all() and shown[:, :, 1].mean() > 64
    assert views[2].tolist() == [0, 1, 2]


# --- configurations -----------------------------------------------------------------


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_is_a_valid_configuration(variant):
    config = configured(variant, {})
    system, data = config.system, config.data
    if variant.startswith("paper"):
        thousands = int(variant.removeprefix("paper_").removesuffix("k"))
        assert data.records.num_identities == 1000 * thousands
        assert config.train.evaluate_every in (195, 390, 781)
        assert (system.queue.size, system.loss_options.margin) == (32_768, 0.1)
    elif variant != "cfp":
        assert system.queue.size <= data.rendered.num_identities / 2
    assert data.batch_size % system.backbone_options.bn_groups == 0
    facts = {
        "num_classes": 400_000,
        "num_steps": 100,
        "steps_per_epoch": 10.0,
        "plateau_metrics": tuple(f"{name}/accuracy" for name in data.selection.sets),
    }
    made = configs.call("usynthface", usynthface.make, system, facts)
    assert (made.feedback is None) == (not data.selection.sets)


@pytest.mark.parametrize(
    ("settings", "different"),
    [({}, ["train.evaluate_every"]), ({"data.selection.sets": "()"}, [])],
    ids=["followed", "not followed"],
)
def test_evaluations_that_steer_a_run_cannot_change(settings, different):
    config = configured("smoke", settings)
    changes = {"train.evaluate_every": 99, "train.log_every": 3}
    later = configured("smoke", settings | changes)
    stored, now = (Identity(one.to_dict()) for one in (config, later))
    lines = stored.differences(now, steered=bool(config.data.selection.sets))
    assert [line.partition(":")[0] for line in lines] == different


# --- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        (
            "use size <= 8, mask_identity",
            {"system.queue.size": 9, "system.queue.mask_identity": False},
        ),
        ("did you mean 'host'", {"data.augment": "hots"}),
        ("use one of disco", {"data.pairing": "disko"}),
        ("4 pairs of distinct", {"data.rendered.num_identities": 3}),
        ("16 of 16 identities have a single image", {"data.rendered.num_images": 1}),
        ("lfw would no longer be unseen", {"data.selection.sets": '("lfw",)'}),
        ("did you mean 'clean'", {"data.selection.kind": "clear"}),
        ("num_ops is -1; use 0 to 99", {"data.num_ops": -1}),
        ("magnitude is 31; use 1 to 30", {"data.magnitude": 31}),
        ("size is 8; use 16 or more", {"data.rendered.size": 8}),
        ("max_yaw is 400.0; use 0 to 90", {"data.rendered.max_yaw": 400.0}),
        ("-5 steps of training", {"train.num_steps": -5}),
        ("a batch of -4", {"data.batch_size": -4}),
        ("an EMA decay of 1.5", {"train.ema_decay": 1.5}),
        ("unknown data source 'drawn'", {"data.source": "drawn"}),
        (
            "two new images of an identity",
            {"data.source": "generated", "data.pairing": "flat"},
        ),
        (
            "schedule 'plateau' needs evaluation metrics",
            {"system.optimizer.schedule": "plateau", "data.selection.sets": "()"},
        ),
        (
            "evaluate_every",
            {"system.optimizer.schedule": "plateau", "train.evaluate_every": 0},
        ),
        (
            "'image' takes a multiple of 3",
            {"system.backbone_options": {"bn_groups": 3}},
        ),
        ("multiple of 10", {"data.rendered.num_unseen": 25}),
    ],
)
def test_invalid_settings_of_rendered_faces_are_refused(
    mistake, tmp_path, match, settings
):
    words = flags(NETWORK | RENDERED | settings)
    config = f"--config={CONFIG}:smoke"
    mistake(match, "train", config, "--workdir", tmp_path / "w", *words)
    assert not (tmp_path / "w/config.json").exists()


NONE_HELD_OUT = {
    "data.records.held_out": 0,
    "data.records.num_identities": 0,
    "data.selection.sets": "()",
}


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("template 'arc'; did you mean 'arcface112'", {"data.records.template": "arc"}),
        (
            "num_identities is 99, the records have 46",
            {"data.records.num_identities": 99},
        ),
        ("held_out is 50 identities with 3 images", {"data.records.held_out": 50}),
        (
            "held_out is 40, which leaves no identity to train on",
            {"data.records.held_out": 40, "data.records.num_identities": 40},
        ),
        ("give the records", {"data.records.path": ""}),
    ],
)
def test_unsuitable_records_are_refused(records, match, settings):
    some = NONE_HELD_OUT | {"data.records.path": records}
    with pytest.raises((UserError, DataError), match=match):
        load("paper_100k", some | settings)


def test_selection_on_test_sets_must_be_stated(mistake, tmp_path, records):
    """A set whose name begins with that of the records may share identities."""
    faces = [encoded(image=picture(20, 20, number)) for number in range(40)]
    named = tmp_path / "some_pairs.bin"
    named.write_bytes(pickle.dumps((faces, [True, False] * 10)))
    settings = NETWORK | NONE_HELD_OUT
    settings |= {"data.records.path": records, "train.best_metric": ""}
    settings |= {"evaluation.sets": f'("some_pairs={named}",)'}
    settings |= {"evaluation.unaligned": True}
    settings |= {"data.selection.sets": '("some_pairs",)'}
    words = ("train", f"--config={CONFIG}:paper_100k", "--workdir", tmp_path / "w")
    mistake("--config.data.selection.kind=legacy", *words, *flags(settings))
    legacy = settings | {"data.selection.kind": "legacy"}
    mistake("did you mean 'some_pairs_seen/accuracy'", *words, *flags(legacy))


def test_a_folder_without_images_is_refused(mistake, tmp_path):
    to = ("--to", tmp_path / "r", "--name", "r")
    mistake("no image below it", "data", "convert", tmp_path, "--flat", *to)
