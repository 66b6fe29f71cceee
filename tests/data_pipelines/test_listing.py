"""The lister of images: content, links, what it leaves out, folders of identities."""

import os

import pytest

from data_pipelines import DataError, listing, names
from data_pipelines.readers.image_folder import FlatFolder, ImageFolder
from tests.support.faces import encoded

JPEG = encoded()
HEIC = b"\0\0\0\x20ftypheic" + bytes(40)


def put(root, *paths, data=JPEG):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def test_images_are_told_by_content_in_the_order_of_their_folders(tmp_path):
    put(tmp_path, "b/2.JPG", "b/10", "a-b/1.png", "a/1.bad", "a/x/3.jpg.part")
    put(tmp_path, "a/junk.jpg", data=b"junk")  # fails when it is read, and counts there
    put(tmp_path, "a/notes.txt", "a/more.TXT", "b/README", data=b"P1 is no image, BMW")
    put(tmp_path, "a/1.heic", data=HEIC)
    put(tmp_path, ".trash/3.jpg", "a/.4.jpg")
    found = listing.list_images(tmp_path)
    expected = ["a/1.bad", "a/junk.jpg", "a/x/3.jpg.part", "a-b/1.png", "b/10"]
    assert found.names == [*expected, "b/2.JPG"]
    assert found.skipped == {".txt": 2, "hidden": 2, "no suffix": 1, "HEIC": 1}
    text = listing.summary(found.skipped)
    assert text == "left out: 2 .txt, 2 hidden, 1 HEIC, 1 no suffix"
    assert listing.summary({}) == ""
    many = {f".{n}": 1 for n in range(10, 30)}
    assert listing.summary(many).endswith("1 .17, 12 of other kinds")


def test_links_are_followed_and_folders_listed_once(tmp_path):
    put(tmp_path, "all/p1/1.jpg", "all/p2/1.jpg", "elsewhere/2.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "p1").symlink_to(tmp_path / "all/p1")
    (root / "again").symlink_to(tmp_path / "all/p1")
    (root / "loop").symlink_to(root)
    (root / "itself").symlink_to("itself")
    (root / "p3").mkdir()
    (root / "p3/file.jpg").symlink_to(tmp_path / "elsewhere/2.jpg")
    (root / "p3/gone.jpg").symlink_to("nothing")  # named as an image: counted as bad
    (root / "p3/gone").symlink_to("nothing")
    os.mkfifo(root / "p3/pipe.jpg")  # is not opened, which would wait forever
    found = listing.list_images(root)
    assert found.names == ["again/1.jpg", "p3/file.jpg", "p3/gone.jpg"]
    assert found.skipped == {
        "link to a listed folder": 2,
        "dangling link": 2,
        "pipe, socket or device": 1,
    }


def test_folders_that_link_to_each_other_take_linear_time(tmp_path):
    for number in range(30):
        put(tmp_path, f"p{number:02}/1.jpg")
        for other in range(30):
            (tmp_path / f"p{number:02}/friend{other:02}").symlink_to(f"../p{other:02}")
    found = listing.list_images(tmp_path)
    assert len(found.names) == 30
    assert found.skipped == {"link to a listed folder": 900}


@pytest.mark.parametrize(
    ("paths", "level", "expected", "note"),
    [
        (["a/1", "b/2"], None, ["a", "b"], ""),
        (["a/1", "b/x/2", "3"], None, ["a", "b", ""], ""),
        (["lfw/a/1", "lfw/b/2"], None, ["lfw", "lfw"], "in 2 subfolders"),
        (["u/lfw/a/1", "u/lfw/b/2", "s.png"], None, ["u", "u", ""], "-level 3"),
        (["train/a/1", "train/b/1", "val/a/2"], None, ["train"] * 2 + ["val"], "in 3"),
        (["train/a/1", "train/b/1", "val/a/2"], 2, ["a", "b", "a"], ""),
        (["train/a/1", "b/1", "2"], 2, ["a", "", ""], ""),
        (["x/train/a/1", "b/1", "2"], -1, ["a", "b", ""], ""),
        (["x/train/a/1", "b/1"], -2, ["train", ""], ""),
        (["one/deep/1", "one/2"], 1, ["one", "one"], ""),
        ([], None, [], ""),
    ],
)
def test_identities_by_level(paths, level, expected, note):
    found = listing.identities(paths, level)
    assert found.names == expected
    assert (note in found.note) if note else not found.note


def test_single_identity_with_subfolders_is_refused(tmp_path):
    put(tmp_path, "lfw/Ann/1.jpg", "lfw/Bob/1.jpg", "lfw/readme.jpg")
    with pytest.raises(DataError, match="a single identity: .*--identity-level 2"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path, 1).identities == ["lfw"]
    folder = ImageFolder(tmp_path, 2)
    assert folder.identities == ["Ann", "Bob"]
    assert folder.skipped == {"images outside the folders of identities": 1}
    with pytest.raises(DataError, match="1 images, but none as <identity>"):
        ImageFolder(tmp_path / "lfw/Ann")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"Zo\xc3\xab", "Zoë"),
        (b"\xcd\xf5\xb7\xbc", "\\xcd\\xf5\\xb7\\xbc"),
        (b"a\\b", "a\\\\b"),
        (b"a\nb\x1b[0m", "a\\x0ab\\x1b[0m"),
        (b"\\xcd", "\\\\xcd"),
    ],
)
def test_names_as_text_and_back(name, text):
    assert names.written(name) == text
    assert os.fsencode(names.unwritten(text)) == name
    assert names.normal(text) == text


def test_typed_names_may_have_single_backslashes():
    assert names.normal("a\\b") == "a\\\\b"
    assert names.normal("\\xCD") == "\\xcd"


def test_files_with_names_that_are_not_utf8_are_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xcd\xf5"
    os.mkdir(folder)
    for name in (b"1\xff.jpg", b"2.jpg"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(JPEG)
    faces = list(ImageFolder(tmp_path))
    assert [face.identity for face in faces] == ["\\xcd\\xf5"] * 2
    assert [face.source for face in faces] == [
        "\\xcd\\xf5/1\\xff.jpg",
        "\\xcd\\xf5/2.jpg",
    ]
    assert all(face.image == JPEG for face in faces)
    assert len(FlatFolder(tmp_path)) == 2
