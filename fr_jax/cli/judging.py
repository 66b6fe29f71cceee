"""`fr-jax judge`: generators, drawn or photographed people -> results and figures."""

import argparse
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from fr_jax.cli import judged_faces
from fr_jax.cli.evaluate import label_of
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.metrics.probes import PictureClassifier, gradient_histograms
from fr_jax.report import rotation
from fr_jax.systems.dr_gan import evaluation as evaluate_rotation
from fr_jax.systems.dr_gan import figures as rotation_figures
from fr_jax.systems.dr_gan.evaluation import PosedSet
from fr_jax.systems.dr_gan.rotator import Rotator


class _Judges(NamedTuple):
    """Those beside the classifier of poses."""

    recogniser: Embedder | None
    features: tuple[str, Any]


class _Judged(NamedTuple):
    """What is compared with other generators."""

    rotator: Rotator
    faces: PosedSet
    rows: np.ndarray  # [n] those that were turned
    made: np.ndarray  # [n, A, S, S, 3]
    tables: dict[str, np.ndarray]  # rank-1 [numbers, draws]


def run(arguments: argparse.Namespace) -> int:
    """Judges as asked; returns the exit code."""
    generators = [load_embedder(path) for path in arguments.generator]
    labels = [Path(path).resolve().parent.name for path in arguments.generator]
    if len(set(labels)) < len(labels):
        raise UserError(f"--generator: two of one run's name among {', '.join(labels)}")
    rotators = {label: Rotator(one) for label, one in zip(labels, generators)}
    for path, rotator in zip(arguments.generator, rotators.values()):
        if not rotator.has_angles:
            raise UserError(
                f"{path}: nobody noted the angles of its poses; only generators that "
                "were trained here are judged"
            )
    _check_alike(generators, arguments.records)
    embedder, features = arguments.embedder, ("gradients", gradient_histograms)
    if arguments.features:
        embed = load_embedder(arguments.features).embed
        describe = functools.partial(embed, normalize=False)
        features = label_of(arguments.features), describe
    judges = _Judges(load_embedder(embedder) if embedder else None, features)
    target, judged = epath.Path(arguments.to), {}
    faces = _each_faces(arguments, generators, list(rotators.values()))
    for path, generator, (label, rotator), (strangers, taught) in zip(
        arguments.generator, generators, rotators.items(), faces
    ):
        folder = target if len(labels) == 1 else target / label
        found = _judge(rotator, strangers, taught, judges, folder)
        results, judged[label] = found
        results |= _judge_known(arguments, path, generator, rotator, folder)
        (folder / "results.json").write_text(json.dumps(results, indent=1))
        for name, value in results.items():
            if "@yaw" not in name:
                print(f"{name:<40} {value:.4f}")
        print(f"results: {folder / 'results.json'}")
    if len(labels) > 1:
        _compare(judged, target)
    return 0


def _check_alike(generators: list[Embedder], records: str | None) -> None:
    """Those that are compared must have been asked for the same things."""
    names = ["angles", "unsigned"] if records else ["angles", "unsigned", "lights"]
    for name in names:
        found = [generator.provenance.get(name) for generator in generators]
        for other in found:
            if other != found[0]:
                raise UserError(
                    f"generators of different {name}, {found[0]} and {other}, are not "
                    "compared; judge them one by one"
                )


def _each_faces(
    arguments: argparse.Namespace, generators: list[Embedder], rotators: list[Rotator]
):
    """Yields for each generator whom it is judged on and who teaches the classifier."""
    if arguments.records:
        judged, taught = judged_faces.recorded(
            rotators[0],
            arguments.records,
            arguments.identities,
            arguments.teach,
            arguments.expression,
        )
        for generator in generators:
            trained = generator.provenance.get("people", {})
            judged_faces.check_strangers(judged, trained)
        yield from [(judged.faces, taught)] * len(generators)
        return
    drawn = {}
    for generator, rotator in zip(generators, rotators):
        size = rotator.spec.size
        if size not in drawn:
            people = arguments.people
            drawn[size] = judged_faces.drawn(rotator, generator.provenance, people)
        yield drawn[size]


def _judge(
    rotator: Rotator,
    faces: PosedSet,
    taught: PosedSet | None,
    judges: _Judges,
    folder: epath.Path,
) -> tuple[dict[str, float], _Judged]:
    classify = embed = None
    if taught is not None:
        pose = evaluate_rotation.classes_of(rotator, taught.yaw)
        seen, pose = rotator.seen(taught.images[pose >= 0]), pose[pose >= 0]
        # Poses, not sharpness: from bad images too.
        bad, _ = evaluate_rotation.degrade(seen)
        classify = PictureClassifier(np.concatenate([seen, bad]), np.tile(pose, 2))
    if judges.recogniser is not None:
        embed = functools.partial(judges.recogniser.embed, normalize=False)
    results = evaluate_rotation.judge_features(rotator, faces, embed)
    found, rows, made = evaluate_rotation.judge_images(
        rotator, faces, classify=classify, embed=embed, features=judges.features
    )
    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / "figures"
    known, tables = evaluate_rotation.judge_confidence(rotator, faces, figures)
    for path in rotation_figures.draw(rotator, faces, figures):
        print(f"figure: {path}")
    return results | found | known, _Judged(rotator, faces, rows, made, tables)


def _judge_known(
    arguments: argparse.Namespace,
    path: str,
    generator: Embedder,
    rotator: Rotator,
    folder: epath.Path,
) -> dict[str, float]:
    """Judges confidence by the discriminator beside a generator, if there is one."""
    beside = Path(path).parent / "embedder_discriminator"
    if not beside.exists():
        return {}
    discriminator = load_embedder(beside)
    whence = (arguments.records or "", arguments.people)
    faces = judged_faces.known(rotator, generator.provenance, discriminator, *whence)
    if faces is None:
        return {}
    figure = folder / "figures/confidence_known.png"
    found = evaluate_rotation.judge_known(rotator, discriminator, faces, figure)
    print(f"figure: {figure}")
    return found


def _compare(judged: Mapping[str, _Judged], folder: epath.Path) -> None:
    """The same faces as each generator turns them, and one table of fused images."""
    first = next(iter(judged.values()))
    made = {label: one.made for label, one in judged.items()}
    path = folder / "compared.png"
    rotation_figures.compare(first.rotator, first.faces, first.rows, made, path)
    print(f"figure: {path}")
    tables = {
        f"{label}: {way}": shares
        for label, one in judged.items()
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


def number_of_images(tables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns for each row its rank1 by number of images, and its gain over the others.

    Both with the deviation over draws, of the difference of the same draw for gains:
    {name: {rank1: [n], rank1_std: [n], gain: {name of an earlier row: {mean, std}}}}.

    Args:
      tables: name -> rank-1 [n, draws] of the same images.
    """
    found: dict[str, Any] = {}
    for name, shares in tables.items():
        gains = {other: shares - tables[other] for other in found}
        found[name] = {
            "rank1": shares.mean(axis=1).tolist(),
            "rank1_std": shares.std(axis=1).tolist(),
            "gain": {
                other: {
                    "mean": gain.mean(axis=1).tolist(),
                    "std": gain.std(axis=1).tolist(),
                }
                for other, gain in gains.items()
            },
        }
    return found


def _line(means: list[float], deviations: list[float]) -> str:
    return "  ".join(
        f"{100 * mean:6.2f}+-{100 * deviation:.2f}"
        for mean, deviation in zip(means, deviations)
    )
