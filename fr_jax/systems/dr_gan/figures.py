"""Figures of a generator: faces in every pose and light, fused, and interpolated."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from fr_jax.report import rotation
from fr_jax.report.figures import rows as plot_rows
from fr_jax.systems.dr_gan.posed_sets import PosedSet, degrade
from fr_jax.systems.dr_gan.rotator import Rotator

Array = np.ndarray
Page = dict[str, Any]  # arguments of `report.figures.rows`
_MAX_INPUTS = 11  # per identity in the figures of confidence
_IDENTITIES, _COMPARED = 6, 4  # in the figures of one and of several generators
_SHARES = np.linspace(0, 1, 5)[:, None]  # of the second end of an interpolation


def draw(rotator: Rotator, faces: PosedSet, folder: epath.Path) -> list[epath.Path]:
    """Draws figures of rotated, fused, sorted and interpolated faces.

    Returns the files: pose_grid, fused, sorted (by confidence, of randomly degraded
    images), interpolation, and lights for faces in several lights.
    """
    labels = np.unique(faces.label)[:_IDENTITIES]
    members = [np.flatnonzero(faces.label == label) for label in labels]
    # Images of different numbers, so that some are rotated from the side.
    rows = np.array([m[(3 * n) % len(m)] for n, m in enumerate(members)])
    features, _ = rotator.encode(faces.images[rows])
    lights = rotator.light_indices(faces.light[rows])
    rotation.pose_grid(
        rotator.crop(faces.images[rows]),
        rotator.rotate_features(features, light=lights),
        folder / "pose_grid.png",
        angles=rotator.angles,
        truth=[_truth(rotator, faces, row) for row in rows],
    )
    sets = [np.random.default_rng(0).permutation(some) for some in members[:4]]
    sets = [some[:_MAX_INPUTS] for some in sets]
    pages = {
        "fused": _fused(rotator, faces, sets),
        "sorted": _sorted(rotator, faces, sets),
        "interpolation": _interpolation(rotator, features),
    }
    if len(np.unique(faces.light[faces.light >= 0])) > 1:
        pages["lights"] = _lights(rotator, faces, rows[:4])
    for name, page in pages.items():
        plot_rows(path=folder / f"{name}.png", **page)
    return [folder / f"{name}.png" for name in ("pose_grid", *pages)]


def compare(
    rotator: Rotator,
    faces: PosedSet,
    rows: Array,
    rotated: Mapping[str, Array],
    path: epath.Path,
) -> None:
    """Draws inputs with ground truth, above the images of several generators.

    Args:
      rotator: of one of the generators; all have the same input size.
      rows: [n] rows of the rotated faces.
      rotated: images uint8 [n, A, S, S, 3] by name of the generator.
    """
    _, first = np.unique(faces.label[rows], return_index=True)
    lines, names = [], []
    for number in np.sort(first)[:_COMPARED]:
        row = int(rows[number])
        face = rotator.crop(faces.images[[row]])[0]
        lines.append([face, *_truth(rotator, faces, row)])
        lines += [[None, *images[number]] for images in rotated.values()]
        names += ["real", *rotated]
    titles = ["input", *(f"{angle:+g}" for angle in rotator.angles)]
    plot_rows(lines, path, names=names, titles=titles)


def _truth(rotator: Rotator, faces: PosedSet, row: int) -> list[Array | None]:
    """Returns the identity and light of `row` in each pose; None for missing images."""
    same = (faces.label == faces.label[row]) & (faces.light == faces.light[row])
    pose = np.where(same, rotator.pose(faces.yaw), -1)
    images: list[Array | None] = [None] * len(rotator.angles)
    for number in np.unique(pose[pose >= 0]):
        images[number] = rotator.crop(faces.images[pose == number][:1])[0]
    return images


def _lights(rotator: Rotator, faces: PosedSet, rows: Array) -> Page:
    """Returns faces in each light, and frontal images of these.

    If light is a target, also frontal images in each light, of one input.
    """
    lights = np.unique(faces.light[faces.light >= 0])
    pose, targets = rotator.pose(faces.yaw), rotator.light_indices(lights)
    frontal, names, lines = min(rotator.angles, key=abs), [], []
    for row in rows:
        same = (faces.label == faces.label[row]) & (pose == pose[row])
        by_light = [np.flatnonzero(same & (faces.light == light)) for light in lights]
        chosen = np.array([some[0] if len(some) else row for some in by_light])
        features, _ = rotator.encode(faces.images[chosen])
        rotated = rotator.rotate_features(features, [frontal], targets)[:, 0]
        cropped = rotator.crop(faces.images[chosen])
        for name, images in (("inputs", cropped), ("frontal", rotated)):
            lines.append(
                [im if len(some) else None for im, some in zip(images, by_light)]
            )
            names.append(name)
        if rotator.lights:
            feature, _ = rotator.encode(faces.images[[row]])
            repeated = np.repeat(feature, len(lights), axis=0)
            relit = rotator.rotate_features(repeated, [frontal], targets)[:, 0]
            lines.append(list(relit))
            names.append("one input")
    titles = [f"light {light}" for light in lights]
    return {"images": lines, "names": names, "titles": titles}


def _fused(rotator: Rotator, faces: PosedSet, sets: list[Array]) -> Page:
    """Returns images of each identity, their confidence, and the first n fused."""
    lines, notes, frontal = [], [], min(rotator.angles, key=abs)
    for rows in sets:
        features, trusted = rotator.encode(faces.images[rows])
        counts = range(1, len(rows) + 1)
        fused = np.stack([rotator.fuse(features[:n], trusted[:n]) for n in counts])
        light = rotator.light_indices(faces.light[rows[:1]])[0]
        lines.append(list(rotator.crop(faces.images[rows])))
        lines.append(list(rotator.rotate_features(fused, [frontal], light)[:, 0]))
        notes += [_confidence(trusted), []]
    titles = [str(n) for n in range(1, max(map(len, lines)) + 1)]
    names = ["inputs", "frontal"] * len(sets)
    return {"images": lines, "names": names, "titles": titles, "notes": notes}


def _sorted(rotator: Rotator, faces: PosedSet, sets: list[Array]) -> Page:
    """Returns degraded images of each identity in order of descending confidence."""
    lines, notes = [], []
    for rows in sets:
        degraded, _ = degrade(faces.images[rows])
        _, trusted = rotator.encode(degraded)
        order = np.argsort(-trusted)
        lines.append(list(rotator.crop(degraded[order])))
        notes.append(_confidence(trusted[order]))
    return {"images": lines, "notes": notes}


def _confidence(trusted: Array) -> list[str]:
    return [f"{share:.2f}" for share in trusted]


def _interpolation(rotator: Rotator, features: Array) -> Page:
    """Returns interpolations between two identities, two poses and two noise codes."""
    angles = rotator.angles
    middle = min(range(len(angles)), key=lambda number: abs(angles[number]))
    next_ = middle + 1 if middle + 1 < len(angles) else middle - 1
    code = rotator.code(angles[middle])
    codes = _interpolated(code, rotator.code(angles[next_]))
    noise = _interpolated(*np.random.default_rng(0).uniform(-1, 1, (2, rotator.noise)))
    names, lines = [], []
    for first, second in zip(features[::2], features[1::2]):
        between = _interpolated(first, second)
        lines.append(list(rotator.rotate_features(between, [angles[middle]])[:, 0]))
        names.append("identity")
    for feature in features[:2]:
        same = np.repeat(feature[None], len(_SHARES), axis=0)
        lines.append(list(rotator.decode(same, codes)))
        frontal = np.repeat(code[None], len(_SHARES), axis=0)
        lines.append(list(rotator.decode(same, frontal, noise=noise)))
        names += [f"{angles[middle]:+g} to {angles[next_]:+g}", "noise"]
    titles = [f"{share:.2f}" for share in _SHARES[:, 0]]
    return {"images": lines, "names": names, "titles": titles}


def _interpolated(first: Array, second: Array) -> Array:
    return (1 - _SHARES) * first + _SHARES * second
