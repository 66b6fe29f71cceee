"""Verification sets in the form of flags: NAME=PATH[,OPTION=VALUE...]."""

import pickle
import shutil

import numpy as np
import pytest

from data_pipelines import DataError, digests
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from fr_jax.evaluation.embeddings import Columns, StoredEmbeddings
from fr_jax.evaluation.evaluator import Trained
from tests.support.faces import encoded, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pairs in a .bin, and twenty with one truncated line in a list."""
    folder = tmp_path_factory.mktemp("sets")
    images = [encoded(image=picture(112, 112, n)) for n in range(40)]
    (folder / "toy.bin").write_bytes(pickle.dumps((images, [True, False] * 10)))
    for number, image in enumerate(images):
        (folder / f"{number}.jpg").write_bytes(image)
    lines = [f"{n % 2} {2 * n}.jpg {2 * n + 1}.jpg" for n in range(20)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    (folder / "junk.bin").write_bytes(b"junk")
    return folder


@pytest.mark.parametrize(
    ("text", "protocol", "folds"),
    [
        ("toy={}/toy.bin", "insightface", True),
        ("toy={}/toy.bin,protocol=paper", "paper", True),
        ("toy={0}/list.txt,root={0}", "kfold", False),
        ("toy={0}/list.txt,root={0},protocol=insightface", "insightface", False),
    ],
    ids=["bin", "bin, paper", "list", "list, insightface"],
)
def test_default_protocol_depends_on_the_kind_of_set(folder, text, protocol, folds):
    toy = sets.parse(text.format(folder))
    assert (toy.name, toy.protocol) == ("toy", protocol)
    assert (toy.folds is not None) == folds
    assert toy.pairs.shape == (20, 2)
    assert toy.images[:].shape == (40, 112, 112, 3)
    assert toy.digests is not None
    first = digests.digest(toy.images[3])
    assert toy.digests().shape == (40,)
    assert toy.digests()[3] == first


def test_identities_of_a_file_and_rates_are_options(folder, tmp_path):
    """Pair n has identities a<n> and, if it is an impostor pair, b<n>."""
    names = [
        f"a{n}" if m == 0 or n % 2 == 0 else f"b{n}" for n in range(20) for m in (0, 1)
    ]
    (tmp_path / "names.txt").write_text("\n".join(names))
    toy = sets.parse(
        f"toy={folder}/toy.bin,identities={tmp_path}/names.txt,far=0.1+1e-4"
    )
    assert toy.identities == names
    assert toy.fars == ("0.1", "1e-4")
    assert toy.source["file"] == "toy.bin"
    assert toy.source["identities"] == "names.txt"
    lines = [f"{n}.jpg {name[0]}" for n, name in enumerate(names)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    text = f"toy={folder}/list.txt,root={folder},identities={tmp_path}/list.txt"
    with pytest.raises(
        DataError, match="pairs have other labels than their identities"
    ):
        sets.parse(text)
    (tmp_path / "names.txt").write_text("\n".join(names[:-1]))
    with pytest.raises(
        DataError, match="39 lines; expected the identity of each of 40"
    ):
        sets.parse(f"toy={folder}/toy.bin,identities={tmp_path}/names.txt")


def test_number_of_truncated_lines_is_printed(folder, tmp_path, capsys):
    lines = (folder / "list.txt").read_text().splitlines()
    lines = [line.replace(".jpg", ".png") for line in lines] + ["1 2.pn"]
    (tmp_path / "lag.txt").write_text("\n".join(lines) + "\n")
    for path in folder.glob("*.jpg"):
        image = encoded(".png", picture(112, 112, int(path.stem)))
        (tmp_path / f"{path.stem}.png").write_bytes(image)
    lag = sets.parse(f"lag={tmp_path}/lag.txt,root={tmp_path}")
    assert len(lag.same) == 20
    assert capsys.readouterr().err == "lag: skipped 1 truncated lines\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lfw.bin", r"--set lfw.bin: expected NAME=PATH\[,root=...\]\[,protocol=...\]"),
        ("=lfw.bin", "expected NAME=PATH"),
        ("lfw=", "expected NAME=PATH"),
        ("lfw=nowhere.bin", "no such file"),
        ("lfw=nowhere.txt", "no such verification set"),
        ("lfw=x.bin,protocl=paper", "did you mean 'protocol'"),
        ("lfw=x.bin,protocol=kfolds", "did you mean 'kfold'"),
        ("lfw={}/junk.bin", "junk.bin: byte"),
        ("lfw={}/list.txt", "give their folder"),
        ("lfw={}/list.txt,root={}/..", "40 of 40 images, in 20 of 20 pairs, are not"),
        ("lfw={}/list.txt,root={},missing=skip", "missing=skip: use 'error' or 'drop'"),
        ("lfw={}/toy.bin,root={}", "root=.* is of no use for a .bin set"),
        ("lfw={}/toy.bin,lag_mode=drop", "lag_mode=drop is of no use for a .bin set"),
        ("lfw={},missing=drop", "missing=drop is of no use for a folder"),
        ("l" * 201 + "=x.bin", "a name of 201 characters; use up to 200"),
        ("lfw={},root={}", "is a folder, but none of CFP's protocol"),
    ],
)
def test_invalid_set_raises_a_one_line_error(folder, text, match):
    with pytest.raises((UserError, DataError), match=match) as caught:
        sets.parse(text.replace("{}", str(folder)))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    ["toy={}/a,b.bin,protocol=kfold", "toy={}/a,b=c.bin,protocol=kfold"],
)
def test_commas_in_a_path(folder, tmp_path, text):
    for name in ("a,b.bin", "a,b=c.bin"):
        shutil.copy(folder / "toy.bin", tmp_path / name)
    toy = sets.parse(text.format(tmp_path))
    assert (len(toy.same), toy.protocol) == (20, "kfold")


def test_comma_in_the_folder_of_images(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "faces, aligned")
    text = f"toy={folder}/list.txt,root={tmp_path}/faces, aligned,missing=drop"
    assert sets.parse(text).dropped == 0


@pytest.fixture(scope="module")
def unaligned(tmp_path_factory):
    """Pairs of images that are no aligned faces: a .bin, and lists of two formats."""
    folder = tmp_path_factory.mktemp("unaligned")
    for name, size in (("square", (250, 250)), ("oblong", (112, 96))):
        images = [encoded(image=picture(*size, n)) for n in range(8)]
        (folder / f"{name}.bin").write_bytes(pickle.dumps((images, [True, False] * 2)))
        for number, image in enumerate(images):
            path = folder / f"{name}/Ann/Ann_{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    lines = [f"{n % 2} Ann/Ann_{n:04}.jpg Ann/Ann_{n + 1:04}.jpg" for n in range(7)]
    (folder / "labels.txt").write_text("\n".join(lines))
    lines = ["2", "Ann\t0\t1", "Ann\t2\t3", "Ann\t4\tAnn\t5", "Ann\t6\tAnn\t7"]
    (folder / "pairs.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("toy={}/square.bin", "250x250"),
        ("toy={}/oblong.bin", "96x112"),
        ("toy={0}/labels.txt,root={0}/square", "250x250"),
        ("toy={0}/pairs.txt,root={0}/oblong", "96x112"),
    ],
)
def test_images_that_are_no_aligned_faces_are_refused(unaligned, text, shape):
    text = text.format(unaligned)
    match = f"8 of 8 images are no aligned faces, such as .*: {shape} pixels, expected"
    with pytest.raises(DataError, match=match):
        sets.parse(text, (160,))
    accepted = sets.parse(text, (160,), unaligned=True)
    assert accepted.images[:].shape[0] == 8
    if shape == "250x250":  # the input of a network
        assert sets.parse(text, (96, 250)).same.any()


def test_names_of_a_set_are_those_typed_and_of_the_file(folder):
    assert sets.parse(f"test={folder}/toy.bin").data_sets == ("test", "toy")
    marked = sets.parse(f"test={folder}/toy.bin").mark_seen({"toy": ["a"]})
    assert marked.key == "test_seen"


def test_one_training_image_marks_a_set_without_names(folder):
    toy = sets.parse(f"test={folder}/toy.bin")
    trained = {"mine": ["001", "002"]}
    some = np.sort(digests.of_slices([picture(seed=9), toy.images[5]]))
    assert toy.mark_seen(trained, some).key == "test_seen"
    none = toy.mark_seen(trained, some[:0])
    assert (none.key, none.unknown) == ("test", True)


@pytest.mark.parametrize(
    "text",
    ["toy={}/toy.bin,protocol=kfold", "toy={}/list.txt", "toy={}/list.txt,far=0.2"],
)
def test_pairs_find_stored_embeddings_by_name(folder, text):
    rng = np.random.default_rng(0)
    names = [f"toy.bin:{n}" if "bin" in text else f"{n}.png" for n in range(40)]
    rows = rng.normal(size=(40, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = rng.permutation(40)
    columns = Columns(
        np.array(names)[order],
        np.full(40, ""),
        rows[order].astype(np.float32),
        np.ones(40, np.float32),
        {"flip": False},
    )
    stored = StoredEmbeddings(columns)
    toy = sets.parse(text.format(folder), stored=stored)
    results = toy(Trained(stored.embed_raw, {}))
    cosines = np.sum(rows[::2] * rows[1::2], axis=1)
    listed = np.argsort([f"{n % 2} {2 * n}.jpg" for n in range(20)])  # as read
    expected = cosines if "bin" in text else cosines[listed]
    np.testing.assert_allclose(toy.curve[0], expected, atol=1e-6)
    assert 0 <= results["toy/accuracy:kfold"] <= 1
    fewer = StoredEmbeddings(columns._replace(names=np.full(40, "x")))
    with pytest.raises(DataError, match="40 of 40 images"):
        sets.parse(text.format(folder), stored=fewer)
