"""`fr-jax faces render`: what it leaves on disk, and what every mistake gets."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import images, records
from data_pipelines import index as indexes
from data_pipelines.protocols import pairs as published
from data_pipelines.readers.image_folder import ImageFolder
from fr_jax.cli import face_files
from fr_jax.faces import EXPRESSIONS, IMAGING, TRAITS, sets

pytestmark = [
    pytest.mark.usefixtures("quick_drawing"),
    pytest.mark.xdist_group("drawn"),
]
SMALL = ("--size", "32", "--quality", "fast")


@pytest.fixture
def render(command, tmp_path):
    """Draws; returns the folder and what was printed."""

    def run(name, *words):
        target = tmp_path / name
        code, out, error = command("faces", "render", *SMALL, "--to", target, *words)
        assert code == 0, error
        assert not target.with_name(name + ".part").exists()
        return target, out

    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


PEOPLE = ("--identities", "5", "--images-per-identity", "3", "--seed", "4")


def test_a_folder_and_its_labels(render):
    folder, out = render("whole", *PEOPLE, "--max-yaw", "40")
    assert f"15 images of 5 people to {folder}" in out
    faces = list(ImageFolder(folder))
    assert [face.identity for face in faces[::3]] == [
        f"s4n{number:07}" for number in range(5)
    ]
    rows = table(folder / "labels.csv")
    assert [row["file"] for row in rows] == [face.source for face in faces]
    label, image = sets.rows(sets.default(), 5, 3)
    known = sets.label(sets.default(40.0), 4, label, image)
    for number, (row, face) in enumerate(zip(rows, faces)):
        assert images.decode(face.image).shape == (32, 32, 3)
        assert row["identity"] == face.identity
        stated = [float(row[f"identity.{name}"]) for name in TRAITS]
        exact = known.codes.identity[number, : len(TRAITS)]
        np.testing.assert_allclose(stated, exact, rtol=1e-5)
        stated = [float(row[f"imaging.{name}"]) for name in IMAGING]
        np.testing.assert_allclose(stated, known.codes.imaging[number], rtol=1e-5)
        assert float(row["yaw"]) == pytest.approx(known.codes.pose[number, 0], rel=1e-5)
        assert float(row["age"]) == pytest.approx(known.codes.age[number], rel=1e-5)
        assert abs(float(row["yaw"])) <= 40
        assert float(row["lx"]) < float(row["rx"])  # of the aligned eyes
        assert (row["expression"], row["light"], row["session"]) == ("", "-1", "-1")
    noses = {(row["x30"], row["y30"]) for row in rows}
    assert len(noses) == 15  # they are where they are


def test_shards_are_parts_of_the_whole(render):
    whole, _ = render("whole", *PEOPLE)
    parts = [render(f"part{i}", *PEOPLE, "--shard", f"{i}/2")[0] for i in range(2)]
    found = [contents(part) for part in parts]
    tables = [part.pop("labels.csv").splitlines() for part in found]
    assert not found[0].keys() & found[1].keys()
    assert len(found[0]) == 6 and len(found[1]) == 9
    together = found[0] | found[1]
    expected = contents(whole)
    assert [*tables[0], *tables[1][1:]] == expected.pop("labels.csv").splitlines()
    assert together == expected


def test_a_folder_goes_on_where_it_was_stopped(render, command, tmp_path, monkeypatch):
    whole, _ = render("whole", *PEOPLE)
    target = tmp_path / "stopped"
    encode, left = face_files.jpeg, iter(range(11))

    def stop(image):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(face_files, "jpeg", stop)
    words = ("faces", "render", *SMALL, "--to", target, *PEOPLE)
    assert command(*words)[0] == 130
    monkeypatch.setattr(face_files, "jpeg", encode)
    assert not target.exists()
    part = target.with_name("stopped.part")
    rows = (part / "labels.csv").read_text()
    (part / "labels.csv").write_text(rows[:-100])  # as if the last row were half out
    code, out, _ = command(*words)
    assert code == 0 and "goes on after 10 images" in out
    assert contents(target) == contents(whole)
    shutil.rmtree(target)
    part.mkdir()
    (part / "options.json").write_text("{}")  # of another run: begins anew
    (part / "rest.jpg").write_bytes(b"old")
    code, out, _ = command(*words)
    assert code == 0 and "goes on" not in out
    assert contents(target) == contents(whole)


def test_records_say_what_was_drawn(render):
    folder, out = render(
        "r", "--set", "kdef", "--identities", "1", "--format", "records"
    )
    assert f"70 images of 1 people to {folder}/kdef/1.0.0" in out
    place = indexes.find(folder / "kdef")
    index = indexes.load(place)
    assert index.identities == ["s0n0000000"]
    assert index.size == 32 and index.licence == "none needed: nobody is shown"
    label, image = sets.rows(sets.kdef(), 1, 0)
    known = sets.label(sets.kdef(), 0, label, image)
    for number in (0, 33, 69):
        face = records.decode(indexes.read(place, index, number))
        assert face.expression == EXPRESSIONS[known.expression[number]]
        assert face.session == known.session[number]
        assert face.yaw == known.codes.pose[number, 0]
        assert face.age == known.codes.age[number] == index.age[number]
        assert face.light == -1
        assert face.landmarks68.shape == (68, 2) and face.landmarks5.shape == (5, 2)
        nose = face.landmarks68[30] - face.landmarks5[2]
        assert np.abs(nose).max() < 1e-3
        assert face.box[2] > 5
        assert images.decode(face.image).std() > 10


def test_pairs_are_a_set_to_evaluate_on(render):
    folder, out = render(
        "p", "--set", "pairs", "--identities", "20", "--images-per-identity", "2"
    )
    assert f"--set pairs={folder}/pairs.txt,root={folder}" in out
    found = published.load(folder / "pairs.txt", root=folder)
    assert len(found.same) == 40 and found.same.sum() == 20
    assert found.folds is not None and found.people is not None
    people = np.array(found.people)[found.pairs]
    assert ((people[:, 0] == people[:, 1]) == found.same).all()
    folds = [set(people[found.folds == fold].ravel()) for fold in range(10)]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 20
    assert found.images[:40].shape == (40, 32, 32, 3)


def test_child_adult_pairs_are_as_far_apart_as_they_say(render):
    folder, _ = render(
        "a", "--set", "ages", "--identities", "4", "--images-per-identity", "6"
    )
    ages = {row["file"]: float(row["age"]) for row in table(folder / "labels.csv")}
    for gap in (20, 30):
        found = published.read_list(folder / f"child{gap}.txt")
        assert sum(found.same) == len(found.same) - sum(found.same) > 2
        for child, adult, same in zip(found.first, found.second, found.same):
            assert ages[child] <= 12 and ages[adult] - ages[child] >= gap
            assert (child.split("/")[0] == adult.split("/")[0]) == same
    assert published.load(folder / "child20.txt", root=folder).people


def test_a_video_and_what_is_true_of_it(render):
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
    who = {}
    for row in rows:
        assert int(row["shot"]) == int(row["frame"]) // 3
        assert who.setdefault(row["track"], (row["shot"], row["identity"])) == (
            row["shot"],
            row["identity"],
        )
        assert 0.35 <= float(row["score"]) <= 1
        assert abs(float(row["x30"]) - float(row["nx"])) < 0.1
        crop = cv2.imread(str(folder / row["file"]))
        assert crop.shape == (32, 32, 3)
    assert len(set(who.values())) == len(who)
    assert all(name.startswith("s0n10737418") for _, name in who.values())
    together = [[r["identity"] for r in rows if r["frame"] == str(f)] for f in range(6)]
    assert max(len(names) for names in together) == 3
    assert all(len(set(names)) == len(names) for names in together)


def test_mistakes(mistake, tmp_path):
    def wrong(match, *words, to=tmp_path / "new"):
        before = contents(tmp_path)
        mistake(match, "faces", "render", "--to", to, *words)
        assert contents(tmp_path) == before

    some = ("--identities", "5")
    wrong("say how many people: --identities N")
    wrong("did you mean 'usynthface'", *some, "--set", "usynthfaces")
    wrong("did you mean 'records'", *some, "--format", "record")
    wrong("did you mean 'loose'", *some, "--frame", "lose")
    wrong("did you mean 'fast'", *some, "--quality", "fas")
    wrong("--identities 0: use 1 to", "--identities", "0")
    wrong("--images-per-identity 0", *some, "--images-per-identity", "0")
    wrong("--size 8: use 16 to 1024", *some, "--size", "8")
    wrong("--seed -1", *some, "--seed", "-1")
    wrong("--max-yaw 120: use 0 to 90", *some, "--max-yaw", "120")
    wrong("--child-share 2", *some, "--set", "ages", "--child-share", "2")
    wrong("--child-share goes with --set ages", *some, "--child-share", "0.5")
    wrong("not with kdef", *some, "--set", "kdef", "--images-per-identity", "4")
    wrong("--shots goes with --set video", *some, "--shots", "4")
    wrong("is not I/N", *some, "--shard", "1:4")
    wrong("shards count from 0", *some, "--shard", "4/4")
    wrong("each needs people", *some, "--shard", "0/6")
    wrong("no shards", "--set", "pairs", "--identities", "20", "--shard", "0/2")
    wrong("no records", "--set", "video", "--format", "records")
    wrong("--name goes with --format records", *some, "--name", "a")
    wrong("5 people in 10 folds", *some, "--set", "pairs")
    wrong("3 people together of 2", "--set", "video", "--identities", "2")
    wrong("is not WxH", "--set", "video", "--frame-size", "640")
    wrong("GB are free at", "--identities", "1000000", "--images-per-identity", "9999")
    wrong("use --format records there", *some, to="gs://bucket/faces")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("kept")
    wrong("exists; choose another folder", *some, to=tmp_path / "full")
    (tmp_path / "r/default/1.0.0").mkdir(parents=True)
    wrong("1.0.0 exists", *some, "--format", "records", to=tmp_path / "r")
    mistake("invalid choice: 'rendr'", "faces", "rendr")
