"""Evaluation and comparison of generators: `fr-jax evaluate --generator`."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from fr_jax.embedder import load_embedder
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.results import finite, print_notes, write
from fr_jax.report import rotation
from fr_jax.report.measures import with_end
from fr_jax.systems.dr_gan import evaluation, figures, posed_sets
from fr_jax.systems.dr_gan.posed_sets import PosedSet
from fr_jax.systems.dr_gan.rotator import Rotator

_RENDERED, _NUM_RENDERED = "rendered", 40


def evaluate_generators(arguments: Any) -> None:
    """Evaluates the command's generators, and compares several.

    Raises:
      UserError: for generators without angles or with different targets, and for
        unsuitable identities.
    """
    paths = [Path(path).resolve() for path in arguments.generator]
    labels = [path.parent.name for path in paths]
    if len(set(labels)) < len(labels):
        names = ", ".join(labels)
        raise UserError(f"--generator: two runs have the same name: {names}")
    rotators = [Rotator(load_embedder(path)) for path in paths]
    for path, rotator in zip(paths, rotators):
        if not rotator.has_angles:
            raise UserError(
                f"{path}: its provenance has no angles of the poses; only generators "
                "from `fr-jax train` can be evaluated"
            )
    if len(arguments.set) > 1:
        raise UserError("--set: a generator takes one set at a time")
    text = (arguments.set or [f"unseen={_RENDERED}"])[0]
    _, path, options = sets.split(text, ("identities", "expression"))
    records = "" if path == _RENDERED else path
    _check_comparable(rotators, records)
    recogniser, features = None, evaluation.GRADIENTS
    if arguments.recogniser:
        recogniser = _raw(arguments.recogniser)
        features = Path(arguments.recogniser).resolve().name, recogniser
    if arguments.features:
        features = Path(arguments.features).resolve().name, _raw(arguments.features)
    target, evaluators = epath.Path(arguments.to), {}
    faces = _faces(rotators, records, options, arguments.pose_identities)
    for label, path, rotator, posed in zip(labels, paths, rotators, faces):
        networks, seen = {"generator": rotator.generator}, None
        path = path.parent / "embedder_discriminator"
        if path.exists():
            networks["discriminator"] = discriminator = load_embedder(path)
            heads = dict(discriminator.network.options["heads"])
            count = _NUM_RENDERED if records else _count(options)
            seen = posed_sets.trained_on(rotator, heads["identity"], records, count)
        evaluators[label] = evaluator = evaluation.GeneratorEvaluator(
            *posed, recogniser=recogniser, features=features, seen=seen
        )
        results, notes = finite(evaluator(Trained(_no_embedding, networks)))
        bounds, of_bounds = evaluator.intervals(
            arguments.resamples, progress=f"{label}: intervals"
        )
        results, notes = results | bounds, notes | of_bounds
        folder = target if len(labels) == 1 else target / label
        write(folder / "results.json", results, notes)
        for name, value in results.items():
            if "@yaw" not in name and name not in bounds:
                print(f"{name:<40} {value:.4f}{_bounds(name, bounds)}")
        print_notes(notes)
        print(f"results: {folder / 'results.json'}")
        for path in evaluator.draw(folder / "figures"):
            print(f"figure: {path}")
    if len(labels) > 1:
        _compare(rotators[0], evaluators, target)


def _bounds(name: str, bounds: Mapping[str, float]) -> str:
    low, high = (bounds.get(with_end(name, end)) for end in ("_low", "_high"))
    return "" if low is None or high is None else f"  [{low:.4f}, {high:.4f}]"


def _no_embedding(*_, **__):
    raise UserError("a generator has no verification sets")


def _raw(path: str):
    return functools.partial(load_embedder(path).embed, normalize=False)


def _count(options: Mapping[str, str]) -> int:
    text = options.get("identities", str(_NUM_RENDERED))
    if not text.isdecimal():
        raise UserError(f"--set: rendered identities={text}: give a number")
    return int(text)


def _check_comparable(rotators: Sequence[Rotator], records: str) -> None:
    """Raises a UserError for generators with different targets."""
    names = ["angles", "unsigned"] if records else ["angles", "unsigned", "lights"]
    for name in names:
        first, *others = (one.generator.provenance.get(name) for one in rotators)
        for other in others:
            if other != first:
                raise UserError(
                    f"generators have different {name}, {first} and {other}, and "
                    "cannot be compared; evaluate them one by one"
                )


def _faces(
    rotators: Sequence[Rotator],
    records: str,
    options: Mapping[str, str],
    pose_identities: str,
) -> list[tuple[PosedSet, PosedSet | None]]:
    """Returns (faces, other faces for the pose classifier) of each generator."""
    if records:
        faces, for_poses = posed_sets.of_records(
            rotators[0], records, pose_identities=pose_identities, **options
        )
        for rotator in rotators:
            posed_sets.check_not_trained(faces, rotator)
        return [(faces, for_poses)] * len(rotators)
    if pose_identities or "expression" in options:
        raise UserError("--pose-identities and expression= need a set of records")
    count = _count(options)
    by_size = {rotator.spec.size: rotator for rotator in rotators}
    rendered = {n: posed_sets.rendered(one, count) for n, one in by_size.items()}
    return [rendered[rotator.spec.size] for rotator in rotators]


def _compare(
    rotator: Rotator, evaluators: Mapping[str, Any], folder: epath.Path
) -> None:
    """Draws the same faces rotated by each generator, and tabulates fused images."""
    first = next(iter(evaluators.values()))
    rotated = {label: one.rotated[1] for label, one in evaluators.items()}
    path = folder / "compared.png"
    figures.compare(rotator, first.faces, first.rotated[0], rotated, path)
    print(f"figure: {path}")
    tables = {
        f"{label}: {way}": shares
        for label, one in evaluators.items()
        for way, shares in one.tables.items()
    }
    if not tables:
        return
    rows = number_of_images(tables)
    for name, row in rows.items():
        print(f"{name:<32} {_line(row['rank1'], row['rank1_std'])}")
        for other, gain in row["gain"].items():
            print(f"  less {other:<25} {_line(gain['mean'], gain['std'])}")
    path = folder / "number_of_images.json"
    write(path, rows)
    print(f"results: {path}")
    rotation.number_of_images(tables, path.with_suffix(".png"), way="")
    print(f"figure: {path.with_suffix('.png')}")


def number_of_images(tables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns rank-1 by number of images for each row, and its gain over earlier rows.

    With deviations over draws; a gain's is that of paired differences:
    {name: {rank1: [n], rank1_std: [n], gain: {name of an earlier row: {mean, std}}}}.

    Args:
      tables: name -> rank-1 [n, draws] of the same images.
    """

    def over_draws(values):
        return {
            "mean": values.mean(axis=1).tolist(),
            "std": values.std(axis=1).tolist(),
        }

    rows: dict[str, Any] = {}
    for name, shares in tables.items():
        gains = {other: over_draws(shares - tables[other]) for other in rows}
        mean, std = over_draws(shares).values()
        rows[name] = {"rank1": mean, "rank1_std": std, "gain": gains}
    return rows


def _line(means: list[float], deviations: list[float]) -> str:
    return "  ".join(
        f"{100 * mean:6.2f}+-{100 * deviation:.2f}"
        for mean, deviation in zip(means, deviations)
    )
