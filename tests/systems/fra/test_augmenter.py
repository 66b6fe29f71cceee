"""FRA's augmenter, its evaluator with figures, and `fr-jax evaluate --augmenter`.

In one file, since they share the compiled programs of one network.
"""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.results import evaluate_and_write
from fr_jax.faces.landmark_maps import SIZE
from fr_jax.report import figures as report
from fr_jax.systems.fra import (
    augment_embeddings,
    comparison,
    evaluation,
    evaluator,
    figures,
    nearness,
    stored,
)
from fr_jax.systems.fra import augmenter as fra_augmenter
from fr_jax.systems.fra import classifiers as kinds
from fr_jax.systems.fra.augmenter import Augmenter, check_embedder
from fr_jax.systems.fra.faces import Faces
from tests.support import steps
from tests.support.fra import D, Regressor, Stub, factors, fitted_maps, network


@pytest.fixture(scope="module")
def trained(quick_compilation):
    return network(Stub())


@pytest.fixture(scope="module")
def augmenter(trained):
    return Augmenter(trained, batch_size=16)


@pytest.fixture(scope="module")
def outputs(trained):
    """Of the network, for the first 20 samples with their own maps."""
    samples, model = factors(), models.create("fra", **trained.network.options)
    apply = jax.jit(model.apply, compiler_options=steps.QUICK)
    maps = samples.maps[:20].astype(np.float32)
    return apply(trained.variables, maps, samples.embedding[:20])


@pytest.fixture
def shared(monkeypatch, augmenter):
    """Compiled once: the augmenter that the package makes of `trained`."""
    for module in (evaluator, fra_augmenter):
        monkeypatch.setattr(module, "Augmenter", lambda _: augmenter)
    return augmenter


def test_batches_are_padded_and_rows_chosen(outputs, augmenter):
    samples = factors()
    rows, maps = samples.embedding[:20], samples.maps[:20]
    made = augmenter.generate(rows, maps)
    assert made.shape == (20, D) and made.dtype == np.float32
    np.testing.assert_allclose(made, outputs["generated"], atol=1e-4)
    given, picture = np.array([3, 3, 0]), np.array([1, 7, 19])
    several = augmenter.generate(rows, maps, given, picture)
    np.testing.assert_allclose(
        several, augmenter.generate(rows[given], maps[picture]), atol=1e-5
    )
    decoded = augmenter.reconstruct(maps[:3])
    np.testing.assert_allclose(decoded, outputs["reconstruction"][:3], atol=1e-4)
    nothing = np.zeros(0, int)
    assert augmenter.generate(rows, maps, nothing, nothing).shape == (0, D)


def test_attention_of_the_class_token(trained, outputs, augmenter):
    """By hand in the first layer: token 0 to the four patches."""
    samples = factors()
    rows, maps = samples.embedding[:3], samples.maps[:3]
    weights = augmenter.attention(rows, maps)
    assert weights.shape == (3, 2, 2, 2, 2)
    p = trained.network.variables["params"]

    def norm(x, by):
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * by["scale"]
            + (by["bias"])
        )

    def dense(x, by):
        return x @ by["kernel"] + by["bias"]

    joined = np.concatenate([outputs["code"][:3], dense(rows, p["adapter_in"])], axis=1)
    image = norm(joined, p["normalizer"]).reshape(3, 8, 8)
    patches = image.reshape(3, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(3, 4, 16)
    vit = p["vit"]
    first = np.broadcast_to(vit["cls_token"], (3, 1, 8))
    tokens = np.concatenate([first, dense(patches, vit["input_layer"])], axis=1)
    layer = vit["transformer_0"]
    x = norm(tokens + vit["pos_embedding"][:, :5], layer["layer_norm_1"])
    joint = dense(x, layer["attn"]["in_proj"])
    query, key, _ = np.split(joint, 3, axis=-1)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = np.einsum("nd,ntd->nt", query[:, 0, part], key[:, :, part]) / 2
        expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        np.testing.assert_allclose(
            weights[:, 0, head].reshape(3, 4), expected[:, 1:], atol=1e-4
        )


def test_embeddings_are_augmented_image_by_image(trained, shared):
    images = np.random.default_rng(5).integers(0, 9, (3, 30, 30, 3)).astype(np.uint8)
    maps = factors().maps[[0, 40, 80, 5]]
    made = augment_embeddings(Stub(), trained, images, maps)
    assert made.shape == (12, D) and made.dtype == np.float32
    rows = Stub().embed(images, normalize=False)
    one = shared.generate(rows[[1]], maps[[3]])
    np.testing.assert_allclose(made[1 * 4 + 3], one[0], atol=1e-5)


def test_another_embedder_is_refused_with_both_names(trained):
    other, maps = Stub(2.0), factors().maps[:2]
    images = np.zeros((1, 30, 30, 3), np.uint8)
    with pytest.raises(UserError) as raised:
        augment_embeddings(other, trained, images, maps)  # of equal length
    for one in (Stub(), other):
        assert stored.identity(one) in str(raised.value)
    assert stored.identity(Stub()) != stored.identity(other)
    spec = other.network.input_spec._replace(colour="BGR")
    other = Stub()
    other.network = other.network._replace(input_spec=spec)
    with pytest.raises(UserError, match='"colour": "BGR"'):
        check_embedder(Augmenter(trained), other)


def test_an_imported_augmenter_states_no_embedder():
    imported = Augmenter(network())
    assert not check_embedder(imported, Stub())
    with pytest.raises(UserError, match=f"of {D} values; the given .* returns 7"):
        check_embedder(imported, Stub(size=7))


@pytest.mark.parametrize(
    ("match", "rows", "maps"),
    [
        ("embeddings \\[N, 24\\], got \\[2, 7\\]", np.zeros((2, 7)), None),
        ("2 embeddings and 3 landmark maps", np.zeros((2, D)), None),
        ("not finite", np.full((3, D), np.nan), None),
        ("maps are \\[N, 112, 112, 1\\], got", np.zeros((3, D)), np.zeros((3, 9, 9))),
        ("values 0 and 1", np.zeros((3, D)), np.full((3, SIZE, SIZE, 1), 255)),
    ],
)
def test_unsuitable_arrays_are_refused(augmenter, match, rows, maps):
    maps = np.zeros((3, SIZE, SIZE, 1)) if maps is None else maps
    with pytest.raises(UserError, match=match):
        augmenter.generate(rows, maps)


def test_other_kinds_are_refused():
    with pytest.raises(UserError, match="kind 'embedding' .* augments no embeddings"):
        Augmenter(SimpleNamespace(network=Stub().network))


# --- the evaluator ------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Figures instead of files, by name."""
    made = {}

    def save(figure, path):
        made[path.name] = figure

    for module in (report, figures):
        monkeypatch.setattr(module, "save", save)
    return made


@pytest.mark.parametrize("protocol", evaluation.PROTOCOLS)
def test_an_evaluation_with_its_figures(
    trained, shared, drawn, tmp_path, protocol, capsys
):
    samples, calls = factors(repeats=1), []
    one = evaluator.AugmenterEvaluator(
        lambda: calls.append(1) or samples,
        lambda: fitted_maps(samples),
        protocol=protocol,
        classifiers=("svm", "knn"),
        repeats=2,
        num_tuples=150,
        show_progress=True,
    )
    results = one(Trained(trained.embed_raw, {"augmenter": trained}))
    assert results.keys() >= set(one.metric_names)
    assert all(np.isfinite(list(results.values())))
    assert ("fra/pose_accuracy_train:knn@objective=1" in results) == (
        protocol == "original"
    )
    assert "a linear map for each pose is nearer to the true" in capsys.readouterr().err
    paths = one.draw(tmp_path)
    assert len(calls) == 1
    assert sorted(path.name for path in paths) == sorted(drawn)
    assert all(isinstance(figure, Figure) for figure in drawn.values())
    assert len(drawn["fra_roc_identity.png"].axes) == 3
    assert len(drawn["fra_tsne.png"].axes) == 2
    attention = drawn["fra_attention.png"].axes
    assert len(attention) == 4 and attention[0].images[0].get_array().shape == (2, 2)
    confusion = drawn["fra_confusion_pose.png"].axes[1].images[0].get_array()
    shares = confusion.sum(axis=1)  # 0 for classes without test rows
    np.testing.assert_allclose(shares[shares > 0], 1)
    assert shares.any()
    sheet = drawn["fra_reconstructions.png"].axes[0].images[0].get_array()
    assert set(np.unique(sheet)) == {0, 255}


def test_results_of_networks_without_embeddings_are_written(trained, tmp_path):
    """As after training, which hands over the augmenter only."""
    found = []

    def stub(networks):
        found.append(networks.networks["augmenter"])
        return {"fra/nearer:input": 0.5}

    evaluate_and_write([stub], {"augmenter": trained}, epath.Path(tmp_path))
    assert found == [trained]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == {"fra/nearer:input": 0.5}


def test_curves_leave_out_classes_without_test_rows(drawn, tmp_path):
    true = np.array([0, 0, 2, 2])
    scores = np.array([[2, 0, 1], [3, 0, 1], [0, 0, 4], [2.5, 9, 2]])
    one = kinds.Outcome(true, scores.argmax(1), scores, np.arange(3))
    for kind in ("roc", "precision_recall"):
        path = tmp_path / f"{kind}.png"
        figures.curves({2: one}, ["a", "b", "c"], path, kind=kind)
        (axes,) = drawn[path.name].axes
        labels = axes.get_legend_handles_labels()[1]
        assert [label[0] for label in labels[:2]] == ["a", "c"]
        assert not any(label.startswith("b") for label in labels)
    assert labels[1] == "c (1.000)"
    assert "AUC 0.8750" in drawn["roc.png"].axes[0].get_legend().get_title().get_text()


def test_a_run_is_evaluated_on_held_out_persons_only():
    options = {"protocol": "clean", "classifiers": ("svm",), "repeats": 2}

    def of(held_out, **changes):
        config = SimpleNamespace(
            evaluation=SimpleNamespace(**{**options, **changes}),
            landmark_frame="loose",
            faithful_landmarks=False,
            num_tuples=100,
        )
        context = SimpleNamespace(seed=3, show_progress=False, workdir="")
        args = config, context, Stub(), None, None, None, held_out
        return evaluator.of_run(*args)

    assert not of(None) and not of(lambda: None, protocol="")
    (one,) = of(lambda: None)
    assert (one.protocol, one.repeats, one.seed) == ("clean", 2, 3)
    (one,) = of(None, protocol="original")  # the training images, as published
    assert one.num_tuples == 100


# --- fr-jax evaluate --augmenter ----------------------------------------------------


@pytest.fixture
def evaluate(monkeypatch, tmp_path, trained, shared, drawn):
    """The command, with networks and records in memory."""
    samples = factors(repeats=1)
    images = np.zeros((len(samples.session), 4, 4, 3), np.uint8)
    faces = Faces(
        "mine",
        "none",
        4,
        *(list(samples.names[n]) for n in ("identity", "expression", "pose")),
        *(samples.labels[n] for n in ("identity", "expression", "pose")),
        samples.session,
        np.random.default_rng(0).uniform(1, 3, (len(images), 68, 2)),
        lambda numbers: images[numbers],
        np.arange(len(images)),
    )
    networks = {"mbf": Stub(), "other": Stub(2.0), "points": Regressor()}
    networks["embedder_augmenter"] = trained
    monkeypatch.setattr(
        comparison, "load_embedder", lambda path: networks[str(path).split("/")[-1]]
    )
    monkeypatch.setattr(
        comparison.faces, "of_records", lambda *_, **__: (faces, {"bad": 2})
    )
    monkeypatch.setattr(
        comparison.embeddings, "of_faces", lambda *_: [samples.embedding]
    )

    def run(words):
        from fr_jax.cli.main import main

        with pytest.raises(SystemExit) as left:
            main(["evaluate", "--to", str(tmp_path / "out"), *words.split()])
        return left.value.code

    return run


def test_the_command_writes_results(evaluate, trained, tmp_path, capsys, monkeypatch):
    augmenter = f"--augmenter {tmp_path}/embedder_augmenter --given embedder=mbf"
    assert evaluate(f"{augmenter} --set a=records,classifiers=knn,repeats=2") == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert "fra/identity_gain:knn" in results and "fra/cosine:input" in results
    assert "fra/cosine:linear" not in results
    out = capsys.readouterr().out
    assert "fra/identity_gain:knn" in out and "dropped: 2 bad" in out
    assert "nearness is not compared with linear maps" in out
    monkeypatch.setitem(trained.provenance, "identities", {"mine": ["p3"]})
    assert evaluate(f"{augmenter} --set a=records") == 2
    assert "trained on, such as p3; choose others" in capsys.readouterr().err
    words = f"{augmenter} --set a=records,protocol=original,classifiers=knn,tuples=150"
    assert evaluate(words) == 0  # as published, on what was trained on
    maps = fitted_maps(factors())
    maps.save(tmp_path / nearness.FILE)
    assert evaluate(words) == 2
    error = capsys.readouterr().err
    assert "of an embedder; the given" in error and stored.identity(Stub()) in error


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--augmenter {a}", "--given embedder=EMBEDDER"),
        ("--augmenter {a} --given mbf=mbf", "--given embedder=EMBEDDER"),
        ("--augmenter {a} --given embedder=other", "was trained for embeddings of"),
        ("--augmenter {a} --given embedder=mbf --given points=points",
         "unknown network 'points' of --given"),
        ("--augmenter {a} --given embedder=mbf --given landmarks=other",
         "--given landmarks=: a network of kind 'embedding'"),
        ("--augmenter {a} --given embedder=mbf --given landmarks=points "
         "--set a=rendered", "rendered faces have exact landmarks"),
        ("--augmenter {a} --given embedder=mbf --set a=r,protocol=paper",
         "unknown protocol 'paper'"),
        ("--augmenter {a} --given embedder=mbf --set a=r,classifiers=svn",
         "did you mean 'svm'"),
        ("--augmenter {a} --given embedder=mbf --set a=r,repeats=no", "repeats=no"),
        ("--augmenter {a} --given embedder=mbf --set a=rendered,identities=1",
         "identities=1: give 2 or more"),
        ("--augmenter {a} --given embedder=mbf --set a=r --set b=r", "one set at a"),
        ("--augmenter {a} --augmenter {a} --given embedder=mbf", "the same name"),
        ("--augmenter {a} --embedder mbf", "give either"),
        ("--embedder mbf --given embedder=mbf", "--given needs --augmenter"),
        ("--augmenter {a} --given embedder=mbf --unaligned", "needs --embedder"),
        ("--augmenter {a} --given embedder=mbf --resamples 50",
         "--resamples needs --embedder or --generator"),
        ("--augmenter {a} --given embedder=mbf --recogniser mbf",
         "--recogniser needs --generator"),
    ],
)  # fmt: skip
def test_unsuitable_commands_are_refused(evaluate, tmp_path, capsys, words, match):
    assert evaluate(words.format(a=f"{tmp_path}/embedder_augmenter")) == 2
    assert match in capsys.readouterr().err
