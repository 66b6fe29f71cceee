"""`fr-jax faces`: renders faces as folders, TFRecords, pairs or a video."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from fr_jax.errors import UserError
from fr_jax.faces import files as face_files
from fr_jax.faces import pairs, sets, video
from fr_jax.faces.renderer.codes import EXPRESSIONS, Codes

_NAMES = (*sets.SETS, "pairs", "video")
_WHOLE = ("pairs", "video")  # are folders, and not drawn in shards
_IMAGES = 20  # of each person, where a set has no number of its own
_GROUP = 6  # people in a video
_GAPS = (20, 30)  # years, of the lists of child-adult pairs
_VERSION = "1.0.0"  # of the builder, which is not to be loaded for a check
_LICENCE = "none needed: nobody is shown"


class Plan(NamedTuple):
    """What is to be drawn: number of the person and of the image of each row.

    `ages` is [N] where files are named by them; `lists` are texts by the name of the
    file that they are written to, beside the images.
    """

    face_set: sets.FaceSet
    people: np.ndarray
    images: np.ndarray
    ages: np.ndarray | None
    lists: dict[str, str]

    def file(self, row: int, seed: int) -> str:
        """Returns a row's file: as LFW names it, or as AgeDB does."""
        who, image = sets.person_name(seed, self.people[row]), self.images[row]
        if self.ages is None:
            return f"{who}/{who}_{image + 1:04}.jpg"
        return f"{who}/{image}_{who}_{self.ages[row]}.jpg"


def add_arguments(parser: Any) -> None:
    action = parser.add_actions()
    what = "Render labelled faces as a folder, TFRecords, pairs or a video."
    add = action("render", what).add_argument
    add("--to", required=True, metavar="DIR")
    add("--identities", type=int, metavar="N", help="of all shards together")
    add("--images-per-identity", type=int, metavar="K", help="default: 20")
    add("--set", default="default", choices=_NAMES)
    add("--format", default="folder", choices=("folder", "records"))
    add("--name", default="", help="of the records; default: that of the set")
    add("--size", type=int, default=112, help="side of the faces in pixels")
    add("--frame", choices=("aligned", "loose"), help="default: aligned")
    add("--seed", type=int, default=0, help="of the identities and of their images")
    add("--shard", type=_shard, default=(0, 1), metavar="I/N", help="from 0/N on")
    add(
        "--quality",
        default="full",
        choices=("full", "fast"),
        help="fast: no shadows; default: full",
    )
    add("--max-yaw", type=float, metavar="DEGREES", help="default: 90")
    add("--child-share", type=float, help="of identities, in --set ages; default: 1")
    add("--shots", type=int, help="of --set video; default: 8")
    add("--shot-frames", type=int, help="frames of each, default: 40")
    add("--together", type=int, help="identities in a shot, default: 3")
    add("--frame-size", type=_frame_size, metavar="WxH", help="default: 640x360")


def run(arguments: argparse.Namespace) -> int:
    """Renders as asked, after checking that it can be; returns the exit code."""
    _check(arguments)
    if arguments.set == "video":
        return _video(arguments)
    write = _records if arguments.format == "records" else _folder
    _check_room(arguments)
    plan = _plan(arguments)
    with tqdm(total=len(plan.people), unit="image", smoothing=0.05) as bar:
        place = write(arguments, plan, bar)
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    people = len(np.unique(plan.people))
    speed = f", {rate:,.0f} a second" if rate else ""
    print(f"{len(plan.people):,} images of {people:,} people to {place}{speed}")
    for name in plan.lists:
        shown = Path(name).stem
        print(f"judge with: fr-jax evaluate --set {shown}={place}/{name},root={place}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for flag, low, high in (
        ("size", 16, 1024),
        ("seed", 0, (1 << 31) - 1),
        ("identities", 1, 1 << 30),
        ("images_per_identity", 1, 1 << 30),
        ("max_yaw", 0, 90),
        ("child_share", 0, 1),
    ):
        value = getattr(arguments, flag)
        if value is not None and not low <= value <= high:
            name = flag.replace("_", "-")
            raise UserError(f"--{name} {value:.10g}: use {low} to {high}")
    for flag, takers in _ONLY_WITH.items():
        if getattr(arguments, flag) is not None and arguments.set not in takers:
            raise UserError(
                f"--{flag.replace('_', '-')} goes with --set {' or '.join(takers)}, "
                f"not with {arguments.set}"
            )
    part, shards = arguments.shard
    if arguments.set in _WHOLE and (shards > 1 or arguments.format != "folder"):
        raise UserError(f"--set {arguments.set} is one folder: no shards, no records")
    if arguments.name and arguments.format != "records":
        raise UserError("--name goes with --format records; a folder is named by --to")
    if not 0 <= part < shards <= (arguments.identities or shards):
        raise UserError(
            f"--shard {part}/{shards} of {arguments.identities} people: shards count "
            "from 0, and each needs people"
        )
    if arguments.identities is None and arguments.set != "video":
        raise UserError("say how many people: --identities N")


def _check_room(arguments: argparse.Namespace) -> None:
    first, last = _numbers(arguments)
    images = (last - first) * _count(arguments)
    if arguments.format == "folder":
        face_files.check_free(Path(arguments.to))
        face_files.check_space(Path(arguments.to), images, arguments.size, row=3300)
        return
    target = epath.Path(arguments.to) / _records_name(arguments) / _VERSION
    if target.exists():
        raise UserError(f"{target} exists; choose another --to or --name, or remove it")
    if "://" not in arguments.to:
        # TFDS writes every record twice, first to buckets.
        place = Path(arguments.to)
        face_files.check_space(place, 2 * images, arguments.size, row=1100)


def _numbers(arguments: argparse.Namespace) -> tuple[int, int]:
    """Returns the first person of the shard, and the first one after it."""
    part, shards = arguments.shard
    first, last = (arguments.identities * n // shards for n in (part, part + 1))
    return first, last


def _count(arguments: argparse.Namespace) -> int:
    """Returns how many images each person has."""
    its_own = sets.SETS[arguments.set]().images if arguments.set in sets.SETS else 0
    return arguments.images_per_identity or its_own or _IMAGES


_FREE = ("default", "usynthface", "ages", "pairs")  # with as many images as one likes
_ONLY_WITH = {
    "images_per_identity": _FREE,
    "frame": (*sets.SETS, "pairs"),
    "max_yaw": _FREE,
    "child_share": ("ages",),
    **dict.fromkeys(("shots", "shot_frames", "together", "frame_size"), ("video",)),
}


def _plan(arguments: argparse.Namespace) -> Plan:
    options = {
        flag: getattr(arguments, flag)
        for flag in ("max_yaw", "child_share")
        if getattr(arguments, flag) is not None
    }
    name = "default" if arguments.set == "pairs" else arguments.set
    face_set = sets.SETS[name](**options)
    count = _count(arguments)
    seed, people = arguments.seed, arguments.identities
    if arguments.set == "pairs":
        numbered = pairs.number(seed, people, count)
        lists = {"pairs.txt": _lfw_list(numbered, seed)}
        return Plan(face_set, numbered.identities, numbered.images, None, lists)
    first, last = _numbers(arguments)
    label, images = sets.rows(face_set, last - first, count)
    plan = Plan(face_set, first + label, images, None, {})
    if name != "ages" or arguments.format == "records":
        return plan
    plan = plan._replace(ages=_ages(plan, seed))
    return plan._replace(lists=_age_lists(plan, seed))


def _lfw_list(numbered: pairs.Numbered, seed: int) -> str:
    """LFW's pairs.txt: what `fr-jax evaluate` takes for folds of people apart."""
    lines = [f"{pairs.FOLDS}\t{len(numbered.same) // (2 * pairs.FOLDS)}"]
    for pair, same in zip(numbered.pairs, numbered.same):
        first, second = (sets.person_name(seed, n) for n in numbered.identities[pair])
        a, b = numbered.images[pair] + 1
        fields = (first, a, b) if same else (first, a, second, b)
        lines.append("\t".join(map(str, fields)))
    return "\n".join(lines) + "\n"


def _ages(plan: Plan, seed: int) -> np.ndarray:
    """Returns each row's age in whole years, which needs no drawing."""
    found = []
    for start in range(0, len(plan.people), 10_000):
        some = slice(start, start + 10_000)
        known = sets.label(plan.face_set, seed, plan.people[some], plan.images[some])
        found.append(known.codes.age.astype(int))
    return np.concatenate(found)


def _age_lists(plan: Plan, seed: int) -> dict[str, str]:
    """Child-adult pairs by the rule of AgeDB-C20 and -C30."""
    from data_pipelines.protocols import pairs as published

    names = [plan.file(row, seed) for row in range(len(plan.people))]
    lists = {}
    for gap in _GAPS:
        found = published.child_adult_pairs(names, gap, seed=seed)
        lines = zip(found.same, found.first, found.second)
        text = "".join(f"{int(same)} {a} {b}\n" for same, a, b in lines)
        if text:
            lists[f"child{gap}.txt"] = text
    return lists


def _faces(
    arguments: argparse.Namespace, plan: Plan, bar: tqdm, done: int = 0
) -> Iterator[tuple[Any, Codes]]:
    """Yields record and codes of the rows from `done` on."""
    from data_pipelines.readers import Face

    bar.set_description("compiling")
    options = {"size": arguments.size, "quality": arguments.quality}
    options |= {"frame": arguments.frame or "aligned"}
    rows = plan.people[done:], plan.images[done:]
    drawn = sets.draw(plan.face_set, arguments.seed, *rows, **options)
    for number, some in enumerate(drawn):
        boxes = sets.face_boxes(some.landmarks68)
        if number == 0:  # the bar's clock leaves the compilation out
            bar.set_description(arguments.set)
            bar.n = bar.initial = done + len(some.image)
            bar.unpause()
        for row, image in enumerate(some.image):
            known = jax.tree.map(lambda field: field[row], some.labelled)  # noqa: B023
            angles = zip(("yaw", "pitch", "roll"), known.codes.pose.tolist())
            face = Face(
                face_files.jpeg(image),
                label=int(plan.people[done] - plan.people[0]),
                identity=sets.person_name(arguments.seed, plan.people[done]),
                source=plan.file(done, arguments.seed),
                age=float(known.codes.age),
                **dict(angles),
                expression=(*EXPRESSIONS, "")[known.expression],
                light=int(known.light),
                session=int(known.session),
                landmarks5=some.landmarks5[row],
                landmarks68=some.landmarks68[row],
                box=tuple(boxes[row].tolist()),
            )
            yield face, known.codes
            done += 1
        bar.update(done - bar.n)


def _records(arguments: argparse.Namespace, plan: Plan, bar: tqdm) -> str:
    """Writes TFRecords; started again, it begins anew."""
    from data_pipelines.builders import faces  # loads TensorFlow

    place, _ = faces.build(
        (face for face, _ in _faces(arguments, plan, bar)),
        arguments.to,
        _records_name(arguments),
        size=arguments.size,
        licence=_LICENCE,
        source=f"drawn: {arguments.set}, seed {arguments.seed}",
        max_bad=0,
    )
    return str(place)


def _records_name(arguments: argparse.Namespace) -> str:
    part, shards = arguments.shard
    suffix = f"_{part}_of_{shards}" if shards > 1 else ""
    return arguments.name or arguments.set + suffix


def _folder(arguments: argparse.Namespace, plan: Plan, bar: tqdm) -> str:
    """Writes <identity>/<image>.jpg and labels.csv; started again, it goes on."""
    target = Path(arguments.to)
    options = {name: getattr(arguments, name) for name in _DECIDE}
    with face_files.LabelledFolder(target, options, plan.lists) as folder:
        if folder.done:
            bar.write(f"goes on after {folder.done:,} images in {folder.part}")
        for face, codes in _faces(arguments, plan, bar, folder.done):
            folder.add(face, codes)
    return str(target)


_DECIDE = (
    *("set", "seed", "identities", "images_per_identity", "shard", "size", "frame"),
    *("quality", "max_yaw", "child_share"),
)


def _video(arguments: argparse.Namespace) -> int:
    """Writes group.mp4, group_tracks.csv and a folder of crops for every track."""
    given = {
        "shots": arguments.shots,
        "frames": arguments.shot_frames,
        "together": arguments.together,
        "size": arguments.frame_size,
    }
    options = {name: value for name, value in given.items() if value is not None}
    options |= {"people": arguments.identities or _GROUP, "quality": arguments.quality}
    film = video.Film(arguments.seed, **options)
    target = Path(arguments.to)
    face_files.check_free(target)
    width, height = film.size
    needed = len(film) * (width * height // 8 + 3 * arguments.size**2)
    face_files.check_bytes(target, needed)
    with tqdm(film, arguments.set, unit="frame", smoothing=0.05) as bar:
        tracks, rows = face_files.write_video(
            target, bar, film.size, video.RATE, arguments.size, arguments.seed
        )
    print(
        f"{len(film):,} frames, {tracks} tracks of {options['people']} people with "
        f"{rows:,} faces to {target}"
    )
    return 0


def _two_numbers(text: str, separator: str, form: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return int(first), int(second)


def _shard(text: str) -> tuple[int, int]:
    return _two_numbers(text, "/", "I/N, as in 0/8")


def _frame_size(text: str) -> tuple[int, int]:
    return _two_numbers(text, "x", "WxH, as in 640x360")
