"""Lists and tables from users: invalid and large files, names in any encoding."""

import os

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.protocols import (
    identities,
    ijb,
    ijb_protocols,
    labelled,
    pairs,
    templates,
)
from data_pipelines.readers import labelled_folder
from tests.support.faces import encoded, picture


def release(path):
    """A release of IJB-C whose other lists name an image."""
    for name, text in (
        ("face_tid_mid.txt", "1.jpg 1 1\n"),
        ("1N_probe_mixed.csv", "TEMPLATE_ID,SUBJECT_ID\n1,a\n"),
    ):
        other = path.with_name(f"ijbc_{name}")
        if not other.exists():
            other.write_text(text)
    return path.parent


# Every kind of list, with its reader.
READERS = {
    "pairs.txt": lambda path: pairs.load(path, root=path.parent),
    "people.txt": lambda path: identities.select(["a", "b"], f"@{path}"),
    "ages.txt": identities.child_labels,
    "templates.csv": templates.load,
    "labels.csv": lambda path: labelled_folder.LabelledFolder(path.parent),
    "labelled.csv": labelled.load,
    "clusters.csv": lambda path: labelled.clusters(path, ["a"]),
    "ijbc_face_tid_mid.txt": lambda path: ijb.load(path.parent, points=False),
    "ijbc_name_5pts_score.txt": lambda path: ijb.load(release(path)),
    "ijbc_template_pair_label.txt": lambda path: ijb_protocols.pairs(
        release(path), np.array([1])
    ),
    "ijbc_1N_gallery_G1.csv": lambda path: ijb_protocols.searches(
        release(path), np.array([1])
    ),
    "Pair_list_F.txt": lambda path: pairs.load(
        path.parent / "Split/FF", root=path.parent
    ),
}
INVALID = {
    "bytes": bytes(range(256)) * 40,
    "zeros": bytes(4096),
    "an unterminated cell": b'file,"' + b"x" * 200_000 + b"\n1\n",
    "words": b"x y z w\n",
    "a header only": b"10\t300\n",
    "an empty number": b"1\t1\nsomebody\t\tanother\t2\nsomebody\t1\t\n",
    "many digits": b"1\t1\na\t1\tb\t%s\n" % (b"1" * 5000),
    "a long name": b"1 a/1.png %s.png\nfile\n" % (b"x" * 5000),
    "no numbers": b"1\t1\nsomebody\tone\ttwo\nsomebody\t1\tanother\ttwo\n",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_error_of_an_invalid_list_is_one_line(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    (tmp_path / "Split/FF/01").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        READERS[name](path)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_names_with_invalid_utf_8(tmp_path):
    """Names are bytes: an image is found by the name in the list."""
    folder = tmp_path / os.fsdecode(b"Bj\xf6rn")
    folder.mkdir()
    faces = [picture(seed=number) for number in range(2)]
    for number, face in enumerate(faces):
        (folder / f"{number}.png").write_bytes(encoded(".png", face))
    path = tmp_path / "pairs.txt"
    path.write_bytes(b"\xef\xbb\xbf1 Bj\xf6rn/0.png Bj\xf6rn/1.png\r\n\r\n")
    loaded = pairs.load(path, root=tmp_path)
    np.testing.assert_array_equal(loaded.images[:2], faces)


def test_a_file_of_many_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "ages.txt").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match="3,221,225,472 bytes; no age file"):
        identities.child_labels(tmp_path / "ages.txt")
    with pytest.raises(DataError, match="nowhere.txt: no such list"):
        lists.lines(tmp_path / "nowhere.txt")
