"""Identities of the images of pairs, by names and from files."""

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.protocols import pair_identities

SAME = np.array([True, False])
PAIRS = np.array([[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee"),
        ("Ann_Lee_0001.jpg", "Ann_Lee"),
        ("Ann_Lee_3.jpg", "Ann_Lee"),
        ("x/6472_Johnny_Cash_10.jpg", "Johnny_Cash"),
        ("001A43b.JPG", "001"),
        ("001/frontal/01.jpg", "001"),
        ("plain.jpg", "plain.jpg"),
    ],
)
def test_identity_in_a_name(name, expected):
    assert pair_identities.in_names([name]) == [expected]


def test_folders_are_identities_where_there_are_several():
    names = ["ann/1_left_01.jpg", "bob/1_left_02.jpg", "bob/2_right_01.jpg"]
    assert pair_identities.in_names(names) == ["ann", "bob", "bob"]
    aged = ["x/6472_Johnny_Cash_10.jpg", "x/6473_Ann_Lee_20.jpg", "Bob_3.jpg"]
    assert pair_identities.in_names(aged) == ["Johnny_Cash", "Ann_Lee", "Bob"]


@pytest.mark.parametrize(
    "lines",
    [
        ["Ann", "Ann", "Ann", "Bob"],
        ["1 1", "Ann 1 2", "Ann 1 Bob 3"],
        ["Ann/1.jpg Ann/2.jpg 1", "Ann/1.jpg Bob/7.jpg 0"],
        ["Ann_1.jpg 1", "Ann_2.jpg 1", "Ann_1.jpg 0", "Bob_3.jpg 0"],
    ],
    ids=["a line per image", "LFW's list", "label last", "CPLFW's list"],
)
def test_identities_of_images_without_names(tmp_path, lines):
    (tmp_path / "names.txt").write_text("\n".join(lines))
    names = pair_identities.of_images(tmp_path / "names.txt", SAME)
    assert names == ["Ann", "Ann", "Ann", "Bob"]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["Ann", "Ann", "Bob"], "3 lines; expected the identity of each of 4 images"),
        (["1 1", "Ann 1 2", "Bob 1 2"], "other pairs; expected the identity of each"),
    ],
)
def test_other_files_are_refused(tmp_path, lines, match):
    (tmp_path / "names.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=match):
        pair_identities.of_images(tmp_path / "names.txt", SAME)


@pytest.mark.parametrize("separator", ["\t", ",", " ", ", "])
def test_identities_of_a_list(tmp_path, separator):
    names = ["a b/1.jpg", "2.jpg"]
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{name}{separator}Ann\n" for name in [*names, "more.jpg"]))
    assert pair_identities.of_names(path, names) == ["Ann", "Ann"]
    with pytest.raises(DataError, match=r"no identity of 1 of 3 images, such as '3.jp"):
        pair_identities.of_names(path, [*names, "3.jpg"])
    path.write_text("1.jpg\n")
    with pytest.raises(DataError, match=r"line 1: '1.jpg' is not 'path identity'"):
        pair_identities.of_names(path, names)


def test_identities_that_contradict_the_labels_are_named():
    wrong = pair_identities.contradictions(["A", "A", "B", "B"], PAIRS, SAME)
    assert wrong.tolist() == [1]
    pair_identities.check("f", ["A", "A", "A", "B"], PAIRS, SAME)
    match = r"f: 1 of 2 pairs .*: pair 2 is impostor, of 'B' and 'B'"
    with pytest.raises(DataError, match=match):
        pair_identities.check("f", ["A", "A", "B", "B"], PAIRS, SAME)
