"""Pairs of templates in the form of IJB-C, against plain loops over the lists."""

import numpy as np
import pytest

from data_pipelines import DataError
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import verification
from tests.support import ijb as support


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return support.write(tmp_path_factory.mktemp("ijb") / "IJBC")


def trained(stored) -> Trained:
    return Trained(stored.embed_raw, {})


def plain_scores(release, *, norm, detector, unit_media, angle):
    """The protocol as published, template by template and pair by pair."""
    features = release.features
    if not norm:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    if detector:
        features = features * release.score[:, None]
    rows = {}
    for template in set(release.template.tolist()):
        own = release.template == template
        total = 0
        for media in set(release.media[own].tolist()):
            mean = features[own & (release.media == media)].mean(axis=0)
            total = total + (mean / np.linalg.norm(mean) if unit_media else mean)
        rows[template] = total / np.linalg.norm(total)
    scores = np.array([rows[a] @ rows[b] for a, b, _ in release.pairs.tolist()])
    return 1 - np.arccos(scores) / np.pi if angle else scores


@pytest.mark.parametrize(
    ("options", "flip", "expected"),
    [
        ("", True, {}),
        (",norm=no", True, {"norm": False}),
        (",detector=no,flip=no", False, {"detector": False}),
        (",media=unit", None, {"unit_media": True}),
        (
            ",variant=magface",
            False,
            {"detector": False, "unit_media": True, "angle": True},
        ),
    ],
)
def test_scores_are_those_of_the_published_protocol(release, options, flip, expected):
    stored = support.stored(release, flip)
    text = f"ijbc={release.folder},protocol=ijb{options}"
    evaluator = sets.parse(text, stored=stored)
    results = evaluator(trained(stored))
    choices = {"norm": True, "detector": True, "unit_media": False, "angle": False}
    scores = plain_scores(release, **{**choices, **expected})
    np.testing.assert_allclose(evaluator.curve[0], scores, atol=2e-6)
    same = release.pairs[:, 2] == 1
    np.testing.assert_array_equal(evaluator.curve[1], same)
    measured = evaluator.curve[0]
    assert results["ijbc/auc"] == verification.area_under_roc(measured, same)
    tar, _ = verification.tar_at_far(measured, same, "1e-2")
    assert results["ijbc/tar@far=1e-2"] == tar
    assert results["ijbc/templates"] == 18
    assert set(results) == set(evaluator.metric_names)
    assert evaluator.intervals(0) == ({}, {})
    switches = evaluator.protocol_switches()
    assert switches["flip"] == (flip is not False)
    assert switches["media"] == ("unit" if expected.get("unit_media") else "mean")


def test_intervals_are_over_the_identities_that_genuine_pairs_connect(release):
    stored = support.stored(release)
    text = f"ijbc={release.folder},protocol=ijb"
    evaluator = sets.parse(text, stored=stored)
    results = evaluator(trained(stored))
    subjects = [release.subject[one] for one in evaluator.ids.tolist()]
    codes = evaluator.identities()
    assert len(set(zip(subjects, codes.tolist()))) == len(set(subjects)) == 6
    values, notes = evaluator.intervals(50)
    assert values["ijbc/resamples"] == 50
    assert values["ijbc/resampled_identities"] == 6
    low, high = values["ijbc/auc_low"], values["ijbc/auc_high"]
    assert low < results["ijbc/auc"] <= high
    low, high = (
        values[f"ijbc/tar@far=1e-2{end}:insightface"] for end in ("_low", "_high")
    )
    assert low <= results["ijbc/tar@far=1e-2:insightface"] <= high
    assert not notes
    stored_set = evaluator.stored_set()
    np.testing.assert_array_equal(stored_set.scores.identities, codes)


def test_a_file_of_some_images_drops_templates_and_pairs(release):
    stored = support.stored(release)
    gone = release.template == release.template[0]
    names = np.array(release.names)
    keep = np.isin(stored.columns.names, names[~gone])
    columns = stored.columns._replace(
        **{
            name: getattr(stored.columns, name)[keep]
            for name in ("names", "identities", "embeddings", "norms")
        }
    )
    fewer = type(stored)(columns)
    text = f"ijbc={release.folder},protocol=ijb"
    with pytest.raises(UserError, match=f"{gone.sum()} of {len(gone)} images of the"):
        sets.parse(text, stored=fewer)
    evaluator = sets.parse(f"{text},missing=drop", stored=fewer)
    results = evaluator(trained(fewer))
    lost = np.any(release.pairs[:, :2] == release.template[0], axis=1)
    assert results["ijbc/dropped_pairs"] == lost.sum()
    assert results["ijbc/dropped_templates"] == 1
    assert results["ijbc/dropped_images"] == gone.sum()
    whole = sets.parse(text, stored=stored)
    whole(trained(stored))
    np.testing.assert_allclose(evaluator.curve[0], whole.curve[0][~lost], atol=1e-6)


def test_metrics_without_impostors_are_absent_with_the_reason(release, tmp_path):
    other = support.write(tmp_path / "other")
    lines = [f"{a} {b} 1" for a, b, same in other.pairs.tolist() if same]
    path = other.folder / "meta/ijbc_template_pair_label.txt"
    path.write_text("\n".join(lines))
    stored = support.stored(other)
    evaluator = sets.parse(f"ijbc={other.folder},protocol=ijb", stored=stored)
    results = evaluator(trained(stored))
    assert "ijbc/auc" not in results
    assert results["ijbc/impostor_pairs"] == 0
    assert "no impostor pairs" in evaluator.notes["ijbc/auc"]
    assert "no impostor" in evaluator.notes["ijbc/tar@far=1e-4:insightface"]
    assert evaluator.intervals() == ({}, {})


def test_loose_crops_are_aligned_embedded_and_flipped(tmp_path):
    """An embedding of the pixels alone, with a stub for the network."""
    release = support.write(tmp_path / "IJBC", crops=True, identities=2)

    def embed(images, *, flip=False, progress=""):
        rows = {"embedding": images[:, ::16, ::16].reshape(len(images), -1) / 255.0}
        if flip:
            mirrored = images[:, :, ::-1][:, ::16, ::16]
            rows["mirrored"] = mirrored.reshape(len(images), -1) / 255.0
        return rows

    text = f"ijbc={release.folder},protocol=ijb"
    evaluator = sets.parse(text)
    assert evaluator.faces.images[:1].shape == (1, 112, 112, 3)
    results = evaluator(Trained(embed, {}))
    outputs = embed(evaluator.faces.images[:], flip=True)
    rows = outputs["embedding"] + outputs["mirrored"]
    release = release._replace(features=rows)
    choices = {"norm": True, "detector": True, "unit_media": False, "angle": False}
    scores = plain_scores(release, **choices)
    np.testing.assert_allclose(evaluator.curve[0], scores, atol=2e-6)
    assert results["ijbc/images"] == len(rows)
    for path in (release.folder / "loose_crop").glob("1*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="images are not below .*missing=drop leaves"):
        sets.parse(text)
    assert sets.parse(f"{text},missing=drop").dropped["pairs"] >= 0
    aligned = f"{text},crop=aligned,missing=drop"
    with pytest.raises(DataError, match="150x140 pixels, expected 112x112"):
        sets.parse(aligned)


@pytest.mark.parametrize(
    ("options", "flip", "match"),
    [
        (",flip=maybe", True, "flip=maybe: use yes or no"),
        (",media=sum", True, "media=sum: use mean or unit"),
        (",crop=tight", True, "crop=tight: use loose or aligned"),
        (",variant=arcface", True, "unknown variant 'arcface' of ijbc"),
        (",gallery=2", True, "unknown option 'gallery' of ijbc, protocol=ijb"),
        (",root=x", True, "root= is of no use with --embeddings"),
        (",variant=magface", True, "made with --flip, the protocol takes no mirror"),
        (",flip=yes", False, "made without --flip, the protocol takes summed"),
    ],
)
def test_invalid_options_are_refused(release, options, flip, match):
    stored = support.stored(release, flip)
    with pytest.raises((UserError, DataError), match=match):
        text = f"ijbc={release.folder},protocol=ijb{options}"
        sets.parse(text, stored=stored)(trained(stored))


def test_templates_without_a_direction_are_counted(release):
    stored = support.stored(release)
    zero = type(stored)(stored.columns._replace(norms=0 * stored.columns.norms))
    evaluator = sets.parse(f"ijbc={release.folder},protocol=ijb", stored=zero)
    with pytest.raises(UserError, match="18 of 18 templates have length 0"):
        evaluator(trained(zero))
    invalid = stored.columns._replace(norms=np.nan * stored.columns.norms)
    zero = type(stored)(invalid)
    evaluator = sets.parse(f"ijbc={release.folder},protocol=ijb", stored=zero)
    with pytest.raises(UserError, match="embeddings from image 0 on are not finite"):
        evaluator(trained(zero))
