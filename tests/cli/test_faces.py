"""`fr-jax faces render`: files, resuming, and invalid settings."""

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import images, records
from data_pipelines import index as indexes
from data_pipelines.protocols import pair_lists
from data_pipelines.protocols import pairs as published
from data_pipelines.readers.image_folder import ImageFolder
from fr_jax.faces import EXPRESSIONS, IMAGING, TRAITS, sets
from fr_jax.faces import files as face_files

pytestmark = [
    pytest.mark.usefixtures("quick_drawing"),
    pytest.mark.xdist_group("drawn"),
]
SMALL = ("--size", "32", "--quality", "fast")


@pytest.fixture
def render(command, tmp_path):
    """Returns a function: name of a folder, flags -> the folder and the output."""

    def run(name, *words):
        target = tmp_path / name
        code, out, error = command("faces", "render", *SMALL, "--to", target, *words)
        assert code == 0, error
        assert not target.with_name(name + ".part").exists()
        return target, out

    return run


def table(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV."""
    with path.open() as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


IDENTITIES = ("--identities", "5", "--images-per-identity", "3", "--seed", "4")


def test_folder_has_images_and_exact_labels(render):
    folder, out = render("whole", *IDENTITIES, "--max-yaw", "45")
    assert re.search(rf"15 images of 5 identities to {folder}", out)
    faces = list(ImageFolder(folder))
    assert [face.identity for face in faces[::3]] == [
        f"s4n{number:07}" for number in range(5)
    ]
    rows = table(folder / "labels.csv")
    assert [row["file"] for row in rows] == [face.source for face in faces]
    label, image = sets.rows(sets.default(), 5, 3)
    labels = sets.label(sets.default(45.0), 4, label, image)
    for number, (row, face) in enumerate(zip(rows, faces)):
        assert images.decode(face.image).shape == (32, 32, 3)
        assert row["identity"] == face.identity
        stated = [float(row[f"identity.{name}"]) for name in TRAITS]
        exact = labels.codes.identity[number, : len(TRAITS)]
        np.testing.assert_allclose(stated, exact, rtol=1e-5)
        stated = [float(row[f"imaging.{name}"]) for name in IMAGING]
        np.testing.assert_allclose(stated, labels.codes.imaging[number], rtol=1e-5)
        yaw, age = labels.codes.pose[number, 0], labels.codes.age[number]
        assert float(row["yaw"]) == pytest.approx(yaw, rel=1e-5)
        assert float(row["age"]) == pytest.approx(age, rel=1e-5)
        assert abs(float(row["yaw"])) <= 45
        assert float(row["lx"]) < float(row["rx"])  # aligned eyes
        assert (row["expression"], row["light"], row["session"]) == ("", "-1", "-1")
    noses = {(row["x30"], row["y30"]) for row in rows}
    assert len(noses) == 15


def test_shards_together_equal_the_whole(render):
    whole, _ = render("whole", *IDENTITIES)
    parts = [render(f"part{i}", *IDENTITIES, "--shard", f"{i}/2")[0] for i in range(2)]
    files = [contents(part) for part in parts]
    tables = [part.pop("labels.csv").splitlines() for part in files]
    assert not files[0].keys() & files[1].keys()
    assert len(files[0]) == 6 and len(files[1]) == 9
    together = files[0] | files[1]
    expected = contents(whole)
    assert [*tables[0], *tables[1][1:]] == expected.pop("labels.csv").splitlines()
    assert together == expected


def test_interrupted_folder_is_resumed(render, command, tmp_path, monkeypatch):
    whole, _ = render("whole", *IDENTITIES)
    target = tmp_path / "stopped"
    encode, remaining = face_files.jpeg, iter(range(11))

    def stop(image):
        if next(remaining, None) is None:
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(face_files, "jpeg", stop)
    words = ("faces", "render", *SMALL, "--to", target, *IDENTITIES)
    assert command(*words)[0] == 130
    monkeypatch.setattr(face_files, "jpeg", encode)
    assert not target.exists()
    part = target.with_name("stopped.part")
    rows = (part / "labels.csv").read_text()
    (part / "labels.csv").write_text(rows[:-100])  # truncates the last row
    code, out, error = command(*words)
    assert code == 0, error
    assert "after 10 images" in out
    assert contents(target) == contents(whole)
    shutil.rmtree(target)
    part.mkdir()
    (part / "options.json").write_text("{}")  # of other settings, so it starts again
    (part / "rest.jpg").write_bytes(b"old")
    code, out, error = command(*words)
    assert code == 0, error
    assert "after" not in out
    assert contents(target) == contents(whole)


def test_records_have_exact_labels(render):
    folder, out = render(
        "r", "--set", "kdef", "--identities", "1", "--format", "records"
    )
    assert re.search(rf"70 images of 1 \w+ to {folder}/kdef/1.0.0", out)
    version = indexes.find(folder / "kdef")
    index = indexes.load(version)
    assert index.identities == ["s0n0000000"]
    assert index.size == 32
    assert index.licence.startswith("none needed")
    label, image = sets.rows(sets.kdef(), 1, 0)
    labels = sets.label(sets.kdef(), 0, label, image)
    for number in (0, 33, 69):
        face = records.decode(indexes.read(version, index, number))
        assert face.expression == EXPRESSIONS[labels.expression[number]]
        assert face.session == labels.session[number]
        assert face.yaw == labels.codes.pose[number, 0]
        assert face.age == labels.codes.age[number] == index.age[number]
        assert face.light == -1
        assert face.landmarks68.shape == (68, 2) and face.landmarks5.shape == (5, 2)
        nose = face.landmarks68[30] - face.landmarks5[2]
        assert np.abs(nose).max() < 1e-3
        assert face.box[2] > 5
        assert images.decode(face.image).std() > 10


def test_pairs_are_a_verification_set(render):
    folder, out = render(
        "p", "--set", "pairs", "--identities", "20", "--images-per-identity", "2"
    )
    assert f"--set pairs={folder}/pairs.txt,root={folder}" in out
    pairs = published.load(folder / "pairs.txt", root=folder)
    assert len(pairs.same) == 40 and pairs.same.sum() == 20
    assert pairs.folds is not None and pairs.identities is not None
    identities = np.array(pairs.identities)[pairs.pairs]
    assert ((identities[:, 0] == identities[:, 1]) == pairs.same).all()
    folds = [set(identities[pairs.folds == fold].ravel()) for fold in range(10)]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 20
    assert pairs.images[:40].shape == (40, 32, 32, 3)


def test_child_adult_pairs_differ_by_the_gap_in_years(render):
    folder, _ = render(
        "a", "--set", "ages", "--identities", "4", "--images-per-identity", "6"
    )
    ages = {row["file"]: float(row["age"]) for row in table(folder / "labels.csv")}
    for gap in (20, 30):
        pairs = pair_lists.read_list(folder / f"child{gap}.txt")
        assert sum(pairs.same) == len(pairs.same) - sum(pairs.same) > 2
        for child, adult, same in zip(pairs.first, pairs.second, pairs.same):
            assert ages[child] <= 12 and ages[adult] - ages[child] >= gap
            assert (child.split("/")[0] == adult.split("/")[0]) == same
    assert published.load(folder / "child20.txt", root=folder).identities


@pytest.mark.long
def test_video_and_its_tracks(render):
    words = ("--frame-size", "160x120", "--shots", "2", "--shot-frames", "3")
    folder, out = render("v", "--set", "video", "--identities", "4", *words)
    clip = cv2.VideoCapture(str(folder / "group.mp4"))
    frames = [frame for ok, frame in iter(clip.read, (False, None)) if ok]
    assert len(frames) == 6 and frames[0].shape == (120, 160, 3)
    rows = table(folder / "group_tracks.csv")
    columns = "track,frame,shot,x,y,w,h,lx,ly,rx,ry,nx,ny,mlx,mly,mrx,mry,score,file"
    assert ",".join(rows[0]).startswith(columns + ",identity")
    assert f"{len(rows)} faces" in out
    assert len(rows) > 6
    tracks = {}
    for row in rows:
        assert int(row["shot"]) == int(row["frame"]) // 3
        assert tracks.setdefault(row["track"], (row["shot"], row["identity"])) == (
            row["shot"],
            row["identity"],
        )
        assert 0.35 <= float(row["score"]) <= 1
        assert abs(float(row["x30"]) - float(row["nx"])) < 0.1
        crop = cv2.imread(str(folder / row["file"]))
        assert crop.shape == (32, 32, 3)
    assert len(set(tracks.values())) == len(tracks)
    assert all(name.startswith("s0n10737418") for _, name in tracks.values())
    together = [[r["identity"] for r in rows if r["frame"] == str(f)] for f in range(6)]
    assert max(len(names) for names in together) == 3
    assert all(len(set(names)) == len(names) for names in together)


SOME = "--identities 5 "


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("", "--identities N"),
        (SOME + "--set usynthfaces", "did you mean 'usynthface'"),
        (SOME + "--format record", "did you mean 'records'"),
        (SOME + "--frame lose", "did you mean 'loose'"),
        (SOME + "--quality fas", "did you mean 'fast'"),
        ("--identities 0", "--identities is 0; use 1 to 1073741824"),
        (SOME + "--images-per-identity 0", "--images-per-identity is 0; use 1 to"),
        (SOME + "--size 8", "--size is 8; use 16 to 1024"),
        (SOME + "--seed -1", "--seed is -1; use 0 to"),
        (SOME + "--max-yaw 120", "--max-yaw is 120.0; use 0 to 90"),
        (SOME + "--set ages --child-share 2", "--child-share is 2.0; use 0 to 1"),
        (SOME + "--child-share 0.5", "--child-share needs --set ages"),
        (SOME + "--set kdef --images-per-identity 4", "got kdef"),
        (SOME + "--shots 4", "--shots needs --set video"),
        (SOME + "--shard 1:4", "expected I/N, as in 0/8, got '1:4'"),
        (SOME + "--shard 4/4", "shards count from 0"),
        (SOME + "--shard 0/6", "--shard 0/6 of 5"),
        ("--set pairs --identities 20 --shard 0/2", "no shards"),
        ("--set video --format records", "no records"),
        (SOME + "--name a", "--name needs --format records"),
        (SOME + "--set pairs", "for 10 disjoint folds"),
        ("--set video --identities 2", "2 in the group"),
        ("--set video --frame-size 640", "expected WxH, as in 640x360"),
        ("--identities 1000000 --images-per-identity 9999", "MB are free on the disk"),
    ],
)
def test_invalid_settings_are_refused(mistake, tmp_path, words, match):
    mistake(match, "faces", "render", "--to", tmp_path / "new", *words.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "words", "match"),
    [
        ("gs://bucket/faces", SOME, "use --format records there"),
        ("{t}/full", SOME, "exists; choose another folder"),
        ("{t}/r", SOME + "--format records", "1.0.0 exists"),
    ],
    ids=["bucket", "folder", "records"],
)
def test_existing_or_invalid_target_is_refused(mistake, tmp_path, to, words, match):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("kept")
    (tmp_path / "r/default/1.0.0").mkdir(parents=True)
    before = contents(tmp_path)
    words = ("--to", to.format(t=tmp_path), *words.split())
    mistake(match, "faces", "render", *words)
    assert contents(tmp_path) == before
