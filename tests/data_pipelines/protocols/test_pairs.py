"""Verification lists: hashes, counts and corrupt lines of the published ones."""

import hashlib
import tarfile

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.protocols import pairs
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
    listed = pairs.read_list(path)
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
    dropped, original = (pairs.read_list(path, mode) for mode in ("drop", "original"))
    assert (len(dropped.same), sum(dropped.same), dropped.skipped) == (3383, 1694, 17)
    assert (len(original.same), sum(original.same)) == (3400, 1700)
    lines = sorted(path.read_text().splitlines())
    corrupt = next(n for n, line in enumerate(lines) if ".png " not in line)
    assert original.first[corrupt] == original.first[corrupt - 1]
    assert original.same[corrupt] == lines[corrupt].startswith("1")
    with pytest.raises(DataError, match="lag_mode=keep"):
        pairs.read_list(path, "keep")


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

    (tmp_path / "Bob/3_Bob_50.jpg").unlink()
    with pytest.raises(
        DataError, match="1 of 3 images are not below .* first 'Bob/3_Bob"
    ):
        pairs.load(path, root=tmp_path)
    with pytest.raises(DataError, match="give their folder: ,root=DIR"):
        pairs.load(path)
    with pytest.raises(DataError, match="no such folder"):
        pairs.load(path, root=tmp_path / "none")
    with pytest.raises(DataError, match="no such verification set"):
        pairs.load(tmp_path / "none.txt", root=tmp_path)
    path.write_text("maybe a.jpg b.jpg\n")
    with pytest.raises(DataError, match="is not 'label path path'"):
        pairs.load(path, root=tmp_path)


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
