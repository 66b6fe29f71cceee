"""Provenance: inheritance from pretrained networks, and held-out identities."""

import json

import numpy as np
import pytest

from fr_jax import provenance
from fr_jax.errors import UserError
from fr_jax.provenance import (
    RENDERED,
    Provenance,
    check_unseen,
    fingerprint,
    inherit,
    joined,
)

DATA = Provenance(
    {"cfp": ["001", "002"]},
    {"cfp": "research only"},
    held_out={"cfp": ["003", "004"]},
    fingerprint={"cfp": {"digest": "f00d"}},
    notes=("a note", "another"),
)


# --- the digest of a data set ---------------------------------------------------------


def test_fingerprint_of_the_same_data_is_the_same():
    one, other = (fingerprint(["a", "b"], [0, 0, 1], b"yaws") for _ in range(2))
    assert one == other
    assert one.items() > {"identities": 2, "images": 3}.items()
    assert len(one["digest"]) == 16


@pytest.mark.parametrize(
    ("identities", "labels", "column"),
    [
        (["a", "c"], [0, 0, 1], b"yaws"),
        (["b", "a"], [0, 0, 1], b"yaws"),
        (["ab"], [0, 0, 1], b"yaws"),
        (["a", "b"], [0, 1, 1], b"yaws"),
        (["a", "b"], [0, 0, 1, 1], b"yaws"),
        (["a", "b"], [0, 0], b"yaws"),
        (["a", "b"], [0, 0, 1], b"yawz"),
    ],
    ids=["identity", "order", "joined", "label", "more images", "fewer", "column"],
)
def test_fingerprint_changes_with_names_labels_and_columns(identities, labels, column):
    original = fingerprint(["a", "b"], [0, 0, 1], b"yaws")
    assert fingerprint(identities, labels, column)["digest"] != original["digest"]


def test_fingerprint_accepts_names_that_are_not_utf_8():
    assert fingerprint(["\udcff"], [0]) != fingerprint(["?"], [0])


# --- sets of identities ---------------------------------------------------------------


def test_identities_are_joined_per_set_in_order():
    result = joined({"a": ["2", "1"]}, {"b": []}, {"a": ["1", "3"], "c": ["1"]})
    assert result == {"a": ["2", "1", "3"], "b": [], "c": ["1"]}


@pytest.mark.parametrize(
    "trained",
    [{}, {"cfp": ["001"]}, {"lfw": ["003"]}, {RENDERED: ["003"]}],
    ids=["nothing", "other identities", "same name in another set", "rendered"],
)
def test_held_out_identities_that_were_not_trained_on_pass(trained):
    check_unseen(DATA.held_out, trained, "choose others")


@pytest.mark.parametrize(
    ("trained", "match"),
    [
        ({"cfp": ["001", "004"]}, "1 of the 2 held-out identities of cfp .*as 004"),
        ({"cfp": ["003", "004"]}, "2 of the 2 held-out identities of cfp .*as 003"),
        # A set without names may have any of them.
        ({"cfp": []}, "2 of the 2 held-out identities of cfp"),
    ],
    ids=["one", "all", "a set without names"],
)
def test_held_out_identities_that_were_trained_on_are_refused(trained, match):
    with pytest.raises(UserError, match=match) as caught:
        check_unseen(DATA.held_out, trained, "choose others")
    assert str(caught.value).endswith("; choose others")
    assert len(str(caught.value).splitlines()) == 1


# --- inheritance ----------------------------------------------------------------------


def test_identities_and_licences_of_pretrained_networks_are_inherited():
    stored = {
        "identities": {"cfp": ["002", "005"], RENDERED: ["s0n0"]},
        "licences": {RENDERED: "none needed", "cfp": "of the older network"},
    }
    result = inherit(DATA, {"init": stored, "identity": {}})
    assert result.identities == {"cfp": ["001", "002", "005"], RENDERED: ["s0n0"]}
    assert result.licences == {"cfp": "research only", RENDERED: "none needed"}
    kept = ("held_out", "fingerprint", "notes", "details")
    assert all(getattr(result, name) == getattr(DATA, name) for name in kept)


@pytest.mark.parametrize(
    ("stated", "licence"),
    [({"licence": "mine"}, "mine"), ({"licence": ""}, "terms.txt"), ({}, "terms.txt")],
    ids=["stated", "empty", "not stated"],
)
def test_terms_of_a_weight_file_are_inherited(stated, licence):
    stored = {"file": "net.pth", "terms": "terms.txt"} | stated
    assert inherit(DATA, {"init": stored}).licences["net.pth"] == licence


def test_pretrained_network_trained_on_held_out_identities_is_refused():
    stored = {"identities": {"cfp": ["003"]}}
    with pytest.raises(UserError, match="1 of the 2 .* network given as 'identity'"):
        inherit(DATA, {"init": {}, "identity": stored})


def test_provenance_without_pretrained_networks_is_unchanged():
    assert inherit(DATA, {}) == DATA


# --- digests of training images -------------------------------------------------------


def test_digests_are_merged_and_limited_to_the_smallest(monkeypatch):
    monkeypatch.setattr(provenance, "MAX_DIGESTS", 4)
    first, second = np.array([9, 2, 2], np.uint64), np.array([2**63, 0, 5], np.uint64)
    union = provenance.merged(first, None, second)
    assert union is not None
    assert (union.dtype, union.tolist()) == (np.uint64, [2, 5, 9, 2**63])  # 0 is none
    more = np.array([3, 2**63 + 1], np.uint64)
    for parts in ([union, more], [more, first, second]):
        limited = provenance.merged(*parts)
        assert limited is not None
        assert limited.tolist() == [2, 3, 5, 9]
    assert provenance.merged(None, None) is None


def test_digests_of_pretrained_networks_are_inherited():
    own, other = np.array([1, 7], np.uint64), np.array([3], np.uint64)
    result = inherit(DATA._replace(digests=own), {"init": {}}, [other, None])
    assert result.digests is not None
    assert result.digests.tolist() == [1, 3, 7]
    assert "digests" not in result.describe()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(
            (name, True)
            for name in ("1", "001", "n000001", "id_7", "001A", "p-3", "12 3")
        ),
        *(
            (name, False)
            for name in ("Ann", "Ann_Lee", "50_Cent", "m.0107_f", "s0n1", "")
        ),
    ],
)
def test_numbers_are_told_from_names(name, number):
    assert provenance.is_number(name) == number


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("cfp", "cfp", True),
        ("cfp_fp", "cfp", True),
        ("CFP-FP", "cfp", True),
        ("cfp_fp", "cfp_train", True),
        ("calfw", "lfw", True),
        ("agedb_c20", "agedb", True),
        ("my_test", "my", True),
        ("my_test", "my_faces", False),
        ("cfpx", "cfp", False),
        ("fgnet", "cfp", False),
    ],
)
def test_parts_of_a_data_set_have_its_name(name, other, same):
    assert provenance.same_data_set(name, other) == same


# --- description in an embedder -------------------------------------------------------


def test_description_is_json_without_empty_values():
    result = DATA._replace(details={"angles": [0.0, 45.0]}).describe()
    assert json.loads(json.dumps(result)) == result
    assert result == {
        "identities": {"cfp": ["001", "002"]},
        "licences": {"cfp": "research only"},
        "held_out": {"cfp": ["003", "004"]},
        "fingerprint": {"cfp": {"digest": "f00d"}},
        "note": "a note; another",
        "angles": [0.0, 45.0],
    }
    assert Provenance({}, {}).describe() == {}
