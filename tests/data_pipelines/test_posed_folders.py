"""Folders with poses: labels.csv, file names of Multi-PIE, CFP, KDEF and CMU."""

import csv
import tarfile

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.readers.labelled_folder import LabelledFolder
from data_pipelines.readers.layouts import open_source
from data_pipelines.readers.posed_folders import Cfp, CmuFaces, Kdef, MultiPie
from data_pipelines.record_set import RecordSet
from tests.support.faces import encoded, picture


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(".png", picture(20, 20, seed)))


def test_labelled_folder_and_errors_of_its_table(tmp_path):
    for name in ("b/1.png", "a/1.png", "c.png"):
        write(tmp_path / name)
    rows = [
        {"file": "b/1.png", "identity": "b", "yaw": "15.5", "light": "3"},
        {"file": "c.png", "identity": "", "yaw": "", "light": ""},
        {"file": "a/1.png", "identity": "a", "yaw": "-30", "light": "0"},
    ]

    def table(rows):
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return LabelledFolder(tmp_path)

    reader = table(rows)
    faces = list(reader)
    assert len(reader) == 3
    assert [(f.label, f.identity, f.source, f.light) for f in faces] == [
        (-1, "", "c.png", -1),
        (0, "a", "a/1.png", 0),
        (1, "b", "b/1.png", 3),
    ]
    assert np.isnan(faces[0].yaw) and [f.yaw for f in faces[1:]] == [-30, 15.5]
    assert faces[1].image == (tmp_path / "a/1.png").read_bytes()

    def rejected(match, **changes):
        with pytest.raises(DataError, match=match):
            table([rows[0] | changes])

    rejected("line 2: yaw 'left' is not a number", yaw="left")
    rejected("line 2: light '1.5' is not a number", light="1.5")
    rejected("line 2: a yaw of 270 degrees", yaw="270")
    rejected("line 2: no such image: 'z.png'", file="z.png")
    rejected("is no path within the folder", file="../b/1.png")
    rejected("is no path within the folder", file=r"\x2e\x2e/b/1.png")
    rejected("is no path within the folder", file=r"\x2fetc/1.png")
    rejected("light '99999999999' is not a number", light="99999999999")
    with pytest.raises(DataError, match="no column 'file'"):
        table([{"image": "c.png"}])
    with pytest.raises(DataError, match="no such table"):
        LabelledFolder(tmp_path / "a")


def test_multipie_labels_from_file_names(tmp_path):
    folder = "session02/multiview/001/02/05_1/"
    names = ("001_02_02_051_07", "346_01_01_110_19", "001_01_01_190_00")
    for seed, name in enumerate((*names, "001_01_01_081_00", "notes")):
        write(tmp_path / folder / f"{name}.png", seed)
    reader = MultiPie(tmp_path)
    assert len(reader) == 3 and reader.identities == ["001", "346"]
    labels = [(f.label, f.session, f.yaw, f.light, f.expression) for f in reader]
    assert labels == [
        (0, 1, 45.0, 0, "neutral"),
        (0, 2, 0.0, 7, "surprise"),
        (1, 1, -90.0, 19, "neutral"),
    ]
    write(tmp_path / "001_01_01_077_00.png")
    with pytest.raises(DataError, match="Multi-PIE has no camera 077"):
        MultiPie(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images named as Multi-PIE's"):
        MultiPie(tmp_path / "empty")


def test_cfp_yaws_from_file_names_are_stored_in_records(tmp_path, command):
    for seed, name in enumerate(
        ("001/frontal_01", "001/profile_01", "002/frontal/01", "002/profile/01")
    ):
        write(tmp_path / f"cfp/{name}.png", seed)
    assert [f.yaw for f in Cfp(tmp_path / "cfp")] == [0, 90, 0, 90]
    words = ("convert", tmp_path / "cfp", "--to", tmp_path, "--name", "some")
    code, _, error = command("data", *words, "--layout", "cfp", "--size", "20")
    assert code == 0, error
    faces = RecordSet(tmp_path / "some")
    assert faces.yaw.tolist() == [0, 90, 0, 90]
    assert faces.light.tolist() == faces.session.tolist() == [-1] * 4
    code, out, _ = command("data", "info", tmp_path / "some")
    assert "yaws        0 to 90, 4 images" in out
    write(tmp_path / "cfp/001/side.png")
    with pytest.raises(DataError, match="begin with 'frontal' or 'profile'"):
        list(Cfp(tmp_path / "cfp"))
    code, _, error = command("data", *words, "--layout", "cpf")
    assert code == 2 and "did you mean 'cfp'" in error


def test_kdef_labels_from_file_names(tmp_path):
    """Twenty names, six of them not KDEF's."""
    sessions = ("AF01", "BF01", "AM35")
    names = [f"{one}NE{angle}" for one in sessions for angle in ("FL", "S", "HR", "FR")]
    names += ["BM35AFHL", "am35sus"]
    others = ["AF01NE", "AF01NEX", "CF01NES", "AF1NES", "AF01NESS", "readme"]
    for seed, name in enumerate((*names, *others)):
        write(tmp_path / f"{name[:4]}/{name}.JPG", seed)
    reader = Kdef(tmp_path)
    assert reader.identities == ["F01", "M35"] and len(reader) == 14
    faces = {f.source[5:-4]: f for f in reader}
    labels = {
        name: (f.identity, f.label, f.session, f.yaw, f.expression)
        for name, f in faces.items()
    }
    assert labels["AF01NEFL"] == ("F01", 0, 0, -90, "neutral")
    assert labels["BF01NEHR"] == ("F01", 0, 1, 45, "neutral")
    assert labels["BM35AFHL"] == ("M35", 1, 1, -45, "afraid")
    assert labels["am35sus"] == ("M35", 1, 0, 0, "surprised")
    assert labels["AM35NEFR"][3] == 90
    assert reader.skipped == {"images not named as those of KDEF": 6}
    assert reader.note == (
        "left out, not named as those of KDEF: AF01/AF01NE.JPG, AF01/AF01NESS.JPG, "
        "AF01/AF01NEX.JPG, AF1N/AF1NES.JPG, CF01/CF01NES.JPG, ..."
    )
    published = open_source(tmp_path, "kdef_published")
    assert published.identities == ["AF01", "AM35", "BF01", "BM35"]
    assert [f.session for f in published if f.identity[0] == "B"] == [1] * 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images named as those of KDEF, AF01"):
        Kdef(tmp_path / "empty")


def test_cmu_labels_from_file_names(tmp_path):
    names = [
        "an2i_left_angry_open.pgm",
        "an2i_up_sad_sunglasses.pgm",
        "at33_straight_neutral_open.pgm",
    ]
    left_out = ["an2i_left_sad_open.bad", "an2i_left_sad_open_2.pgm", "an2i_down.pgm"]
    for name in (*names, *left_out):
        (tmp_path / name).write_bytes(encoded(".pgm", picture(20, 20)[..., :1]))
    reader = CmuFaces(tmp_path)
    labels = [
        (f.identity, f.yaw, f.pitch, f.expression, f.session, f.source) for f in reader
    ]
    assert labels == [
        ("an2i", -45, 0, "angry", 0, names[0]),
        ("an2i", 0, 30, "sad", 1, names[1]),
        ("at33", 0, 0, "neutral", 0, names[2]),
    ]
    assert reader.skipped == {
        "images marked .bad": 1,
        "smaller copies": 1,
        "images not named as those of CMU Face Images": 1,
    }
    assert "an2i_down.pgm" in reader.note


def test_names_of_the_real_cmu_set(real, tmp_path):
    with tarfile.open(real("cmu_faces.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    reader = CmuFaces(tmp_path)
    assert len(reader) == 624 and len(reader.identities) == 20 and not reader.note
    poses = {(f.yaw, f.pitch) for f in reader}
    assert poses == {(-45, 0), (45, 0), (0, 0), (0, 30)}
