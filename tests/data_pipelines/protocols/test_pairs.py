"""Verification lists: hashes, counts and corrupt lines of the published ones."""

import hashlib
import tarfile

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.protocols import pair_lists, pairs
from tests.support.faces import encoded, picture

LISTS = {
    "agedb20_child": (1893, 20, "98a0a31853eacec2"),
    "agedb30_child": (1389, 30, "107bec5c5cd66d7c"),
    "fgnet20_child": (517, 20, "1ad01db40e4cbe78"),
    "fgnet30_child": (186, 30, "25b76fd0c5c1866d"),
}


@pytest.mark.parametrize("name", LISTS)
def test_child_adult_pairs_reproduce_the_published_lists(real, name):
    count, gap, digest = LISTS[name]
    path = real(f"child_adult_pairs/{name}.txt")
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest)
    listed = pair_lists.read(path)
    assert (sum(listed.same), len(listed.same)) == (count, 2 * count)
    generated = pairs.child_adult_pairs([*listed.first, *listed.second], gap)

    def chosen(named, label):
        rows = zip(named.first, named.second, named.same)
        return {(a, b) for a, b, same in rows if same == label}

    assert chosen(generated, True) == chosen(listed, True)
    negatives = chosen(generated, False)
    assert len(negatives) == count
    for a, b in negatives:
        (person, age), (other, older) = (pairs._identity_and_age(n) for n in (a, b))
        assert person != other
        assert age <= 12
        assert older - age >= gap
    again = pairs.child_adult_pairs([*listed.first, *listed.second], gap)
    assert again == generated


def test_lag_has_seventeen_corrupt_lines(real):
    path = real("child_adult_pairs/lag.txt")
    modes = ("drop", "original")
    dropped, original = (pair_lists.read(path, mode) for mode in modes)
    assert (len(dropped.same), sum(dropped.same), dropped.skipped) == (3383, 1694, 17)
    assert (len(original.same), sum(original.same)) == (3400, 1700)
    lines = sorted(path.read_text().splitlines())
    corrupt = next(n for n, line in enumerate(lines) if ".png " not in line)
    assert original.first[corrupt] == original.first[corrupt - 1]
    assert original.same[corrupt] == lines[corrupt].startswith("1")
    with pytest.raises(DataError, match="lag_mode=keep"):
        pair_lists.read(path, "keep")


def write(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(".png", picture(seed=number)))


def test_a_list_with_its_images(tmp_path):
    write(tmp_path, "Ann/1_Ann_5.jpg", "Ann/2_Ann_40.jpg", "Bob/3_Bob_50.jpg")
    prefix = "dataset/test/AgeDB-aligned/"
    path = tmp_path / "list.txt"
    lines = [("1", "Ann/1_Ann_5", "Ann/2_Ann_40"), ("0", "Ann/1_Ann_5", "Bob/3_Bob_50")]
    path.write_text(
        "".join(f"{s} {prefix}{a}.jpg {prefix}{b}.jpg\n" for s, a, b in lines)
    )
    loaded = pairs.load(path, root=tmp_path)
    assert loaded.same.tolist() == [False, True]  # the lines are sorted
    assert loaded.identities == ["Ann", "Ann", "Bob"]
    assert loaded.folds is None
    assert loaded.images[:].shape == (3, 20, 30, 3)

    with pytest.raises(DataError, match="give their folder: ,root=DIR"):
        pairs.load(path)
    with pytest.raises(DataError, match="no such folder"):
        pairs.load(path, root=tmp_path / "none")
    with pytest.raises(DataError, match="no such verification set"):
        pairs.load(tmp_path / "none.txt", root=tmp_path)
    with pytest.raises(DataError, match=r"is a folder, but none of CFP's protocol"):
        pairs.load(tmp_path, root=tmp_path)


NAMES = [f"{name}/{name}_{n:04}" for name in ("Ann", "Bob", "Cid") for n in (1, 2)]
MISSING = ("b/Bob_0001", "d/Cid_0001")
LINES = ["Ann\t1\t2", "Bob\t1\t2", "Cid\t1\t2"]
LINES += ["Ann\t1\tBob\t1", "Bob\t2\tCid\t2", "Ann\t2\tCid\t1"]


@pytest.fixture
def lfw_list(tmp_path):
    """A list of LFW with three genuine and three impostor pairs, and no folds."""
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(["3", *LINES]) + "\n")
    return path


@pytest.mark.parametrize(
    "suffix", [".png", ".JPG", ".jpeg", ".webp", ".bmp", ".jpg.png"]
)
def test_suffixes_of_a_list_do_not_matter(lfw_list, tmp_path, suffix):
    write(tmp_path / "faces", *(name + suffix for name in NAMES))
    loaded = pairs.load(lfw_list, root=tmp_path / "faces")
    assert loaded.images[:].shape == (6, 20, 30, 3)
    assert loaded.same.tolist() == [True] * 3 + [False] * 3
    (note,) = loaded.notes
    assert (
        "6 of 6 images have another suffix than in the list, such as Ann/Ann_" in note
    )


def test_missing_images_are_an_error_or_dropped_with_their_pairs(lfw_list, tmp_path):
    write(
        tmp_path / "faces",
        *(f"{name}.jpg" for name in NAMES if name[2:] not in MISSING),
    )
    root = tmp_path / "faces"
    counts = (
        "2 of 6 images, in 4 of 6 pairs, are not below .*, such as 'Bob/Bob_0001.jpg"
    )
    with pytest.raises(DataError, match=f"{counts}'; missing=drop leaves these"):
        pairs.load(lfw_list, root=root)
    loaded = pairs.load(lfw_list, root=root, missing="drop")
    assert loaded.dropped == 4
    assert loaded.same.tolist() == [True, False]
    assert loaded.identities == ["Ann", "Ann", "Bob", "Cid"]
    assert loaded.images[:].shape == (4, 20, 30, 3)
    named = np.array(loaded.identities)[loaded.pairs].tolist()
    assert named == [["Ann", "Ann"], ["Bob", "Cid"]]
    assert len(loaded.notes) == 1
    assert pairs.load(lfw_list, root=root, missing="drop").dropped == 4
    with pytest.raises(DataError, match="missing=skip: use 'error' or 'drop'"):
        pairs.load(lfw_list, root=root, missing="skip")


def test_nothing_is_dropped_where_nothing_is_missing(lfw_list, tmp_path):
    write(tmp_path / "faces", *(f"{name}.jpg" for name in NAMES))
    loaded = pairs.load(lfw_list, root=tmp_path / "faces", missing="drop")
    assert (loaded.dropped, len(loaded.same), loaded.notes) == (0, 6, ())


@pytest.mark.parametrize("missing", ["error", "drop"])
@pytest.mark.parametrize("root", [".", "faces/Ann"])
def test_a_root_above_or_below_is_corrected(lfw_list, tmp_path, missing, root):
    write(tmp_path / "faces", *(f"{name}.jpg" for name in NAMES))
    with pytest.raises(DataError, match=r"6 of 6 images.*did you mean root=.*/faces\?"):
        pairs.load(lfw_list, root=tmp_path / root, missing=missing)


def test_check_sees_every_image_of_a_set(lfw_list, tmp_path):
    write(tmp_path / "faces", *(f"{name}.png" for name in NAMES))
    seen = []

    def check(sources, name):
        seen.extend(name(number) for number in range(len(sources)))

    pairs.load(lfw_list, root=tmp_path / "faces", check=check)
    assert seen == [str(tmp_path / f"faces/{name}.png") for name in NAMES]


def test_file_names_in_neither_form():
    with pytest.raises(DataError, match="'portrait.jpg' has neither form"):
        pairs.child_adult_pairs(["portrait.jpg"], 20)
    assert pairs._identity_and_age("x/6472_Johnny_Cash_10.jpg") == ("Johnny_Cash", 10)
    assert pairs._identity_and_age("001A43b.JPG") == ("001", 43)


def test_lfw_view_2(tmp_path, real):
    path = real("lfw_pairs.txt")
    names = set()
    for line in path.read_text().splitlines()[1:]:
        fields = line.split("\t")
        for name, number in (
            zip(fields[::2], fields[1::2])
            if len(fields) == 4
            else [
                (fields[0], fields[1]),
                (fields[0], fields[2]),
            ]
        ):
            names.add(f"{name}/{name}_{int(number):04d}.jpg")
    image = encoded()
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image)
    loaded = pairs.load(path, root=tmp_path)
    assert len(loaded.images) == len(names)
    assert (np.bincount(loaded.folds) == 600).all()
    assert (np.bincount(loaded.folds, loaded.same) == 300).all()
    assert loaded.identities[0] == "AJ_Lamas"


def test_cfp_protocol(tmp_path, real):
    with tarfile.open(real("cfp_protocol.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    names = [
        f"{person:03d}/{kind}_{number:02d}.jpg"
        for person in range(1, 501)
        for kind, count in (("frontal", 10), ("profile", 4))
        for number in range(1, count + 1)
    ]
    image = encoded()
    for name in names:
        (tmp_path / "cfp" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cfp" / name).write_bytes(image)
    for split in ("FF", "FP"):
        loaded = pairs.load(tmp_path / "Protocol/Split" / split, root=tmp_path / "cfp")
        assert (np.bincount(loaded.folds, loaded.same) == 350).all()
        assert (np.bincount(loaded.folds) == 700).all()
        identities = np.array(loaded.identities)[loaded.pairs]
        # Identities 451 to 500 are in the last fold only.
        last = loaded.folds == 9
        assert set(identities[last].ravel()) == {f"{n:03d}" for n in range(451, 501)}
        assert max(identities[~last].ravel().tolist()) == "450"
        assert ((identities[:, 0] == identities[:, 1]) == loaded.same).all()
    (tmp_path / "Protocol/Split/FP/03/same.txt").write_text("1,x\n")
    with pytest.raises(DataError, match=r"same\.txt: '1,x' is not a pair"):
        pairs.load(tmp_path / "Protocol/Split/FP", root=tmp_path / "cfp")
