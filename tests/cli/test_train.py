"""`fr-jax train`: files of a run, resuming, and invalid settings."""

import contextvars
import json
import os
import shutil

import numpy as np
import pytest

import fr_jax
from data_pipelines import lock
from data_pipelines.builders import faces as builder
from data_pipelines.record_set import RecordSet
from tests.support.commands import CONFIGS, INTER_PROTOTYPE, call, flags
from tests.support.faces import encoded, picture, some_faces
from tests.support.paths import read_npz

# The tests share a run, and compiled programs with other tests that render.
pytestmark = [
    pytest.mark.usefixtures("quick_drawing", "quick_compilation"),
    pytest.mark.xdist_group("drawn"),
]
CONFIG = CONFIGS["inter_prototype"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_drawing, quick_compilation):
    """The workdir of a short run on rendered faces, from the packaged configuration."""
    workdir = tmp_path_factory.mktemp("trained") / "w"
    words = ("--config=inter_prototype:smoke", "--workdir", workdir)
    assert call("train", *words, *flags(INTER_PROTOTYPE)) == 0
    return workdir


def test_run_writes_an_embedder_results_metrics_and_figures(trained):
    for name in (
        "config.json",
        "metrics.jsonl",
        "results.json",
        "embedder/weights.npz",
    ):
        assert (trained / name).exists()
    for name in ("roc", "training"):
        assert (trained / f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert list(trained.glob("events*"))
    rows = [json.loads(r) for r in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["inter_prototype_loss"] > 0
    results = json.loads((trained / "results.json").read_text())
    assert 0 <= results["unseen/accuracy"] <= 1
    description = json.loads((trained / "embedder/embedder.json").read_text())
    provenance = description["provenance"]
    assert provenance["steps"] == 4
    assert "note" not in provenance  # children are not stand-ins
    assert provenance["identities"]["rendered"][7] == "s4885n0000007"
    assert len(provenance["identities"]["rendered"]) == 8


SAME = ("train", f"--config={CONFIG}:smoke", *flags(INTER_PROTOTYPE))


def test_run_resumes_with_a_free_setting_changed(command, trained):
    """The file and the packaged name are the same configuration."""
    words = (*SAME, "--workdir", trained, "--config.train.log_every=1")
    code, _, error = command(*words)
    assert code == 0, error
    assert "resumed at step 4" in error


def test_run_does_not_resume_with_another_configuration(mistake, trained):
    words = (*SAME, "--workdir", trained, "--config.system.optimizer.learning_rate=0.2")
    mistake("system.optimizer.learning_rate: 0.1 before, 0.2 now", *words)


def test_configuration_is_compared_without_config_json(command, mistake, trained):
    file = trained / "config.json"
    text = file.read_text()
    file.unlink()
    words = (*SAME, "--workdir", trained)
    mistake(
        "system.optimizer.learning_rate: 0.1 before, 0.2 now",
        *words,
        "--config.system.optimizer.learning_rate=0.2",
    )
    file.write_text('{"system": {}}')
    code, _, error = command(*words)
    assert code == 0, error
    assert file.read_text() == text


def test_run_does_not_resume_with_start_weights_that_it_lacked(mistake, trained):
    words = (*SAME, "--workdir", trained, "--init-from", trained / "embedder")
    mistake("weights given as init: 'absent' before", *words)


def test_workdir_in_use_is_refused_naming_the_process(mistake, trained):
    context, other = contextvars.Context(), lock.exclusive(trained)
    context.run(other.__enter__)
    try:
        mistake(f"is in use by process {os.getpid()} on ", *SAME, "--workdir", trained)
    finally:
        context.run(other.__exit__, None, None, None)


@pytest.mark.long
def test_finished_run_is_prolonged(command, mistake, trained, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)
    words = (*SAME, "--workdir", workdir, "--config.train.num_steps=6")
    mistake("train.num_steps: 4 before, 6 now", *words)
    mistake("or prolong the run with --prolong", *words)
    words = (*words, "--prolong")
    mistake("train.seed: 4885 before, 1 now", *words, "--config.train.seed=1")
    code, _, error = command(*words)
    assert code == 0, error
    assert "resumed at step 4" in error
    # A cosine: (1 + cos(pi 4 / 6)) / 2.
    assert "at step 4 the learning rate is 0.25 of its highest instead of 0" in error
    provenance = json.loads((workdir / "embedder/embedder.json").read_text())
    assert provenance["provenance"]["steps"] == 6
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["train"]["num_steps"] == 6
    mistake("has 6 steps, more than 4", *SAME, "--workdir", workdir, "--prolong")


def test_nothing_is_prolonged_where_nothing_was_begun(mistake, trained, tmp_path):
    mistake("it holds no run", *SAME, "--workdir", tmp_path / "w", "--prolong")
    words = (*SAME, "--workdir", trained, "--prolong", "--fresh")
    mistake("--fresh begins anew", *words)
    assert not (tmp_path / "w").exists()
    assert (trained / "checkpoints").exists()


@pytest.mark.long
def test_init_from_starts_with_the_weights_of_an_embedder(command, trained, tmp_path):
    words = (*SAME, "--init-from", trained / "embedder", "--workdir", tmp_path / "w")
    code, _, error = command(*words, "--config.system.optimizer.learning_rate=0.0")
    assert code == 0, error
    weights = [read_npz(w / "embedder/weights.npz") for w in (trained, tmp_path / "w")]
    name = "params/conv1/kernel"
    np.testing.assert_array_equal(weights[0][name], weights[1][name])


def test_weights_of_another_width_are_refused(mistake, trained, records, tmp_path):
    words = (*on_records(records), "--init-from", trained / "embedder")
    mistake(
        "--config.system.backbone_options.width=0.125",
        *words,
        "--workdir",
        tmp_path / "v",
        "--config.system.backbone_options.width=0.25",
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of six identities p0 .. p5 with four faces of 20 pixels each."""
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "some", size=20)[0]


def on_records(records):
    settings = INTER_PROTOTYPE | {
        "data.source": "records",
        "data.records.path": records,
    }
    return ("train", f"--config={CONFIG}:smoke", *flags(settings))


def test_run_goes_on_with_the_same_records_only(command, mistake, tmp_path):
    """Moved records are the same; rebuilt ones are not, under whatever path."""

    def build(folder, faces):
        return builder.build(faces, tmp_path / folder, "some", size=20)[0]

    faces = list(some_faces())
    first = build("a", faces)
    workdir = tmp_path / "w"
    words = ("--workdir", workdir, "--config.train.num_steps=2")
    code, _, error = command(*on_records(first), *words)
    assert code == 0, error
    shutil.move(tmp_path / "a", tmp_path / "moved")
    code, _, error = command(*on_records(tmp_path / "moved/some"), *words)
    assert code == 0, error
    assert "resumed at step 2" in error
    for name, others, match in (
        ("fewer", faces[:-4], "some.identities: 6 before, 5 now"),
        ("more", [*faces, faces[0]], "some.images: 24 before, 25 now"),
        ("names", renamed(faces), "other identities, labels or images"),
        ("images", redrawn(faces), "other identities, labels or images"),
    ):
        other = build(name, others)
        mistake(match, *on_records(other), *words)
    description = json.loads((workdir / "embedder/embedder.json").read_text())
    names = description["provenance"]["identities"]["some"]
    assert names == [f"p{n}" for n in range(6)]


def renamed(faces):
    return [face._replace(identity=f"q{face.identity}") for face in faces]


def redrawn(faces):
    """The first image is another one."""
    return [faces[0]._replace(image=encoded(image=picture(20, 20, 999))), *faces[1:]]


@pytest.mark.long
def test_fresh_run_keeps_the_earlier_one(command, records, tmp_path):
    workdir = tmp_path / "w"
    words = (*on_records(records), "--workdir", workdir, "--config.train.num_steps=2")
    assert command(*words)[0] == 0
    code, _, error = command(*words, "--fresh", "--config.train.seed=1")
    assert code == 0, error
    assert f"the earlier run was moved to {workdir}/previous-1" in error
    assert "resumed" not in error
    seeds = [
        json.loads((workdir / folder / "config.json").read_text())["train"]["seed"]
        for folder in ("previous-1", ".")
    ]
    assert seeds == [4885, 1]
    for name in ("checkpoints/2", "embedder/weights.npz", "metrics.jsonl"):
        assert (workdir / "previous-1" / name).exists()


def test_configured_evaluation_sets_are_evaluated(command, mistake, records, tmp_path):
    """During training, they determine the step that is handed over."""
    import pickle

    images = [encoded(image=picture(20, 20, n)) for n in range(40)]
    (tmp_path / "toy.bin").write_bytes(pickle.dumps((images, [True, False] * 10)))
    workdir = tmp_path / "w"
    words = (
        *on_records(records),
        "--workdir",
        workdir,
        f"--config.evaluation.sets=('toy={tmp_path}/toy.bin',)",
        "--config.evaluation.subset=20",
        "--config.train.evaluate_every=2",
        "--config.train.best_metric=toy/accuracy",
    )
    mistake("20x20 pixels, expected 112x112; align them with `fr-jax data", *words)
    assert not workdir.exists()
    code, _, error = command(*words, "--config.evaluation.unaligned=True")
    assert code == 0, error
    rows = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
    scores = {r["step"]: r["toy/accuracy"] for r in rows if "toy/accuracy" in r}
    assert list(scores) == [2, 4]
    description = json.loads((workdir / "embedder/embedder.json").read_text())
    provenance = description["provenance"]
    best = {"metric": "toy/accuracy", "value": max(scores.values()), "last_step": 4}
    assert provenance["best"] == best
    assert scores[provenance["steps"]] == best["value"]
    assert provenance["note"] == "step chosen by toy/accuracy"
    assert provenance["identities"] == {"some": [f"p{n}" for n in range(6)]}
    stored = fr_jax.load_embedder(workdir / "embedder").digests
    with RecordSet(records) as trained_on:
        assert stored.tolist() == sorted(trained_on.digest.tolist())
    assert "toy/accuracy" in json.loads((workdir / "results.json").read_text())


def test_batch_larger_than_the_rendered_set_is_refused(mistake, tmp_path):
    words = (*SAME, "--workdir", tmp_path / "w", "--config.data.batch_size=9999")
    mistake("a batch of 9999 rows from a set of 48", *words)
    assert not (tmp_path / "w").exists()


def test_layout_1_is_refused_before_embedders_are_loaded(mistake, tmp_path):
    (tmp_path / "checkpoints/500").mkdir(parents=True)
    mistake("fr_jax 0.1.0", *SAME, "--workdir", tmp_path, "--init-from", "nowhere")
    assert not (tmp_path / "config.json").exists()


# Refused before rendering.
RENDERED = [
    ("--config.system.optimizer.learning_rat=1", "did you mean 'learning_rate'"),
    (
        "--config.system.optimizer.learning_rate=high",
        "expected float (default: 0.1), got str",
    ),
    ("--config.system.optimizer.learning_rate", "needs a value"),
    ("--workdr=x", "did you mean '--workdir'"),
    ("--config.system.backbone=iresnet_18", "did you mean 'iresnet18'"),
    ("--config.system.head=cosfase", "did you mean 'cosface'"),
    ("--config.system.head=softmax", "unknown option 'margin' of head softmax"),
    ("--config.system.backbone_options.dtype=bfloat", "unknown dtype 'bfloat'"),
    ("--num-processes=2", "need --distributed"),
    ("--config.system_name=interprototype", "did you mean 'inter_prototype'"),
    ("--config.system_name=json", "system 'json' has no function make()"),
    ("--config.data.source=disk", "unknown data source 'disk'"),
    ("--init-from={t}", "no embedder here"),
    ("--given=x", "expected NAME=EMBEDDER, got 'x'"),
    ("--config.data.children.stand_ins=50", "is 50, for records"),
    ("--config.data.rendered.size=8", "rendered.size is 8; use 16 or more"),
    ("--config.data.rendered.num_unseen=25", "25 identities for 10 disjoint folds"),
    ("--config.train.num_steps=-5", "-5 steps of training"),
    ("--config.train.ema_decay=1.5", "an EMA decay of 1.5"),
    ("--config.data.batch_size=0", "a batch of 0 rows"),
    ("--config.train.seed=-1", "seed is -1; use 0 to 4294967295"),
    ("--config.train.save_every=0", "save_every is 0; use 1 or more"),
]


@pytest.mark.parametrize(
    ("word", "match"), RENDERED, ids=[word.strip("-") for word, _ in RENDERED]
)
def test_invalid_setting_is_refused_before_rendering(
    mistake, monkeypatch, tmp_path, word, match
):
    from fr_jax.faces import sets

    monkeypatch.setattr(sets, "render_set", lambda *_, **__: pytest.fail("rendered"))
    mistake(match, *SAME, "--workdir", tmp_path / "w", word.format(t=tmp_path))
    assert not (tmp_path / "w").exists()


ON_RECORDS = [
    ("--config.train.save_every=0", "save_every is 0"),
    ("--config.system.backbone_options.bn_groups=3", "8 rows"),
    ("--config.train.best_metric=a/accuracy", "needs evaluate_every"),
    ("--config.data.batch_size=0", "a batch of 0 rows"),
    ("--config.data.records.path=", "--config.data.records.path=DIR/NAME"),
    ("--config.data.records.path={t}", "no face records here"),
    ("--config.data.records.identities=001:450", "001"),
    ("--config.data.records.identities=p1:p1", "at least 2"),
    ("--config.data.children.stand_ins=5000", "5000"),
    (
        "--config.data.records.expected_identities=10572",
        "is 10,572, the records have 6",
    ),
    ("--config.data.children.published=casia", "come from an age file"),
    ("--config.data.children.published=casai", "did you mean 'casia'"),
]


@pytest.mark.parametrize(
    ("word", "match"), ON_RECORDS, ids=[word.strip("-") for word, _ in ON_RECORDS]
)
def test_invalid_setting_for_records_is_refused(
    mistake, records, tmp_path, word, match
):
    words = (*on_records(records), "--workdir", tmp_path / "w")
    mistake(match, *words, word.format(t=tmp_path))
    assert not (tmp_path / "w/checkpoints").exists()
