"""Formats of lists of pairs, and hints where a list is in none of them."""

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.protocols import pair_lists

LFW = ["A_B 1 4", "C_D 2 3", "A_B 1 C_D 10", "C_D 2 A_B 7"]
FIRST = ["A_B/A_B_0001.jpg", "C_D/C_D_0002.jpg"] * 2
SECOND = [
    "A_B/A_B_0004.jpg",
    "C_D/C_D_0003.jpg",
    "C_D/C_D_0010.jpg",
    "A_B/A_B_0007.jpg",
]


@pytest.fixture
def read(tmp_path):
    """Returns a function: lines -> pairs."""

    def from_lines(*lines, **options):
        path = tmp_path / "list.txt"
        path.write_bytes("\n".join(lines).encode(errors="surrogateescape") + b"\n")
        return pair_lists.read(path, **options)

    return from_lines


@pytest.mark.parametrize(
    "lines",
    [
        [
            "2\t1",
            *(line.replace(" ", "\t") for line in [LFW[0], LFW[2], LFW[1], LFW[3]]),
        ],
        ["2 1", LFW[0], LFW[2], LFW[1], LFW[3]],
        ["  2  1 ", f" {LFW[0]} ", LFW[2].replace(" ", "  "), LFW[1], f"{LFW[3]}\t"],
        ["2 1\r", *(f"{line}\r" for line in [LFW[0], LFW[2], LFW[1], LFW[3]])],
    ],
    ids=["tabs", "spaces", "several spaces", "carriage returns"],
)
def test_lfw_view_2(read, lines):
    named = read(*lines)
    order = [0, 2, 1, 3]
    assert named.first == [FIRST[n] for n in order]
    assert named.second == [SECOND[n] for n in order]
    assert named.same == [True, False, True, False]
    assert named.folds is not None
    assert named.folds.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("tabs", [True, False])
def test_lfw_view_1_has_no_folds(read, tabs):
    lines = [line.replace(" ", "\t") if tabs else line for line in LFW]
    named = read("2", *lines)
    assert (named.first, named.second) == (FIRST, SECOND)
    assert named.same == [True, True, False, False]
    assert named.folds is None


def test_lfw_names_with_spaces_need_tabs(read):
    named = read("1", "Ann Lee\t1\t2", "Ann Lee\t1\tBob Ray\t3")
    assert named.first == ["Ann Lee/Ann Lee_0001.jpg"] * 2
    assert named.second[1] == "Bob Ray/Bob Ray_0003.jpg"


PATHS = [("a/1.jpg", "b/2.jpg"), ("a/1.jpg", "a/3.jpg"), ("b/9.jpg", "a/0.jpg")]
LABELS = ["0", "1", "0"]


@pytest.mark.parametrize("separator", [" ", "\t", "   ", ",", ", "])
@pytest.mark.parametrize("label", ["0", "-1"])
def test_label_last_keeps_the_order_of_lines(read, separator, label):
    rows = zip(PATHS, LABELS)
    lines = [separator.join([a, b, n.replace("0", label)]) for (a, b), n in rows]
    named = read(*lines)
    assert list(zip(named.first, named.second)) == PATHS
    assert named.same == [False, True, False]
    assert named.folds is None


@pytest.mark.parametrize("separator", [" ", "\t", "  ", ",", ", "])
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".WebP", "", "?"])
def test_label_first_is_sorted(read, separator, suffix):
    lines = [
        separator.join([n, *(path.replace(".jpg", suffix) for path in pair)])
        for n, pair in zip(LABELS, PATHS)
    ]
    named = read(*lines)
    assert named.same == [False, False, True]
    assert named.skipped == 0
    assert named.second[0] == "b/2" + suffix


@pytest.mark.parametrize(
    "line",
    ["1 my a.jpg my b.png", "1\tmy a.jpg\tmy b.png", "my a.jpg my b.png 1"]
    + ["my a.jpg,my b.png,1", "my a.jpg\tmy b.png\t1"],
)
def test_paths_with_spaces(read, line):
    named = read(line)
    assert (named.first, named.second) == (["my a.jpg"], ["my b.png"])
    assert named.same == [True]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_two_lines_per_pair(read, separator):
    """CPLFW's list: labels 0 and 1, no folds."""
    rows = [("A_1.jpg", 1), ("A_2.jpg", 1), ("A_1.jpg", 0), ("B C_1.jpg", 0)]
    named = read(*(f"{name}{separator}{label}" for name, label in rows))
    assert named.first == ["A_1.jpg", "A_1.jpg"]
    assert named.second == ["A_2.jpg", "B C_1.jpg"]
    assert (named.same, named.folds) == ([True, False], None)


def test_two_lines_per_pair_with_the_folds_of_genuine_pairs(read):
    """CALFW's list: genuine pairs first, whose label is their fold."""
    labels = [1, 1, 2, 2, 0, 0, 0, 0]
    named = read(*(f"A_{n}.jpg {x}" for n, x in enumerate(np.repeat(labels, 2))))
    assert named.same == [True] * 4 + [False] * 4
    assert named.folds is not None
    assert named.folds.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_names_that_are_not_utf_8(read):
    assert read("a\udcff.jpg b.jpg 1").first == ["a\udcff.jpg"]


LFW_HINT = r"the nearest known format is LFW's pairs.txt, which begins with a line"
FIRST_HINT = "the nearest known format is 'label path path' with the label 0 or 1"
LAST_HINT = "the nearest known format is 'path path label' with the label 0 or 1"


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (LFW, LFW_HINT),
        (["A_B 1 2", "C_D 0 1"], LFW_HINT),
        (["same a/1.jpg a/2.jpg", "diff a/1.jpg b/2.jpg"], FIRST_HINT),
        (["maybe a.jpg b.jpg"], FIRST_HINT),
        (["a/1.jpg a/2.jpg same"], LAST_HINT),
        (["a/1.jpg,a/2.jpg,True"], LAST_HINT),
        (["first,second,label", "a/1.jpg,a/2.jpg,1"], LAST_HINT),
        (["a/1.jpg a/2.jpg 1", "a/1.jpg a/3.jpg 2"], "'a/1.jpg a/3.jpg 2' is not un"),
        (["1 a/1.jpg a/2.jpg", "2 a/1.jpg a/3.jpg"], "'2 a/1.jpg a/3.jpg' is not un"),
        (["x y z w"], "'x y z w' is not understood; known are LFW's pairs.txt, 'label"),
        (["\x00\x01\x02"], "is not understood; known are"),
        (["2 1", "A 1 2", "A 1 B 1"], "2 pairs; its header states 4"),
        (["1", "A 1 2", "A 1 B x"], "'A 1 B x' is not a pair of LFW, 'name n n'"),
        (["0 0"], "0 pairs; its header states 0"),
        ([""], "no pairs"),
        (["1 a.jpg"], "no pairs"),
        (["a.jpg 1", "b.jpg 0"], "line 1: 'a.jpg 1': the two lines of a pair must"),
        (["a.jpg 0", "b.jpg 0", "c.jpg 1"], "line 3: 'c.jpg 1': the two lines of a"),
        (["a.jpg 3", "b.jpg 3"], "the genuine pairs are not of folds 1 to 3"),
        (["a.jpg 1", "b.jpg one"], "nearest known format is 'image label' in two"),
    ],
)
def test_other_lists_are_refused_with_the_nearest_format(read, lines, match):
    with pytest.raises(DataError, match=match) as caught:
        read(*lines)
    assert len(str(caught.value).splitlines()) == 1


def test_contiguous_folds():
    assert pair_lists.contiguous(20).tolist() == np.repeat(range(10), 2).tolist()
    sizes = [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert pair_lists.contiguous(23).tolist() == np.repeat(range(10), sizes).tolist()
