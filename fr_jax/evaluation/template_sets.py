"""Sets of templates by their flags: IJB-B, IJB-C, and tables of templates."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_names
from fr_jax.evaluation.embeddings import StoredEmbeddings
from fr_jax.evaluation.identification import SEARCHES, Gallery, Identification
from fr_jax.evaluation.template_faces import (
    VARIANTS,
    ListedTemplates,
    Switches,
    TemplateSet,
)
from fr_jax.evaluation.templates import TemplateVerification

IMAGE_OPTIONS = ("root", "crop", "missing")
SWITCHES = ("variant", "flip", "norm", "detector", "media")
_CROPS = ("loose", "aligned")
_MEDIA = ("mean", "unit")
_YES = {"yes": True, "no": False}


class SetText(NamedTuple):
    """A set as a flag names it, NAME=PATH[,OPTION=VALUE]...

    Attributes:
      check: of aligned images; see `data_pipelines.aligned.check`. None: any size.
      stored: embeddings in place of images.
    """

    name: str
    path: str
    options: Mapping[str, str]
    check: Callable[..., None] | None = None
    stored: StoredEmbeddings | None = None


def verification(given: SetText) -> TemplateVerification:
    """Returns the evaluator of NAME=RELEASE,protocol=ijb[,OPTION=VALUE]...

    Options: root=DIR (default: loose_crop), crop=loose|aligned, missing=error|drop;
    variant=insightface|magface and its switches flip, norm, detector (yes or no), media
    (mean or unit).

    The path is the folder of the release, or its `meta`. With stored embeddings `flip`
    is that of the file.

    Raises:
      UserError: for an option or value; DataError for a damaged or incomplete release.
    """
    name, path, options, *_ = given
    from data_pipelines.protocols import ijb, ijb_protocols

    check_names(
        f"option of {name}, protocol=ijb:",
        options,
        (*IMAGE_OPTIONS, *SWITCHES),
    )
    faces, kept, full, dropped = _ijb_faces(given)
    first, second, same = ijb_protocols.pairs(path, full)
    if dropped:
        numbers = np.full(len(full), -1, np.int32)
        numbers[kept] = np.arange(len(kept))
        first, second = numbers[first], numbers[second]
        complete = (first >= 0) & (second >= 0)
        dropped["pairs"] = int(np.sum(~complete))
        first, second, same = (one[complete] for one in (first, second, same))
    return TemplateVerification(
        faces,
        first,
        second,
        same,
        dropped=dropped,
        data_sets=(name, ijb.meta(path)[1]),
        ids=full[kept],
    )


def identification(given: SetText) -> Identification:
    """Returns the evaluator of NAME=PATH,protocol=identification for templates.

    The path is a release of IJB-B or IJB-C with its two galleries, and options are as
    in `verification`, and search=exact|faiss.
    """
    name, path, options, *_ = given
    from data_pipelines.protocols import ijb, ijb_protocols

    allowed = (*IMAGE_OPTIONS, *SWITCHES, "search")
    check_names(f"option of {name}, protocol=identification:", options, allowed)
    faces, kept, full, dropped = _ijb_faces(given)
    numbers = np.full(len(full), -1)
    numbers[kept] = np.arange(len(kept))
    galleries, identity = {}, np.full(len(kept), -1)
    for key, (gallery, probes, owners) in ijb_protocols.searches(path, full).items():
        rows = (numbers[part] for part in (gallery, probes))
        galleries[key] = Gallery(*(part[part >= 0] for part in rows))
        identity = owners[kept]
    return Identification(
        faces,
        identity,
        galleries,
        search=search_of(name, options),
        options=faces.switches._asdict(),
        data_sets=(name, ijb.meta(path)[1]),
        dropped=dropped,
    )


def table(given: SetText) -> Identification:
    """Returns the evaluator of a table of templates, `data_pipelines...templates`.

    Every split is a gallery. Options: root=DIR (default: that of the table), flip
    and search, as in `identification`.
    """
    name, path, options, check, stored = given
    from data_pipelines.images import EncodedImages
    from data_pipelines.protocols import templates

    allowed = ("root", "flip", "search")
    check_names(f"option of {name}, protocol=identification:", options, allowed)
    splits, files = templates.load(path)
    flip = True if stored is None or stored.flip is None else stored.flip
    if "flip" in options:
        flip = yes(name, "flip", options["flip"])
    if stored is None:
        root = Path(options.get("root") or Path(path).parent)
        paths = [root / file for file in files]
        if check:
            check(paths, lambda number: str(paths[number]))
        images = EncodedImages(paths, lambda number: str(paths[number]))
    else:
        images = stored.select(files)
    galleries, owners, count = {}, [], 0
    for key, split in splits.items():
        numbers = np.arange(len(split.identities))
        probe = np.isin(numbers, split.template[split.probe])
        galleries[key] = Gallery(numbers[~probe] + count, numbers[probe] + count)
        owners += split.identities
        count += len(numbers)
    starts = np.cumsum([0, *(len(one.identities) for one in splits.values())])
    template = [one.template + start for one, start in zip(splits.values(), starts)]
    members = np.concatenate([one.image for one in splits.values()])
    template = np.concatenate(template)
    faces = ListedTemplates(name, images, members, template, flip, files)
    return Identification(
        faces,
        np.unique(owners, return_inverse=True)[1],
        galleries,
        search=search_of(name, options),
        options={"flip": flip},
        data_sets=(name, Path(path).stem),
    )


def is_table(path: str) -> bool:
    """Returns whether a file is a table of templates."""
    from data_pipelines import text_files

    if not Path(path).is_file():
        return False
    with text_files.opened(path) as file:
        names = [name.strip() for name in file.readline(1000).split(",")]
    return {"split", "part", "template"} <= set(names)


def is_release(path: str) -> bool:
    """Returns whether a folder is a release of IJB-B or IJB-C."""
    folders = Path(path), Path(path, "meta")
    return any(any(one.glob("ijb?_face_tid_mid.txt")) for one in folders)


def _ijb_faces(
    given: SetText,
) -> tuple[TemplateSet, np.ndarray, np.ndarray, dict[str, int]]:
    """Returns the faces, the templates that have any, and the numbers of all.

    And the numbers of images and templates left out; {} without missing=drop.
    """
    name, path, options, check, stored = given
    from data_pipelines.protocols import ijb

    switches = _switches(name, options, stored)
    crop = one_of(name, "crop", options.get("crop", "loose"), _CROPS)
    aligned = crop == "aligned"
    points = switches.detector or not (aligned or stored)
    loaded = ijb.load(path, points=points)
    full = loaded.ids
    if stored is None:
        root = options.get("root") or ijb.meta(path)[0].parent / "loose_crop"
        missing = options.get("missing", "error")
        images, kept = ijb.faces(
            loaded, Path(root), aligned=aligned, missing=missing, check=check
        )
    else:
        for option in ("root", "crop"):
            if option in options:
                raise UserError(f"{name}: {option}= is of no use with --embeddings")
        kept = np.arange(len(loaded.names))
        if options.get("missing") == "drop":
            kept = stored.present(loaded.names)
        images = stored.select([loaded.names[number] for number in kept])
    dropped = {}
    if options.get("missing") == "drop":
        dropped["images"] = len(loaded.names) - len(kept)
    loaded, templates = ijb.without(loaded, kept)
    if dropped:
        dropped["templates"] = len(full) - len(templates)
    faces = TemplateSet(
        name,
        images,
        loaded.media,
        loaded.template,
        switches,
        loaded.detector,
        loaded.names,
    )
    return faces, templates, full, dropped


def _switches(
    name: str, options: Mapping[str, str], stored: StoredEmbeddings | None
) -> Switches:
    variant = options.get("variant")
    check_names(f"variant of {name}:", [variant] if variant else [], VARIANTS)
    switches = VARIANTS[variant or "insightface"]
    if stored is not None and stored.flip is not None and not variant:
        switches = switches._replace(flip=stored.flip)
    for option in ("flip", "norm", "detector"):
        if option in options:
            chosen = yes(name, option, options[option])
            switches = switches._replace(**{option: chosen})
    if "media" in options:
        media = one_of(name, "media", options["media"], _MEDIA)
        switches = switches._replace(media=media)
    return switches


def yes(name: str, option: str, value: str) -> bool:
    """Returns the value of a switch; UserError for anything but yes and no."""
    return _YES[one_of(name, option, value, tuple(_YES))]


def whole(name: str, option: str, value: str, low: int, high: int) -> int:
    """Returns a whole number in [low, high], else raises a UserError."""
    if not (value.isascii() and value.isdigit() and low <= int(value[:9]) <= high):
        raise UserError(
            f"{name}: {option}={value}: use a whole number {low} to {high:,}"
        )
    return int(value)


def search_of(name: str, options: Mapping[str, str]) -> str:
    """Returns the kind of search, a UserError for an unknown one."""
    return one_of(name, "search", options.get("search", "exact"), SEARCHES)


def one_of(name: str, option: str, value: str, valid: tuple[str, ...]) -> str:
    """Returns the value of an option; UserError if it is not valid."""
    if value not in valid:
        raise UserError(f"{name}: {option}={value}: use {' or '.join(valid)}")
    return value
