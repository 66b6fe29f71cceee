"""`fr-jax faces`: render synthetic faces or video.

Example:
    fr-jax faces render --identities 100 --images-per-identity 20 --to faces
"""

import argparse
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from fr_jax import interrupt
from fr_jax.cli import shards
from fr_jax.cli.targets import check_writable
from fr_jax.errors import UserError, check_range
from fr_jax.faces import files as face_files
from fr_jax.faces import pairs, sets, video
from fr_jax.faces.renderer.codes import EXPRESSIONS, Codes
from fr_jax.progress import progress_bar

_NAMES = (*sets.SETS, "pairs", "video")
_ONE_FOLDER = ("pairs", "video")  # sets that cannot be rendered in shards
_ANY_NUMBER = ("default", "usynthface", "ages", "pairs")  # of images per identity
_ONLY_WITH = {  # option: the sets that have it
    "images_per_identity": _ANY_NUMBER,
    "frame": (*sets.SETS, "pairs"),
    "max_yaw": _ANY_NUMBER,
    "child_share": ("ages",),
    **dict.fromkeys(("shots", "shot_frames", "together", "frame_size"), ("video",)),
}
_SAME_FILES = (  # options that a resumed folder must have in common
    *("set", "seed", "identities", "images_per_identity", "shard", "size", "frame"),
    *("quality", "max_yaw", "child_share"),
)
_IMAGES = 20  # per identity, for sets of any number of images
_GROUP = 6  # identities in a video
_GAPS = (20, 30)  # years between the images of a child-adult pair
_LICENCE = "none needed: the faces are synthetic"
_SET = """\
"default": any pose, light, age and expression; usynthface, kdef, multipie: like the
data of that name; ages: children and adults; pairs: also writes pairs.txt in the format
of LFW; video: several identities, with their tracks"""


class Plan(NamedTuple):
    """The images to render: numbers of the identity and of the image, int [N] each.

    `ages` is [N] if file names contain them; `lists` are the texts of further files by
    name.
    """

    face_set: sets.FaceSet
    identities: np.ndarray
    images: np.ndarray
    ages: np.ndarray | None = None
    lists: Mapping[str, str] = {}

    def file(self, row: int, seed: int) -> str:
        """Returns the file of a row, named as in LFW or, with ages, as in AgeDB."""
        name, image = sets.identity_name(seed, self.identities[row]), self.images[row]
        if self.ages is None:
            return f"{name}/{name}_{image + 1:04}.jpg"
        return f"{name}/{image}_{name}_{self.ages[row]}.jpg"


def add_arguments(parser: Any) -> None:
    action = parser.add_choice()
    what = "Render labelled synthetic faces as a folder, TFRecords, pairs or a video."
    add = action("render", what).add_argument
    what = "new folder; records: new folder DIR/NAME"
    add("--to", required=True, metavar="DIR", help=what)
    what = "identities in all shards together; required, except in a video (then 6)"
    add("--identities", type=int, metavar="N", help=what)
    what = "images per identity; default: the fixed number of the set, or 20"
    add("--images-per-identity", type=int, metavar="K", help=what)
    add("--set", default="default", choices=_NAMES, help=_SET)
    what = "<identity>/*.jpg with labels.csv, or TFRecords"
    add("--format", default="folder", choices=("folder", "records"), help=what)
    add("--name", default="", help="name of the records; default: name of the set")
    add("--size", type=int, default=112, help="side of the faces in pixels")
    what = "crop: aligned by five points, or loose; default: aligned"
    add("--frame", choices=("aligned", "loose"), help=what)
    add("--seed", type=int, default=0, help="seed of the identities and images")
    shards.add_argument(add, "render")
    qualities = ("full", "fast")
    add("--quality", default="full", choices=qualities, help="fast: without shadows")
    what = "largest absolute yaw; default: 90"
    add("--max-yaw", type=float, metavar="DEGREES", help=what)
    what = "share of identities with child images in --set ages, 0 to 1; default: 1"
    add("--child-share", type=float, metavar="SHARE", help=what)
    add("--shots", type=int, metavar="N", help="shots of a video; default: 8")
    add("--shot-frames", type=int, metavar="N", help="frames of a shot; default: 40")
    what = "identities visible at once in a shot; default: 3"
    add("--together", type=int, metavar="N", help=what)
    what = "frame size of a video; default: 640x360"
    size = functools.partial(shards.two_numbers, "x", "WxH, as in 640x360")
    add("--frame-size", type=size, metavar="WxH", help=what)


def run(arguments: argparse.Namespace) -> None:
    """Renders faces if the arguments are valid."""
    _check(arguments)
    if arguments.set == "video":
        _video(arguments)
        return
    write = _records if arguments.format == "records" else _folder
    _check_target(arguments)
    plan = _plan(arguments)
    count = len(plan.identities)
    with progress_bar(total=count, label="compile", smoothing=0.05) as bar:
        target = write(arguments, plan, bar)
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    identities = len(np.unique(plan.identities))
    speed = f", {rate:,.0f} images/s" if rate else ""
    print(f"{count:,} images of {identities:,} identities to {target}{speed}")
    for name in plan.lists:
        pairs_set = f"{Path(name).stem}={target}/{name},root={target}"
        print(f"evaluate with: fr-jax evaluate --set {pairs_set}")


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
        if value is not None:
            check_range(f"--{flag.replace('_', '-')}", value, low, high)
    for flag, names in _ONLY_WITH.items():
        if getattr(arguments, flag) is not None and arguments.set not in names:
            raise UserError(
                f"--{flag.replace('_', '-')} needs --set {' or '.join(names)}, got "
                f"{arguments.set}"
            )
    divided = arguments.shard[1] > 1
    if arguments.set in _ONE_FOLDER and (divided or arguments.format != "folder"):
        raise UserError(f"--set {arguments.set} is one folder: no shards, no records")
    if arguments.name and arguments.format != "records":
        raise UserError("--name needs --format records; a folder is named by --to")
    shards.check(arguments)
    if arguments.identities is None and arguments.set != "video":
        raise UserError("give the number of identities: --identities N")


def _check_target(arguments: argparse.Namespace) -> None:
    copies, row = 2, 1100  # TFDS writes every record first to temporary buckets
    if arguments.format == "folder":
        face_files.check_free(Path(arguments.to))
        copies, row = 1, 3300
    image = int(face_files.BYTES_PER_PIXEL * arguments.size**2) + 600 + row
    needed = copies * len(shards.numbers(arguments)) * _count(arguments) * image
    check_writable("--to", arguments.to, needed=needed)


def _count(arguments: argparse.Namespace) -> int:
    """Returns the number of images per identity."""
    fixed = sets.SETS[arguments.set]().images if arguments.set in sets.SETS else 0
    return arguments.images_per_identity or fixed or _IMAGES


def _plan(arguments: argparse.Namespace) -> Plan:
    options = _stated(max_yaw=arguments.max_yaw, child_share=arguments.child_share)
    name = "default" if arguments.set == "pairs" else arguments.set
    face_set = sets.SETS[name](**options)
    count, seed = _count(arguments), arguments.seed
    if arguments.set == "pairs":
        numbered = pairs.number(seed, arguments.identities, count)
        lists = {"pairs.txt": _lfw_list(numbered, seed)}
        return Plan(face_set, numbered.identities, numbered.images, lists=lists)
    numbers = shards.numbers(arguments)
    label, images = sets.rows(face_set, len(numbers), count)
    plan = Plan(face_set, numbers.start + label, images)
    if name == "ages" and arguments.format == "folder":
        plan = plan._replace(ages=_ages(plan, seed))
        plan = plan._replace(lists=_age_lists(plan, seed))
    return plan


def _stated(**options: Any) -> dict[str, Any]:
    """Returns the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _lfw_list(numbered: pairs.Numbered, seed: int) -> str:
    """Returns LFW's pairs.txt, whose folds have disjoint identities."""
    lines = [f"{pairs.FOLDS}\t{len(numbered.same) // (2 * pairs.FOLDS)}"]
    for pair, same in zip(numbered.pairs, numbered.same):
        first, second = (sets.identity_name(seed, n) for n in numbered.identities[pair])
        a, b = numbered.images[pair] + 1
        fields = (first, a, b) if same else (first, a, second, b)
        lines.append("\t".join(map(str, fields)))
    return "\n".join(lines) + "\n"


def _ages(plan: Plan, seed: int) -> np.ndarray:
    """Returns each row's age in whole years, int [N], without rendering."""
    starts = range(10_000, len(plan.identities), 10_000)  # limits the memory of codes
    parts = (np.split(numbers, starts) for numbers in (plan.identities, plan.images))
    labelled = (sets.label(plan.face_set, seed, *part) for part in zip(*parts))
    return np.concatenate([part.codes.age.astype(int) for part in labelled])


def _age_lists(plan: Plan, seed: int) -> dict[str, str]:
    """Returns lists of child-adult pairs by the rule of AgeDB-C20 and -C30."""
    from data_pipelines.protocols import pairs as published

    names = [plan.file(row, seed) for row in range(len(plan.identities))]
    lists = {}
    for gap in _GAPS:
        chosen = published.child_adult_pairs(names, gap, seed=seed)
        lines = zip(chosen.same, chosen.first, chosen.second)
        text = "".join(f"{int(same)} {a} {b}\n" for same, a, b in lines)
        if text:
            lists[f"child{gap}.txt"] = text
    return lists


def _faces(
    arguments: argparse.Namespace, plan: Plan, bar: tqdm, done: int = 0
) -> Iterator[tuple[Any, Codes]]:
    """Yields the record and the codes of each row from `done` on."""
    from data_pipelines.readers import Face

    options = {"size": arguments.size, "quality": arguments.quality}
    options |= {"frame": arguments.frame or "aligned"}
    rows = plan.identities[done:], plan.images[done:]
    rendered = sets.render_set(plan.face_set, arguments.seed, *rows, **options)
    for number, batch in enumerate(rendered):
        boxes = sets.face_boxes(batch.landmarks68)
        if number == 0:  # the rate excludes the compilation
            bar.set_description(arguments.set, refresh=False)
            bar.n = bar.initial = done + len(batch.image)
            bar.unpause()
        for row, image in enumerate(batch.image):
            label = jax.tree.map(lambda field: field[row], batch.labelled)  # noqa: B023
            angles = zip(("yaw", "pitch", "roll"), label.codes.pose.tolist())
            face = Face(
                face_files.jpeg(image),
                label=int(plan.identities[done] - plan.identities[0]),
                identity=sets.identity_name(arguments.seed, plan.identities[done]),
                source=plan.file(done, arguments.seed),
                age=float(label.codes.age),
                **dict(angles),
                expression=(*EXPRESSIONS, "")[label.expression],
                light=int(label.light),
                session=int(label.session),
                landmarks5=batch.landmarks5[row],
                landmarks68=batch.landmarks68[row],
                box=tuple(boxes[row].tolist()),
            )
            yield face, label.codes
            done += 1
        bar.update(done - bar.n)


def _records(arguments: argparse.Namespace, plan: Plan, bar: tqdm) -> str:
    """Writes TFRecords; an interrupted run restarts from the first image."""
    from data_pipelines.builders import faces  # loads TensorFlow

    rows = (face for face, _ in _faces(arguments, plan, bar))
    first = next(rows)  # compiles, which a signal cannot interrupt, before files exist
    target, _ = faces.build(
        itertools.chain([first], rows),
        arguments.to,
        arguments.name or arguments.set + shards.suffix(arguments),
        size=arguments.size,
        licence=_LICENCE,
        source=f"rendered: {arguments.set}, seed {arguments.seed}",
        max_bad=0,
    )
    return str(target)


def _folder(arguments: argparse.Namespace, plan: Plan, bar: tqdm) -> str:
    """Writes <identity>/<image>.jpg and labels.csv; an interrupted run resumes."""
    target = Path(arguments.to)
    options = {name: getattr(arguments, name) for name in _SAME_FILES}
    with face_files.LabelledFolder(target, options, plan.lists) as folder:
        if folder.done:
            print(f"resumed after {folder.done:,} images in {folder.part}")
        text = (
            f"interrupted: complete images are in {folder.part}; the same call resumes"
        )
        with interrupt.explained(text):
            for face, codes in _faces(arguments, plan, bar, folder.done):
                folder.add(face, face_files.numbers(codes))
    return str(target)


def _video(arguments: argparse.Namespace) -> None:
    """Writes group.mp4, group_tracks.csv and a folder of crops per track."""
    identities = arguments.identities or _GROUP
    options = _stated(
        num_identities=identities,
        shots=arguments.shots,
        frames=arguments.shot_frames,
        together=arguments.together,
        size=arguments.frame_size,
        quality=arguments.quality,
    )
    film = video.Film(arguments.seed, **options)
    target = Path(arguments.to)
    face_files.check_free(target)
    width, height = film.size
    needed = len(film) * (width * height // 8 + 3 * arguments.size**2)
    check_writable("--to", target, needed=needed)
    with progress_bar(film, arguments.set, unit=" frames", smoothing=0.05) as bar:
        tracks, rows = face_files.write_video(
            target, bar, film.size, arguments.size, arguments.seed
        )
    print(
        f"{len(film):,} frames, {tracks} tracks of {identities} identities with "
        f"{rows:,} faces to {target}"
    )
