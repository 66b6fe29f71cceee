"""Generators evaluated side by side, as `fr-jax evaluate --generator` does it."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.results import write
from fr_jax.report import rotation
from fr_jax.systems.dr_gan import figures, posed_sets
from fr_jax.systems.dr_gan.evaluation import (
    GRADIENTS,
    GeneratorEvaluator,
    number_of_images,
)
from fr_jax.systems.dr_gan.posed_sets import PosedSet
from fr_jax.systems.dr_gan.rotator import Rotator

_RENDERED, _NUM_RENDERED = "rendered", 40


def evaluate_generators(arguments: Any) -> int:
    """Evaluates and compares generators as the command's arguments say.

    Raises:
      UserError: for generators without angles or not comparable, and for identities
        that cannot be evaluated on.
    """
    paths = [Path(path).resolve() for path in arguments.generator]
    labels = [path.parent.name for path in paths]
    if len(set(labels)) < len(labels):
        names = ", ".join(labels)
        raise UserError(f"--generator: two of one run's name among {names}")
    generators = [load_embedder(path) for path in paths]
    rotators = [Rotator(generator) for generator in generators]
    for path, rotator in zip(paths, rotators):
        if not rotator.has_angles:
            raise UserError(
                f"{path}: its provenance has no angles of the poses; only generators "
                "that were trained here are evaluated"
            )
    if len(arguments.set) > 1:
        raise UserError("--set: a generator takes one set at a time")
    text = (arguments.set or [f"unseen={_RENDERED}"])[0]
    _, path, options = sets.split(text, ("identities", "expression"))
    records = "" if path == _RENDERED else path
    _check_comparable(generators, records)
    recogniser, features = None, GRADIENTS
    if arguments.recogniser:
        recogniser = _raw(load_embedder(arguments.recogniser))
    if arguments.features:
        name = Path(arguments.features).resolve().name
        features = name, _raw(load_embedder(arguments.features))
    target, evaluators = epath.Path(arguments.to), {}
    faces = _faces(generators, rotators, records, options, arguments.pose_identities)
    for label, place, generator, rotator, sets_ in zip(
        labels, paths, generators, rotators, faces
    ):
        networks = {"generator": generator}
        seen, beside = None, place.parent / "embedder_discriminator"
        if beside.exists():
            networks["discriminator"] = discriminator = load_embedder(beside)
            seen = _seen(rotator, generator, discriminator, records, options)
        evaluator = GeneratorEvaluator(
            *sets_, recogniser=recogniser, features=features, seen=seen
        )
        results = evaluator(Trained(_no_embedding, networks))
        folder = target if len(labels) == 1 else target / label
        write(folder / "results.json", results)
        for name, value in results.items():
            if "@yaw" not in name:
                print(f"{name:<40} {value:.4f}")
        print(f"results: {folder / 'results.json'}")
        for path in evaluator.draw(folder / "figures"):
            print(f"figure: {path}")
        evaluators[label] = rotator, sets_[0], evaluator
    if len(labels) > 1:
        _compare(evaluators, target)
    return 0


def _no_embedding(*_, **__):
    raise UserError("a generator has no verification sets")


def _raw(embedder: Embedder):
    return functools.partial(embedder.embed, normalize=False)


def _count(options: Mapping[str, str]) -> int:
    text = options.get("identities", str(_NUM_RENDERED))
    if not text.isdecimal():
        raise UserError(f"--set: identities={text} of rendered ones: give a number")
    return int(text)


def _check_comparable(generators: list[Embedder], records: str) -> None:
    """Those that are compared must have the same targets."""
    names = ["angles", "unsigned"] if records else ["angles", "unsigned", "lights"]
    for name in names:
        found = [generator.provenance.get(name) for generator in generators]
        for other in found:
            if other != found[0]:
                raise UserError(
                    f"generators of different {name}, {found[0]} and {other}, are not "
                    "compared; evaluate them one by one"
                )


def _faces(generators, rotators, records, options, pose_identities):
    """Yields for each generator what it is evaluated on, and faces for its poses."""
    if records:
        faces, for_poses = posed_sets.of_records(
            rotators[0], records, pose_identities=pose_identities, **options
        )
        for generator in generators:
            trained = generator.provenance.get("identities", {})
            posed_sets.check_not_trained(faces, trained)
        yield from [(faces, for_poses)] * len(generators)
        return
    if pose_identities or "expression" in options:
        raise UserError("--pose-identities and expression= go with a set of records")
    made: dict[int, tuple[PosedSet, PosedSet]] = {}
    for generator, rotator in zip(generators, rotators):
        size = rotator.spec.size
        if size not in made:
            about = generator.provenance
            made[size] = posed_sets.rendered(rotator, about, _count(options))
        yield made[size]


def _seen(rotator, generator, discriminator, records, options) -> PosedSet | None:
    heads = dict(discriminator.network.options["heads"])
    most = _NUM_RENDERED if records else _count(options)
    return posed_sets.trained_on(
        rotator, generator.provenance, heads["identity"], records, most
    )


def _compare(evaluated: Mapping[str, Any], folder: epath.Path) -> None:
    """The same faces as each generator rotates them, and one table of fused images."""
    rotator, faces, first = next(iter(evaluated.values()))
    made = {label: one.rotated[1] for label, (_, _, one) in evaluated.items()}
    path = folder / "compared.png"
    figures.compare(rotator, faces, first.rotated[0], made, path)
    print(f"figure: {path}")
    tables = {
        f"{label}: {way}": shares
        for label, (_, _, one) in evaluated.items()
        for way, shares in one.tables.items()
    }
    if not tables:
        return
    found = number_of_images(tables)
    for name, row in found.items():
        print(f"{name:<32} {_line(row['rank1'], row['rank1_std'])}")
        for other, gain in row["gain"].items():
            print(f"  less {other:<25} {_line(gain['mean'], gain['std'])}")
    path = folder / "number_of_images.json"
    path.write_text(json.dumps(found, indent=1))
    print(f"results: {path}")
    rotation.number_of_images(tables, path.with_suffix(".png"), way="")
    print(f"figure: {path.with_suffix('.png')}")


def _line(means: list[float], deviations: list[float]) -> str:
    return "  ".join(
        f"{100 * mean:6.2f}+-{100 * deviation:.2f}"
        for mean, deviation in zip(means, deviations)
    )
