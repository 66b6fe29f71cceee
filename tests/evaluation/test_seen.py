"""Evidence that an evaluation set has training identities."""

import numpy as np
import pytest

from fr_jax.evaluation.seen import evidence

DIGESTS = np.arange(1, 5, dtype=np.uint64)  # of four images, of two identities
NUMBERS, NAMES = ["001", "001", "002", "002"], ["Ann", "Ann", "Bob_Ray", "Bob_Ray"]


def find(names, identities, trained, digests=None):
    found = evidence(
        names,
        4,
        identities,
        lambda: DIGESTS,
        trained,
        None if digests is None else np.array(digests, np.uint64),
    )
    return found.seen.tolist(), found.unknown, found.reason


@pytest.mark.parametrize(
    ("names", "identities", "trained", "seen", "unknown"),
    [
        (["fgnet"], NUMBERS, {"cfp": ["001"]}, [0, 0, 0, 0], True),
        (["cfp"], NUMBERS, {"cfp": ["001"]}, [1, 1, 0, 0], False),
        (["cfp_fp"], NUMBERS, {"cfp": ["003"]}, [0, 0, 0, 0], False),
        (["test", "cfp_fp"], NUMBERS, {"cfp": ["002"]}, [0, 0, 1, 1], False),
        (["agedb_30"], NUMBERS, {"agedb_train": ["001"]}, [1, 1, 0, 0], False),
        (
            ["a"],
            ["n01", "s1", "id_7", "3"],
            {"b": ["n01", "s1", "id_7", "3"]},
            4 * [0],
            1,
        ),
        (["a"], NAMES, {"b": ["Ann"]}, [1, 1, 0, 0], False),
        (["a"], NAMES, {"b": ["Cid"]}, [0, 0, 0, 0], False),
        (["a"], NAMES, {"b": ["Cid", "7"]}, [0, 0, 0, 0], True),
        (["a"], ["m.0107_f"] * 4, {"b": ["m.0107_f"]}, [1, 1, 1, 1], False),
        (["a"], NAMES, {"b": []}, [0, 0, 0, 0], True),
        (["a"], NAMES, {}, [0, 0, 0, 0], True),
        (["a"], NAMES, {"a": []}, [1, 1, 1, 1], False),
        (["lfw"], None, {"lfw": ["Ann"]}, [1, 1, 1, 1], False),
        (["calfw"], None, {"lfw": ["Ann"]}, [1, 1, 1, 1], False),
        (["my_set_pairs"], None, {"my_set": ["Ann"]}, [1, 1, 1, 1], False),
        (["my_set"], None, {"my_faces": ["Ann"]}, [0, 0, 0, 0], True),
        (["lfw"], None, {"rendered": ["s0n1"]}, [0, 0, 0, 0], False),
        (["unseen", "rendered"], ["s0n1"] * 4, {"rendered": ["s0n2"]}, 4 * [0], False),
    ],
    ids=lambda value: None if isinstance(value, bool) else str(value)[:40],
)
def test_names(names, identities, trained, seen, unknown):
    found = find(names, identities, trained)
    assert found[:2] == ([bool(one) for one in seen], bool(unknown))
    assert bool(found[2]) == any(seen)


@pytest.mark.parametrize(
    ("identities", "digests", "seen", "unknown"),
    [
        (None, [3], [1, 1, 1, 1], False),
        (None, [9], [0, 0, 0, 0], True),
        (None, [], [0, 0, 0, 0], True),
        (NUMBERS, [3, 9], [0, 0, 1, 1], False),
        (NAMES, [1, 4], [1, 1, 1, 1], False),
    ],
)
def test_images(identities, digests, seen, unknown):
    found = find(["test"], identities, {"mine": ["001"]}, digests)
    assert found[:2] == ([bool(one) for one in seen], unknown)
    assert ("training images" in found[2]) == any(seen)


def test_images_and_names_are_both_reasons():
    seen, _, reason = find(["test"], NAMES, {"mine": ["Ann"]}, [4])
    assert all(seen)
    assert reason == (
        "1 identities have the names of training identities and 1 images are training "
        "images"
    )
