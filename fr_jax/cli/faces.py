"""`fr-jax faces`: render synthetic faces.

Example:
    fr-jax faces render --identities 100 --images-per-identity 20 --to faces
"""

import argparse
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from fr_jax.errors import UserError, check_range
from fr_jax.faces import files as face_files
from fr_jax.faces import pairs, sets, video
from fr_jax.faces.renderer.codes import EXPRESSIONS, Codes
from fr_jax.progress import progress_bar

_WHOLE = ("pairs", "video")  # cannot be rendered in shards or as records
_IMAGES = 20  # per identity, for sets without a fixed number
_GROUP = 6  # identities in a video
_GAPS = (20, 30)  # years between the images of a child-adult pair
_LICENCE = "none needed: the faces are synthetic"
_SET = """\
default: any pose, light, age and expression; usynthface, kdef, multipie, ages: like the
data set or method; pairs: with LFW's pairs.txt; video: a group with tracks"""


class Plan(NamedTuple):
    """The images to render.

    Attributes:
      identities, images: int [N], numbers of the identity and of the image.
      ages: int [N], if file names contain them.
      lists: texts of files next to the images, by file name.
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
    action = parser.add_actions()
    summary = "Render labelled synthetic faces as files, TFRecords, pairs or a video."
    add = action("render", summary).add_argument
    add("--to", required=True, metavar="DIR", help="new folder; records: its parent")
    text = "number of identities, of all shards together; default: 6 in a video"
    add("--identities", type=int, metavar="N", help=text)
    text = "images per identity; default: the number of the set, or 20"
    add("--images-per-identity", type=int, metavar="K", help=text)
    add("--set", default="default", choices=(*sets.SETS, *_WHOLE), help=_SET)
    text = "<identity>/*.jpg with labels.csv, or TFRecords"
    add("--format", default="folder", choices=("folder", "records"), help=text)
    add("--name", default="", help="name of the records; default: that of the set")
    add("--size", type=int, default=112, help="side of the faces in pixels")
    text = "crop: aligned by five points, or loose; default: aligned"
    add("--frame", choices=("aligned", "loose"), help=text)
    add("--seed", type=int, default=0, help="seed of the identities and their images")
    shard = functools.partial(_two_numbers, "/", "I/N, as in 0/8")
    add("--shard", type=shard, default="0/1", metavar="I/N", help="part I of N, from 0")
    qualities = ("full", "fast")
    add("--quality", default="full", choices=qualities, help="fast: without shadows")
    add("--max-yaw", type=float, metavar="DEGREES", help="largest |yaw|; default: 90")
    text = "share of identities with child images in --set ages, 0 to 1; default: 1"
    add("--child-share", type=float, metavar="SHARE", help=text)
    add("--shots", type=int, metavar="N", help="shots of a video; default: 8")
    add("--shot-frames", type=int, metavar="N", help="frames of a shot; default: 40")
    add("--together", type=int, metavar="N", help="identities in a shot; default: 3")
    size = functools.partial(_two_numbers, "x", "WxH, as in 640x360")
    text = "frame size of a video; default: 640x360"
    add("--frame-size", type=size, metavar="WxH", help=text)


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
    part, shards = arguments.shard
    if arguments.set in _ONE_FOLDER and (shards > 1 or arguments.format != "folder"):
        raise UserError(f"--set {arguments.set} is one folder: no shards, no records")
    if arguments.name and arguments.format != "records":
        raise UserError("--name needs --format records; a folder is named by --to")
    if not 0 <= part < shards <= (arguments.identities or shards):
        raise UserError(
            f"--shard {part}/{shards} of {arguments.identities} identities: shards "
            "count from 0, and each needs at least one identity"
        )
    if arguments.identities is None and arguments.set != "video":
        raise UserError("give the number of identities: --identities N")


def _check_target(arguments: argparse.Namespace) -> None:
    """Raises a UserError for a target that is not free, or has too little space."""
    first, end = _shard(arguments)
    images = (end - first) * _count(arguments)
    if arguments.format == "folder":
        face_files.check_free(Path(arguments.to))
        face_files.check_space(Path(arguments.to), images, arguments.size, row=3300)
    elif "://" not in arguments.to:
        # TFDS writes every record twice, first to temporary buckets.
        face_files.check_space(Path(arguments.to), 2 * images, arguments.size, row=1100)


def _shard(arguments: argparse.Namespace) -> tuple[int, int]:
    """Returns the identities [first, end) of the shard."""
    part, shards = arguments.shard
    first, end = (arguments.identities * n // shards for n in (part, part + 1))
    return first, end


def _count(arguments: argparse.Namespace) -> int:
    """Returns the number of images per identity."""
    fixed = sets.SETS[arguments.set]().images if arguments.set in sets.SETS else 0
    return arguments.images_per_identity or fixed or _IMAGES


_ANY_NUMBER = ("default", "usynthface", "ages", "pairs")  # of images per identity
_ONLY_WITH = {
    "images_per_identity": _ANY_NUMBER,
    "frame": (*sets.SETS, "pairs"),
    "max_yaw": _ANY_NUMBER,
    "child_share": ("ages",),
    **dict.fromkeys(("shots", "shot_frames", "together", "frame_size"), ("video",)),
}


def _plan(arguments: argparse.Namespace) -> Plan:
    """Returns the images of the arguments' set and shard."""
    options = _given(max_yaw=arguments.max_yaw, child_share=arguments.child_share)
    name = "default" if arguments.set == "pairs" else arguments.set
    face_set = sets.SETS[name](**options)
    count, seed = _count(arguments), arguments.seed
    if arguments.set == "pairs":
        numbered = pairs.number(seed, arguments.identities, count)
        lists = {"pairs.txt": _lfw_list(numbered, seed)}
        return Plan(face_set, numbered.identities, numbered.images, None, lists)
    first, end = _shard(arguments)
    label, images = sets.rows(face_set, end - first, count)
    plan = Plan(face_set, first + label, images, None, {})
    if name != "ages" or arguments.format == "records":
        return plan
    plan = plan._replace(ages=_ages(plan, seed))
    return plan._replace(lists=_age_lists(plan, seed))


def _given(**options: Any) -> dict[str, Any]:
    """Returns the options that are not None, so that the others have defaults."""
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
    ages = []
    for start in range(0, len(plan.identities), 10_000):
        rows = slice(start, start + 10_000)
        numbers = plan.identities[rows], plan.images[rows]
        ages.append(sets.label(plan.face_set, seed, *numbers).codes.age.astype(int))
    return np.concatenate(ages)


def _age_lists(plan: Plan, seed: int) -> dict[str, str]:
    """Returns lists of child-adult pairs by the rules of AgeDB-C20 and -C30."""
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
        if number == 0:  # the progress bar starts its clock after compilation
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

    part, shards = arguments.shard
    suffix = f"_{part}_of_{shards}" if shards > 1 else ""
    target, _ = faces.build(
        (face for face, _ in _faces(arguments, plan, bar)),
        arguments.to,
        arguments.name or arguments.set + suffix,
        size=arguments.size,
        licence=_LICENCE,
        source=f"rendered: {arguments.set}, seed {arguments.seed}",
        max_bad=0,
    )
    return str(target)


def _folder(arguments: argparse.Namespace, plan: Plan, bar: tqdm) -> str:
    """Writes <identity>/<image>.jpg and labels.csv; an interrupted run resumes."""
    target = Path(arguments.to)
    options = {name: getattr(arguments, name) for name in _CONTENTS}
    with face_files.LabelledFolder(target, options, plan.lists) as folder:
        if folder.done:
            print(f"resumed after {folder.done:,} images in {folder.part}")
        for face, codes in _faces(arguments, plan, bar, folder.done):
            folder.add(face, codes)
    return str(target)


# Arguments that determine the images of a folder.
_CONTENTS = (
    *("set", "seed", "identities", "images_per_identity", "shard", "size", "frame"),
    *("quality", "max_yaw", "child_share"),
)


def _video(arguments: argparse.Namespace) -> None:
    """Writes group.mp4, group_tracks.csv and a folder of crops per track."""
    options = _given(
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
    size = len(film) * (width * height // 8 + 3 * arguments.size**2)
    face_files.check_bytes(target, size)
    with progress_bar(film, arguments.set, unit=" frames", smoothing=0.05) as bar:
        tracks, rows = face_files.write_video(
            target, bar, film.size, arguments.size, arguments.seed
        )
    print(
        f"{len(film):,} frames, {tracks} tracks of {identities} identities with "
        f"{rows:,} faces to {target}"
    )


def _two_numbers(separator: str, form: str, text: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    return int(first), int(second)
