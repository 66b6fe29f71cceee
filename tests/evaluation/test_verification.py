"""Verification: protocols, subsets, declared metric names, seen identities."""

import dataclasses
import functools
import json
import logging

import numpy as np
import pytest

from fr_jax.embedder.batched import BatchedEmbed
from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.verification import PROTOCOLS
from fr_jax.metrics import verification
from tests.support.pairs import PAIRS, embed, make_set

PEOPLE = [f"{letter}nn_Lee" for letter in "ABCDEFGHIJ"]


@pytest.fixture(scope="module")
def trained():
    return Trained(functools.partial(BatchedEmbed(embed, 64), 3.0), {})


def test_images_are_embedded_in_order_for_any_batch_size(trained):
    images = make_set().images
    outputs = trained.embed(images, flip=True)
    assert outputs.keys() == {"embedding", "mirrored"}
    assert outputs["embedding"].shape == (400, 2)
    angle = images[:, 0, 0, 0] * np.pi / 256
    np.testing.assert_allclose(outputs["embedding"][:, 0], 3 * np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(outputs["mirrored"], outputs["embedding"], atol=1e-5)
    odd = BatchedEmbed(embed, 7)(3.0, images[:50])
    assert odd.keys() == {"embedding"}
    np.testing.assert_allclose(odd["embedding"], outputs["embedding"][:50], atol=1e-6)
    with pytest.raises(UserError, match="no images to embed"):
        trained.embed(images[:0])


def test_insightface_protocol(trained):
    toy = make_set()
    results = toy(trained)
    angle = toy.images[:, 0, 0, 0].astype(np.float32) * (np.pi / 256)
    rows = np.stack([np.cos(angle), np.sin(angle)], 1)
    distances = verification.squared_distances(rows[::2], rows[1::2])
    expected = verification.fold_accuracy(distances, toy.same, toy.folds)
    assert results["toy/accuracy"] == pytest.approx(expected.accuracies.mean())
    assert results["toy/accuracy_std"] == pytest.approx(expected.accuracies.std())
    assert not any("_low" in name for name in results)  # not while training
    assert results["toy/xnorm"] == pytest.approx(3.0, rel=1e-5)
    scores, same = toy.curve
    np.testing.assert_allclose(scores, 1 - distances / 2, atol=1e-6)
    assert (same == toy.same).all()
    tar, _ = verification.tar_at_far(scores, toy.same, 1e-2)
    assert results["toy/tar@far=1e-2"] == tar
    assert {"toy/tar@far=1e-3:insightface", "toy/auc", "toy/eer"} <= results.keys()
    shares = {
        k: v
        for k, v in results.items()
        if "xnorm" not in k and "cosine" not in k and "pairs" not in k
    }
    assert all(0 <= value <= 1 for value in shares.values())


def test_paper_protocol_uses_the_best_threshold_and_kfold_is_not_better(trained):
    paper = make_set(folds=None, protocol="paper")
    results = paper(trained)
    assert {"toy/accuracy:paper", "toy/cosine_threshold:paper"} <= results.keys()
    scores, same = paper.curve
    auc = verification.area_under_roc(scores, same)
    assert results["toy/auc:paper"] == auc
    tar, _ = verification.tar_at_far(scores, same, "1e-3")
    assert results["toy/tar@far=1e-3:paper"] == tar
    best = max(np.mean((scores >= t) == same) for t in scores)
    assert results["toy/accuracy:paper"] == best
    kfold = make_set(folds=None, protocol="kfold")(trained)
    assert 0.5 < kfold["toy/accuracy:kfold"] <= best
    assert -1 <= kfold["toy/cosine_threshold:kfold"] <= 1


def test_curricularface_is_insightface_and_magface_is_centred(trained):
    of = {p: make_set(protocol=p)(trained) for p in PROTOCOLS}
    accuracy = of["insightface"]["toy/accuracy"]
    assert of["curricularface"]["toy/accuracy:curricularface"] == accuracy
    toy = make_set(protocol="magface")
    results = toy(trained)
    rows = trained.embed(toy.images)["embedding"].astype(np.float64)
    first, second = rows[toy.pairs[:, 0]], rows[toy.pairs[:, 1]]
    accuracies = []
    for fold in range(10):  # by an explicit loop
        rest = toy.folds != fold
        mean = np.concatenate([first[rest], second[rest]]).mean(axis=0)
        cosine = verification.cosines(first - mean, second - mean)
        angles = np.arccos(np.clip(cosine, -1, 1)) / np.pi
        grid = verification.ACCURACY_THRESHOLDS
        right = [np.mean((angles[rest] < t) == toy.same[rest]) for t in grid]
        accepted = angles[~rest] < grid[np.argmax(right)]
        accuracies.append(np.mean(accepted == toy.same[~rest]))
    assert results["toy/accuracy:magface"] == pytest.approx(np.mean(accuracies))
    assert results["toy/accuracy_std:magface"] == pytest.approx(np.std(accuracies))


def test_tars_at_any_far(trained):
    toy = make_set(fars=("1e-1", "0.3"))
    results = toy(trained)
    for far in toy.fars:
        tar, _ = verification.tar_at_far(*toy.curve, far)
        assert results[f"toy/tar@far={far}"] == tar
    assert "toy/tar@far=1e-3" not in results


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("genuine", [0, 1, PAIRS - 1, PAIRS])
def test_metrics_that_pairs_do_not_allow_are_noted(trained, protocol, genuine):
    toy = make_set(protocol=protocol)
    toy = dataclasses.replace(toy, same=np.arange(PAIRS) < genuine)
    results, suffix = toy(trained), "" if protocol == "insightface" else f":{protocol}"
    assert set(toy.metric_names) == results.keys()
    assert not results.keys() & toy.notes.keys()
    both = genuine in (1, PAIRS - 1)
    assert (f"toy/auc{suffix}" in results) == both
    assert (f"toy/accuracy{suffix}" in results) == (both and protocol == "paper")
    if both and protocol != "paper":
        kind = "genuine" if genuine == 1 else "impostor"
        reason = f"1 {kind} pair; folds need 2 of each kind"
        assert toy.notes[f"toy/accuracy{suffix}"] == reason
    elif not both:
        kind = "genuine" if genuine == 0 else "impostor"
        assert set(toy.notes.values()) == {f"no {kind} pairs"}
        assert f"toy/eer{suffix}" in toy.notes
    assert f"toy/xnorm{suffix}" in results


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"same": np.ones(199, bool)}, "toy: 199 labels, 200 pairs"),
        ({"folds": np.zeros(7, int)}, "toy: 7 folds, 200 pairs"),
        ({"identities": ["Ann"]}, "toy: 1 identities of 400 images"),
        ({"images": np.zeros((9, 4, 4, 3))}, "pairs of images 0 to 399; there are 9"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, match):
    with pytest.raises(UserError, match=match):
        dataclasses.replace(make_set(), **change)


# --- folds ----------------------------------------------------------------------------


def short(count, kinds, **options):
    """Returns the first `count` pairs of a kind and of the other, as `kinds` says."""
    toy, rows = make_set(**options), []
    for kind, number in zip(kinds, count):
        rows += np.flatnonzero(toy.same == kind)[:number].tolist()
    pairs, same = toy.pairs[rows], toy.same[rows]
    folds = np.arange(len(rows)) * 10 // len(rows)
    return dataclasses.replace(toy, pairs=pairs, same=same, folds=folds)


@pytest.mark.parametrize("protocol", ["insightface", "kfold"])
@pytest.mark.parametrize(
    ("count", "kinds", "folds"),
    [
        ((3, 2), (True, False), 2),
        ((2, 2), (False, True), 2),
        ((2, 90), (True, False), 2),
        ((9, 9), (True, False), 9),
        ((60, 60), (True, False), 10),
        ((40, 90), (False, True), 10),
    ],
    ids=str,
)
def test_short_and_sorted_sets_have_stratified_folds(
    trained, protocol, count, kinds, folds
):
    toy = short(count, kinds, protocol=protocol)
    results = toy(trained)
    json.dumps(results, allow_nan=False)
    assert set(toy.metric_names) == results.keys()
    suffix = ":kfold" if protocol == "kfold" else ""
    as_usual = protocol == "kfold" and folds == 10
    assert results.get(f"toy/stratified_folds{suffix}") == (None if as_usual else folds)
    # By an explicit loop over the folds.
    numbers = verification.stratified_folds(toy.same, folds)
    assert all({True, False} == set(toy.same[numbers == n]) for n in range(folds))
    distances = 2 - 2 * toy.curve[0]
    if protocol == "insightface":
        correct = []
        for fold in range(folds):
            rest = numbers != fold
            accuracy = [
                np.mean((distances[rest] < t) == toy.same[rest])
                for t in verification.ACCURACY_THRESHOLDS
            ]
            threshold = verification.ACCURACY_THRESHOLDS[np.argmax(accuracy)]
            accepted = distances[~rest] < threshold
            correct.append(np.mean(accepted == toy.same[~rest]))
        assert results["toy/accuracy"] == pytest.approx(np.mean(correct))


@pytest.mark.parametrize("kind", [True, False])
def test_official_folds_that_lack_a_kind_are_replaced(trained, kind):
    toy = make_set()
    assert not any("stratified" in name for name in toy.metric_names)
    kept = (toy.folds != 4) | (toy.same == kind)
    parts = {name: getattr(toy, name)[kept] for name in ("pairs", "same", "folds")}
    lacking = dataclasses.replace(toy, **parts)
    results = lacking(trained)
    assert results["toy/stratified_folds"] == 10
    numbers = verification.stratified_folds(lacking.same)
    distances = 2 - 2 * lacking.curve[0]
    expected = verification.fold_accuracy(distances, lacking.same, numbers)
    assert results["toy/accuracy"] == pytest.approx(expected.accuracies.mean())
    assert lacking.mark_seen({"toy": []}).seen == frozenset(range(10))
    assert lacking.subset(40)(trained).keys() >= {"toy:40/accuracy"}


def test_number_of_dropped_pairs_is_a_result(trained):
    for dropped in (0, 7):
        toy = make_set(dropped=dropped)
        assert toy(trained)["toy/dropped_pairs"] == dropped
        assert "toy/dropped_pairs" in toy.metric_names
    assert "toy/dropped_pairs" not in make_set()(trained)


def test_embeddings_that_are_not_finite_are_named():
    broken = Trained(functools.partial(BatchedEmbed(embed, 64), np.nan), {})
    with pytest.raises(UserError, match="toy: 400 of 400 embeddings are not finite"):
        make_set()(broken)


# --- declared metric names ------------------------------------------------------------


def seen_sets():
    """Every protocol, with and without folds, with none, some or all folds seen."""
    trained_on = {"none": 0, "some": 7, "all": 10}
    identities = [PEOPLE[pair // 20] for pair in range(PAIRS) for _ in range(2)]
    for protocol in PROTOCOLS:
        for with_folds in (True, False):
            for seen, count in trained_on.items():
                options = {"protocol": protocol, "identities": identities}
                if not with_folds:
                    options["folds"] = None
                trained = {"train": PEOPLE[:count]}
                toy = functools.partial(make_set, **options)
                case = f"{protocol}, {'folds' if with_folds else 'no folds'}, {seen}"
                yield pytest.param(toy, trained, id=f"{case} seen")


@pytest.mark.parametrize(("toy", "trained_on"), list(seen_sets()))
def test_metric_names_are_the_keys_of_the_results(trained, toy, trained_on):
    marked = toy().mark_seen(trained_on)
    results = marked(trained)
    assert set(marked.metric_names) == results.keys() != set()
    assert len(marked.metric_names) == len(results)
    assert all(name.startswith(marked.name) for name in results)


def test_metric_names_of_a_subset_are_the_keys_of_its_results(trained):
    part = make_set().subset(40)
    assert set(part.metric_names) == part(trained).keys()
    assert "toy:40/accuracy" in part.metric_names


def test_metric_names_of_a_set_seen_by_name_are_the_keys_of_its_results(trained):
    marked = make_set("cfp_fp").mark_seen({"cfp": ["001"]})
    assert set(marked.metric_names) == marked(trained).keys()


# --- subsets --------------------------------------------------------------------------


def test_subset_has_the_first_pairs_of_each_fold_and_kind():
    toy = make_set(identities=[f"p{n % 30}" for n in range(2 * PAIRS)])
    part = toy.subset(40)
    assert part.name == "toy:40"
    assert np.bincount(part.folds).tolist() == [4] * 10
    assert np.bincount(part.folds, part.same).tolist() == [2] * 10
    rows = [20 * fold + pair for fold in range(10) for pair in (0, 1, 10, 11)]
    for number, row in enumerate(rows):
        for side in (0, 1):
            before, after = toy.pairs[row, side], part.pairs[number, side]
            assert (part.images[after] == toy.images[before]).all()
            assert part.identities[after] == toy.identities[before]
    assert toy.subset(5000) is toy
    with pytest.raises(UserError, match="has no 3 pairs"):
        toy.subset(3)


# --- training identities --------------------------------------------------------------


def test_folds_of_seen_identities_are_reported_separately(trained, caplog):
    identities = [PEOPLE[pair // 20] for pair in range(PAIRS) for _ in range(2)]
    toy = make_set(identities=identities)
    assert toy.mark_seen({"other": ["x"]}) is toy
    with caplog.at_level(logging.WARNING, "absl"):
        marked = toy.mark_seen({"train": PEOPLE[:9]})
    assert "toy: 9 identities have the names of training identities" in caplog.text
    assert marked.seen == frozenset(range(9))
    results = marked(trained)
    assert "toy/accuracy" not in results
    whole = toy(trained)
    assert results["toy_seen/accuracy"] == whole["toy/accuracy"]
    # The last fold, at the threshold of the nine other folds.
    scores, _ = toy.curve
    measured = verification.fold_accuracy(2 - 2 * scores, toy.same, toy.folds)
    assert results["toy_heldout/accuracy"] == pytest.approx(measured.accuracies[9])
    assert "toy_heldout/tar@far=1e-2" in results


def test_set_without_identities_counts_as_seen_by_its_name(trained):
    named = make_set("cfp_fp")
    unknown = named.mark_seen({"lfw": ["a"]})
    assert (unknown.seen, unknown.unknown) == (frozenset(), True)
    results = named.mark_seen({"cfp": ["001"]})(trained)
    assert "cfp_fp_seen/accuracy" in results
    assert not any("heldout" in key for key in results)
    plain = make_set("cfp_list", folds=None, protocol="paper")
    results = plain.mark_seen({"cfp": ["001"]})(trained)
    assert "cfp_list_seen/accuracy:paper" in results


@pytest.mark.parametrize("identities", [None, ["Ann"] * (2 * PAIRS)])
def test_seen_set_without_official_folds_has_no_held_out_results(trained, identities):
    toy = make_set("cfp_list", folds=None, identities=identities)
    results = toy.mark_seen({"cfp": ["Ann"]})(trained)
    assert "cfp_list_seen/accuracy" in results
    assert not any("heldout" in key for key in results)
