"""Faces to train on, to validate on and to evaluate, by source and split."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fr_jax.errors import UserError, check_range, named
from fr_jax.faces import sets
from fr_jax.systems.fra import photographs, splits
from fr_jax.systems.fra.faces import (
    EXACT,
    Faces,
    of_records,
    rendered,
    without_negatives,
)
from fr_jax.systems.fra.stored import say
from fr_jax.training.data import Context

_SHOWN = 3  # names of dropped persons


class Parts(NamedTuple):
    """Faces of each split.

    Attributes:
      held_out: names of the persons to evaluate, which are in no other part.
      unseen: returns their faces; None if there are none.
      dropped: what was left out, by reason: a number, or names.
    """

    train: Faces
    validation: Faces | None
    held_out: list[str]
    unseen: Callable[[], Faces] | None
    dropped: Mapping[str, Any]


def split(config: Any, context: Context) -> Parts:
    """Returns the parts of `config.data`; persons without negatives are dropped.

    Raises:
      UserError: for unsuitable options, and if fewer than two persons are left in a
        part; DataError for invalid records.
    """
    by_source = {
        "records": _records,
        "photographs": _photographs,
        "rendered": _rendered,
    }
    parts: Parts = named("data source", config.source, by_source)(config, context)
    return _usable(parts, config, context)


def _photographs(config: Any, context: Context) -> Parts:
    path, left_out = photographs.to_records(config.photographs, context)
    return _records(config, context, path, left_out)


def _records(
    config: Any,
    context: Context,
    path: str = "",
    left_out: Mapping[str, int] | None = None,
) -> Parts:
    """Records with yaws, expressions and landmarks, split by person or by image."""
    records = config.records
    faces, dropped = of_records(
        path or records.path,
        context,
        identities=records.identities,
        pose_step=records.pose_step,
        faithful_ids=records.faithful_ids,
    )
    dropped = {**(left_out or {}), **dropped}
    options, unseen = config.split, None
    if options.kind == "person":
        rows = splits.by_person(
            faces.label,
            context.seed,
            validation=options.validation_identities,
            held_out=options.held_out,
        )
        unseen = faces.subset(rows.held_out) if len(rows.held_out) else None
    else:
        share = options.validation_share if options.kind == "image" else 0.0
        rows = splits.by_image(faces.label, context.seed, share)
    validation = faces.subset(rows.validation) if len(rows.validation) else None
    return Parts(
        faces.subset(rows.train),
        validation,
        unseen.identities if unseen else [],
        (lambda: unseen) if unseen else None,
        dropped,
    )


def _rendered(config: Any, context: Context) -> Parts:
    """Rendered identities; those of validation and evaluation are unseen ones."""
    options, split = config.rendered, config.split
    if "landmarks" in context.pretrained:
        raise UserError(f"--given landmarks=: {EXACT}")
    check_range("config.data.rendered.num_identities", options.num_identities, 2)
    train = rendered(context, options.num_identities, size=options.size)
    validation, names = None, []
    first = sets.FIRST_UNSEEN
    if split.kind == "person":
        check_range("split.validation_identities", split.validation_identities, 0)
        check_range("config.data.split.held_out", split.held_out, 0)
        if count := split.validation_identities:
            validation = rendered(context, count, first=first, size=options.size)
        first += count
        numbers = range(first, first + split.held_out)
        names = [sets.identity_name(context.seed, number) for number in numbers]
    elif split.kind == "image":
        parts = splits.by_image(train.label, context.seed, split.validation_share)
        if len(parts.validation):
            validation = train.subset(parts.validation)
        train = train.subset(parts.train)

    def unseen() -> Faces:
        return rendered(context, len(names), first=first, size=options.size)

    return Parts(train, validation, names, unseen if names else None, {})


def _usable(parts: Parts, config: Any, context: Context) -> Parts:
    """Returns the parts without persons that have no negatives; prints what is dropped.

    Raises:
      UserError: if fewer than two persons are left in a part.
    """
    dropped = dict(parts.dropped)
    kept: dict[str, Faces | None] = {}
    for name in ("train", "validation"):
        faces = kept[name] = getattr(parts, name)
        if faces is None:
            continue
        faces, names = without_negatives(faces)
        for reason, persons in names.items():
            dropped[f"{reason} ({name})"] = persons
        if len(faces.identities) < 2:
            reasons = "; ".join(lines(dropped)) or "there are no others"
            raise UserError(
                f"{len(faces.identities)} persons left for {name}, at least 2 with two "
                f"poses and two expressions are needed. Dropped: {reasons}"
            )
        kept[name] = faces
    for line in lines(dropped):
        say(context, f"dropped: {line}")
    train = kept["train"]
    assert train is not None
    validation = kept["validation"]
    if config.split.kind == "tuple":
        validation = train
    return parts._replace(train=train, validation=validation, dropped=dropped)


def lines(dropped: Mapping[str, Any]) -> list[str]:
    """Returns 'N reason' of each number, with the first ones of lists of names."""
    texts = []
    for reason, what in dropped.items():
        if isinstance(what, int):
            texts.append(f"{what:,} {reason}")
            continue
        more = ", ..." if len(what) > _SHOWN else ""
        texts.append(f"{len(what):,} {reason}: {', '.join(what[:_SHOWN])}{more}")
    return texts
