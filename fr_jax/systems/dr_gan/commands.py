"""`fr-jax rotate`: rotates aligned faces to other poses, with a trained generator."""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import batched
from fr_jax.errors import UserError
from fr_jax.report import rotation
from fr_jax.systems.dr_gan.rotator import Rotator


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="aligned faces")
    add("--generator", required=True, metavar="E", help="WORKDIR/embedder_generator")
    add("--to", required=True, metavar="DIR")
    add("--angles", default="", metavar="A,B,C", help="degrees; default: all trained")
    add("--light", type=int, help="its number, where lights are targets")
    add("--fuse", action="store_true", help="all images show one identity")


def run(arguments: argparse.Namespace) -> int:
    """Turns faces as asked; returns the exit code."""
    rotator = Rotator(load_embedder(arguments.generator))
    angles = _angles(arguments.angles, rotator)
    if arguments.light is not None and arguments.light not in rotator.light_numbers:
        known = ", ".join(map(str, rotator.light_numbers)) or "no lights"
        raise UserError(f"--light {arguments.light}: this generator knows {known}")
    light = int(rotator.places(np.array([arguments.light]))[0])
    paths = [Path(name) for name in arguments.images]
    images = np.concatenate(list(batched(paths, len(paths), side=rotator.spec.size)))
    features, confidence = rotator.encode(images)
    names, seen = [path.stem for path in paths], rotator.seen(images)
    if arguments.fuse:
        for path, trust in zip(paths, confidence):
            print(f"{path}: confidence {trust:.3f}")
        features, names = rotator.fuse(features, confidence)[None], ["fused"]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"two images are called {min(twice)}; turn them one by one")
    turned = rotator.turn(features, angles, light)
    target = Path(arguments.to)
    target.mkdir(parents=True, exist_ok=True)
    for name, row in zip(names, turned):
        for angle, image in zip(angles, row):
            place = target / f"{name}_{angle:+g}.png"
            if not cv2.imwrite(str(place), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
                raise OSError(f"{place}: could not be written; is the disk full?")
    sheet = target / "rotated.png"
    if arguments.fuse:
        notes = [[f"{trust:.2f}" for trust in confidence]]
        notes += [[f"{angle:+g}" for angle in angles]]
        rotation.rows(
            [list(seen), list(turned[0])], sheet, names=["inputs", "fused"], notes=notes
        )
    else:
        rotation.pose_grid(seen, turned, sheet, angles=angles)
    what = "yaws" if rotator.has_angles or rotator.continuous else "poses, by number,"
    print(f"{len(angles)} {what} of {len(names)} face(s): {target}")
    print(f"figure: {sheet}")
    return 0


def _angles(text: str, rotator: Rotator) -> list[float]:
    if not text:
        return rotator.angles
    try:
        angles = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--angles={text}: use degrees with commas, --angles=-30,0,30"
        ) from None
    known = [f"{angle:g}" for angle in rotator.angles]
    for angle in angles:
        if not abs(angle) <= 180:  # nor NaN
            raise UserError(f"--angles={angle:g}: a yaw is at most 180 degrees")
        if not rotator.continuous and f"{angle:g}" not in known:
            raise UserError(
                f"--angles={angle:g}: this generator knows {', '.join(known)}"
            )
    return angles
