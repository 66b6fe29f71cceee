"""Renders the README's figures of faces.

python -m benchmarks.experiments.sheets --to docs
"""

import argparse
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.vision import rand_augment
from fr_jax import faces
from fr_jax.faces import sets, video

_COLUMNS, _TILE = 8, 112
_IDENTITY = 1  # of the second sheet


def identities(rows: int) -> np.ndarray:
    """Returns images [rows * _COLUMNS, S, S, 3], one of each identity."""
    return _images(num_identities=rows * _COLUMNS)


def one_identity(number: int) -> np.ndarray:
    """Returns one identity; rows of poses, expressions, lights and ages."""
    plain = sets.label(sets.kdef(), 0, [number], [2]).codes
    codes = jax.tree.map(lambda row: jnp.repeat(row, _COLUMNS, axis=0), plain)
    yaw = jnp.linspace(-90, 90, _COLUMNS)
    moved = [faces.expression(name) for name in faces.EXPRESSIONS]
    moved.append(faces.expression("happy") + faces.expression("surprised"))
    lights = faces.presets()[jnp.array([0, 1, 4, 6, 8, 10, 13, 18])]
    variations = [
        codes._replace(pose=codes.pose.at[:, 0].set(yaw)),
        codes._replace(expression=jnp.stack(moved)),
        codes._replace(light=lights),
        codes._replace(age=jnp.array([2.0, 6.0, 11.0, 20.0, 35.0, 50.0, 65.0, 85.0])),
    ]
    rows = [faces.render(row, _TILE, "loose").image for row in variations]
    return np.round(np.concatenate(rows) * 255).astype(np.uint8)


def augmented(number: int) -> np.ndarray:
    """Returns a face after each operation of RandAugment, then after four."""
    (face,) = _images(num_identities=1, first=number)
    examples = rand_augment.examples(face, np.random.default_rng(0))
    return np.stack([image for _, image in examples])


def _images(**options: int) -> np.ndarray:
    options = {"images": 1, "size": _TILE, "quality": "full", **options}
    return sets.arrays(sets.default(30.0), **options)["image"]


def grid(images: np.ndarray, columns: int = _COLUMNS) -> np.ndarray:
    """Returns images [n, S, S, 3] side by side, `columns` in a row."""
    rows = images.reshape(-1, columns, *images.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, default=Path("docs/images"))
    to = parser.parse_args().to
    to.mkdir(parents=True, exist_ok=True)
    sheets = {
        "identities": grid(identities(3)),
        "one_identity": grid(one_identity(_IDENTITY)),
        "augmentations": grid(augmented(_IDENTITY), 10),
        "group": next(iter(video.Film(0, frames=1, shots=1))).image,
    }
    for name, image in sheets.items():
        path = to / f"{name}.jpg"
        cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        print(f"{path}: {image.shape[1]}x{image.shape[0]}")


if __name__ == "__main__":
    main()
