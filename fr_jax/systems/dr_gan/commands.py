"""`fr-jax rotate`: rotate aligned faces to other poses with a trained generator.

Example:
    fr-jax rotate a.jpg b.jpg --generator runs/faces/embedder_generator --to rotated
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import UNALIGNED, batched
from fr_jax.errors import UserError
from fr_jax.report import rotation
from fr_jax.report.figures import rows as plot_rows
from fr_jax.systems.dr_gan.rotator import Rotator


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="aligned face")
    what = "generator folder, WORKDIR/embedder_generator"
    add("--generator", required=True, metavar="GENERATOR", help=what)
    add("--to", required=True, metavar="DIR", help="folder of the rotated faces")
    what = "target yaws in degrees, as in --angles=-30,0,30; default: all trained poses"
    add("--angles", default="", metavar="A,B,C", help=what)
    what = "target illumination, one of the trained light numbers; default: the first"
    add("--light", type=int, metavar="LIGHT", help=what)
    what = "fuse the features of the images, which must show one identity"
    add("--fuse", action="store_true", help=what)
    add("--unaligned", **UNALIGNED)


def run(arguments: argparse.Namespace) -> None:
    """Rotates faces."""
    rotator = Rotator(load_embedder(arguments.generator))
    angles = _angles(arguments.angles, rotator)
    if arguments.light is not None and arguments.light not in rotator.light_numbers:
        available = ", ".join(map(str, rotator.light_numbers)) or "no lights"
        raise UserError(f"--light {arguments.light}: this generator has {available}")
    light = int(rotator.light_indices(np.array([arguments.light]))[0])
    paths = [Path(name) for name in arguments.images]
    sides = None if arguments.unaligned else (rotator.spec.size,)
    images = np.concatenate(list(batched(paths, len(paths), sides=sides)))
    features, confidence = rotator.encode(images)
    names, cropped = [path.stem for path in paths], rotator.crop(images)
    if arguments.fuse:
        for path, share in zip(paths, confidence):
            print(f"{path}: confidence {share:.3f}")
        features, names = rotator.fuse(features, confidence)[None], ["fused"]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two images are named {min(repeated)}; rotate them one by one")
    rotated = rotator.rotate_features(features, angles, light)
    target = Path(arguments.to)
    target.mkdir(parents=True, exist_ok=True)
    for name, row in zip(names, rotated):
        for angle, image in zip(angles, row):
            path = target / f"{name}_{angle:+g}.png"
            if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
                raise OSError(f"{path}: could not be written; is the disk full?")
    sheet = target / "rotated.png"
    if arguments.fuse:
        notes = [[f"{share:.2f}" for share in confidence]]
        notes += [[f"{angle:+g}" for angle in angles]]
        lines = [list(cropped), list(rotated[0])]
        plot_rows(lines, sheet, names=["inputs", "fused"], notes=notes)
    else:
        rotation.pose_grid(cropped, rotated, sheet, angles=angles)
    what = "yaws" if rotator.has_angles or rotator.continuous else "poses, by number,"
    print(f"{len(angles)} {what} of {len(names)} face(s): {target}")
    print(f"figure: {sheet}")


def _angles(text: str, rotator: Rotator) -> list[float]:
    if not text:
        return rotator.angles
    try:
        angles = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--angles={text}: expected degrees with commas, as in --angles=-30,0,30"
        ) from None
    available = [f"{angle:g}" for angle in rotator.angles]
    for angle in angles:
        if not abs(angle) <= 180:  # or NaN
            raise UserError(f"--angles={angle:g}: a yaw is at most 180 degrees")
        if not rotator.continuous and f"{angle:g}" not in available:
            raise UserError(
                f"--angles={angle:g}: this generator has {', '.join(available)}"
            )
    return angles
