"""`fr-jax people`: find the persons of a video, from the clip to contact sheets.

The tracklets of the video, the three stages of self-augmentation, clusters: each in a
folder of its own in DIR (tracks, identity, augment, refine, persons). A call that was
interrupted goes on where it stopped; what is complete is not done again, but for
clusters of another embedder or number of persons.

Example:
    fr-jax people clip.mp4 --detector yunet.onnx --embedder EMBEDDER --to found
    fr-jax people clip.mp4 --detector yunet.onnx --embedder EMBEDDER --stages none \\
        --to found
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fr_jax.errors import UserError

STAGES = {"none": (), "identity": ("identity",)}
STAGES["all"] = ("identity", "augment", "refine")
_CONFIG = "self_augmentation:video"


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("clip", metavar="CLIP", help="video, or a folder of its frames")
    text = "YuNet's .onnx, of the OpenCV model zoo"
    add("--detector", default="", metavar="FILE", help=text)
    text = "embedder of faces with which Stage I begins; fr-jax import makes one of "
    text += "published weights, fr-jax train --config=usynthface:faces_cpu of rendered "
    text += "faces"
    add("--embedder", default="", metavar="EMBEDDER", help=text)
    add("--to", required=True, metavar="DIR", help="folder, new or of an earlier call")
    text = "none: clusters of the embedder's features, in minutes; identity: without "
    text += "generated negatives"
    add("--stages", default="all", choices=tuple(STAGES), help=text)
    text = "number of persons; default: estimated"
    add("--persons", type=int, default=0, metavar="K", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Runs the commands that are not done yet."""
    if not arguments.detector:
        raise UserError(
            "--detector is needed: the file of YuNet, face_detection_yunet_*.onnx, of "
            "the OpenCV model zoo"
        )
    if not arguments.embedder:
        raise UserError(
            "--embedder is needed: fr-jax import makes one of published weights, "
            "fr-jax train --config=usynthface:faces_cpu of rendered faces"
        )
    target = Path(arguments.to)
    given = {
        "clip": Path(arguments.clip).name,
        "detector": Path(arguments.detector).name,
        "embedder": str(Path(arguments.embedder).resolve()),
    }
    made_of = target / "people.json"
    _check_same(made_of, given)
    tracks, persons = target / "tracks", target / "persons"
    if not tracks.exists():
        detector = ("--detector", arguments.detector)
        _call("video", "tracks", arguments.clip, *detector, "--to", tracks)
        _remember(made_of, given, "clip", "detector")
    embedder: str | Path = arguments.embedder
    stages = STAGES[arguments.stages]
    if stages and _stored(tracks / "about.json")["tracklets"] == 1:
        print("one tracklet: one person, nothing to learn; the stages are skipped")
        stages = ()
    for stage in stages:
        workdir = target / stage
        made = workdir / ("embedder_augmentation" if stage == "augment" else "embedder")
        if not (made.exists() and (workdir / "results.json").exists()):
            _call("train", *_training(stage, target, arguments.embedder))
            _remember(made_of, given, "embedder")
        if stage != "augment":
            embedder = made
    expected = {"embedder": str(embedder), "asked": arguments.persons}
    if not _holds(persons / "results.json", expected):
        shutil.rmtree(persons, ignore_errors=True)
        options = ("--embedder", embedder, "--to", persons)
        _call("cluster", tracks, *options, "--persons", arguments.persons)
    print(f"sheets: {persons}")


def _check_same(path: Path, given: Mapping[str, str]) -> None:
    """Raises a UserError if a folder was begun with another video or embedder."""
    for name, stored in _stored(path).items():
        if given.get(name) != stored:
            raise UserError(
                f"--to {path.parent}: begun with {name} {stored!r}, not "
                f"{given.get(name)!r}; choose another --to"
            )


def _remember(path: Path, given: Mapping[str, str], *names: str) -> None:
    """Adds what a finished part was made of."""
    values = _stored(path) | {name: given[name] for name in names}
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _stored(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _holds(path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a JSON file has these values."""
    stored = _stored(path)
    return all(stored.get(name) == value for name, value in expected.items())


def _training(stage: str, target: Path, embedder: str) -> Sequence[str | Path]:
    """Returns the flags of a stage's run."""
    suffix = "" if stage == "identity" else f"_{stage}"
    words: list[str | Path] = [
        f"--config={_CONFIG}{suffix}",
        f"--workdir={target / stage}",
        f"--config.data.records.path={target / 'tracks'}",
    ]
    if stage == "identity":
        return [*words, "--init-from", embedder]
    words += ["--given", f"identity={target / 'identity' / 'embedder'}"]
    if stage == "refine":
        made = target / "augment" / "embedder_augmentation"
        words += ["--given", f"augmentation={made}"]
    return words


def _call(*words: object) -> None:
    from fr_jax.cli.main import call

    call([str(word) for word in words])
