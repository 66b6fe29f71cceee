"""`fr-jax people`: the commands that it runs, and what it does not repeat."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from fr_jax.cli import main as program


@pytest.fixture
def calls(monkeypatch):
    """Records the commands, and makes what they would write."""
    made, run = [], program.call

    def call(words):
        if words[0] == "people":
            return run(words)
        made.append(words)
        flags = [word.partition("=")[::2] for word in words]
        named = dict(flags) | dict(itertools.pairwise(words))
        target = Path(named.get("--workdir") or named["--to"])
        target.mkdir(parents=True)
        if words[0] == "video":
            about = {"tracklets": tracklets[0]}
            (target / "about.json").write_text(json.dumps(about))
        if words[0] == "train":
            network = (
                "embedder_augmentation" if "augment" in str(target) else "embedder"
            )
            (target / network).mkdir()
            (target / "results.json").write_text("{}")
        if words[0] == "cluster":
            asked = int(named.get("--persons", 0))
            values = {"embedder": named["--embedder"], "asked": asked}
            (target / "results.json").write_text(json.dumps(values))
        return 0

    tracklets = [5]
    monkeypatch.setattr(program, "call", call)
    made.append(tracklets)
    return made


def words(target, *more):
    given = ("--detector", "yunet.onnx", "--embedder", "mine")
    return ("people", "clip.mp4", *given, "--to", target, *more)


def test_every_stage_gets_the_networks_before_it(calls, command, tmp_path):
    code, out, _ = command(*words(tmp_path))
    assert code == 0 and f"sheets: {tmp_path / 'persons'}" in out
    _, tracks, identity, augment, refine, cluster = calls
    assert tracks[:3] == ["video", "tracks", "clip.mp4"]
    assert identity[1] == "--config=self_augmentation:video"
    assert identity[-2:] == ["--init-from", "mine"]
    assert augment[1] == "--config=self_augmentation:video_augment"
    assert f"identity={tmp_path}/identity/embedder" in augment
    assert f"augmentation={tmp_path}/augment/embedder_augmentation" in refine
    for stage in (identity, augment, refine):
        assert f"--config.data.records.path={tmp_path}/tracks" in stage
    assert f"{tmp_path}/refine/embedder" in cluster


def test_what_is_complete_is_not_done_again(calls, command, tmp_path):
    command(*words(tmp_path))
    del calls[1:]
    assert command(*words(tmp_path))[0] == 0
    assert calls[1:] == []
    shutil.rmtree(tmp_path / "refine")
    command(*words(tmp_path))
    assert [one[0] for one in calls[1:]] == ["train"]  # killed before its results


def test_other_clusters_replace_those_of_an_earlier_call(calls, command, tmp_path):
    command(*words(tmp_path, "--stages", "none"))
    del calls[1:]
    command(*words(tmp_path, "--stages", "none", "--persons", 3))
    assert [one[0] for one in calls[1:]] == ["cluster"]
    del calls[1:]
    command(*words(tmp_path))
    assert [one[0] for one in calls[1:]] == ["train"] * 3 + ["cluster"]


def test_another_video_or_embedder_needs_another_folder(
    calls, command, mistake, tmp_path
):
    command(*words(tmp_path, "--stages", "identity"))
    given = ("--detector", "yunet.onnx", "--to", tmp_path)
    mistake(
        "begun with clip 'clip.mp4', not 'other.mp4'",
        *("people", "other.mp4", "--embedder", "mine", *given),
    )
    mistake("begun with embedder", *("people", "clip.mp4", "--embedder", "b", *given))


def test_without_stages_the_features_of_the_embedder_are_clustered(
    calls, command, tmp_path
):
    assert command(*words(tmp_path, "--stages", "none", "--persons", 4))[0] == 0
    assert [one[0] for one in calls[1:]] == ["video", "cluster"]
    cluster = calls[-1]
    assert cluster[cluster.index("--embedder") + 1] == "mine"
    assert cluster[cluster.index("--persons") + 1] == "4"


def test_one_tracklet_is_one_person(calls, command, tmp_path):
    calls[0][0] = 1
    _, out, _ = command(*words(tmp_path))
    assert "one tracklet: one person" in out
    assert [one[0] for one in calls[1:]] == ["video", "cluster"]


def test_missing_files_say_where_they_come_from(tmp_path, mistake):
    people = ("people", "clip.mp4", "--to", tmp_path / "found")
    mistake("YuNet, face_detection_yunet_*.onnx, of the OpenCV model zoo", *people)
    mistake("fr-jax import makes one", *people, "--detector", "yunet.onnx")
