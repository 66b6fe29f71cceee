"""What a generator makes, drawn: every pose and light, fused, and what lies between."""

from collections.abc import Mapping

import numpy as np
from etils import epath

from fr_jax.report import rotation
from fr_jax.systems.dr_gan.posed_sets import PosedSet, degrade
from fr_jax.systems.dr_gan.rotator import Rotator

Array = np.ndarray
INPUTS = 11  # of a person, with their confidence
_COMPARED = 4  # people beside each other's turned faces
_SHARES = np.linspace(0, 1, 5)[:, None]  # of the way from one thing to another


def draw(
    rotator: Rotator, faces: PosedSet, folder: epath.Path, *, people: int = 6
) -> list[epath.Path]:
    """Draws faces turned beside true ones, in other lights, fused, sorted, between.

    Returns the files: pose_grid, lights (where the faces have several), fused, sorted
    (by confidence, images spoilt at random) and interpolation.
    """
    members = [
        np.flatnonzero(faces.label == who) for who in np.unique(faces.label)[:people]
    ]
    # Of each person another image, so that some are turned from the side.
    rows = np.array([m[(3 * n) % len(m)] for n, m in enumerate(members)])
    features, _ = rotator.encode(faces.images[rows])
    several = len(np.unique(faces.light[faces.light >= 0])) > 1
    names = ["pose_grid", *["lights"] * several, "fused", "sorted", "interpolation"]
    paths = {name: folder / f"{name}.png" for name in names}
    rotation.pose_grid(
        rotator.seen(faces.images[rows]),
        rotator.turn(features, light=rotator.places(faces.light[rows])),
        paths["pose_grid"],
        angles=rotator.angles,
        truth=[_truth(rotator, faces, row) for row in rows],
    )
    if several:
        _draw_lights(rotator, faces, rows[:4], paths["lights"])
    _draw_fused(rotator, faces, members[:4], paths["fused"])
    _draw_sorted(rotator, faces, members[:4], paths["sorted"])
    _draw_between(rotator, features, paths["interpolation"])
    return list(paths.values())


def compare(
    rotator: Rotator,
    faces: PosedSet,
    rows: Array,
    made: Mapping[str, Array],
    path: epath.Path,
) -> None:
    """Draws inputs beside the truth, and the same as each of several generators.

    Args:
      rotator: one of them, as large as the others.
      rows: [n] those of the faces that were turned.
      made: uint8 [n, A, S, S, 3] by each.
    """
    _, first = np.unique(faces.label[rows], return_index=True)
    lines, names = [], []
    for number in np.sort(first)[:_COMPARED]:
        row = int(rows[number])
        seen = rotator.seen(faces.images[[row]])[0]
        lines.append([seen, *_truth(rotator, faces, row)])
        lines += [[None, *turned[number]] for turned in made.values()]
        names += ["true", *made]
    titles = ["input", *(f"{angle:+g}" for angle in rotator.angles)]
    rotation.rows(lines, path, names=names, titles=titles)


def _truth(rotator: Rotator, faces: PosedSet, row: int) -> list[Array | None]:
    """The person of `row` in each pose, in the light of `row`, where there is one."""
    alike = (faces.label == faces.label[row]) & (faces.light == faces.light[row])
    pose = np.where(alike, rotator.pose(faces.yaw), -1)
    found = [np.flatnonzero(pose == number) for number in range(len(rotator.angles))]
    return [
        rotator.seen(faces.images[some[:1]])[0] if len(some) else None for some in found
    ]


def _draw_lights(
    rotator: Rotator, faces: PosedSet, rows: Array, path: epath.Path
) -> None:
    """A face in each light that there is, what is made of each frontal, and of one.

    The last only where light can be asked for.
    """
    lights = np.unique(faces.light[faces.light >= 0])
    pose, places = rotator.pose(faces.yaw), rotator.places(lights)
    frontal, names, lines = min(rotator.angles, key=abs), [], []
    for row in rows:
        same = (faces.label == faces.label[row]) & (pose == pose[row])
        found = [np.flatnonzero(same & (faces.light == light)) for light in lights]
        chosen = np.array([some[0] if len(some) else row for some in found])
        features, _ = rotator.encode(faces.images[chosen])
        made = rotator.turn(features, [frontal], places)[:, 0]
        seen = rotator.seen(faces.images[chosen])
        for name, images in (("inputs", seen), ("frontal", made)):
            lines.append([im if len(some) else None for im, some in zip(images, found)])
            names.append(name)
        if rotator.lights:
            own, _ = rotator.encode(faces.images[[row]])
            again = np.repeat(own, len(lights), axis=0)
            lines.append(list(rotator.turn(again, [frontal], places)[:, 0]))
            names.append("of one")
    titles = [f"light {light}" for light in lights]
    rotation.rows(lines, path, names=names, titles=titles)


def _draw_fused(
    rotator: Rotator, faces: PosedSet, members: list[Array], path: epath.Path
) -> None:
    """Several images of each person, their confidence, and the first n fused."""
    lines, notes, frontal = [], [], min(rotator.angles, key=abs)
    for some in members:
        some = np.random.default_rng(0).permutation(some)[:INPUTS]
        own, trusted = rotator.encode(faces.images[some])
        counts = range(1, len(some) + 1)
        fused = np.stack([rotator.fuse(own[:n], trusted[:n]) for n in counts])
        lit = rotator.places(faces.light[some[:1]])[0]
        lines.append(list(rotator.seen(faces.images[some])))
        lines.append(list(rotator.turn(fused, [frontal], lit)[:, 0]))
        notes += [[f"{share:.2f}" for share in trusted], []]
    titles = [str(n) for n in range(1, max(map(len, lines)) + 1)]
    names = ["inputs", "frontal"] * len(members)
    rotation.rows(lines, path, names=names, titles=titles, notes=notes)


def _draw_sorted(
    rotator: Rotator, faces: PosedSet, members: list[Array], path: epath.Path
) -> None:
    """Images of each person, good and bad, the most trusted first."""
    lines, notes = [], []
    for some in members:
        some = np.random.default_rng(0).permutation(some)[:INPUTS]
        bad, _ = degrade(faces.images[some])
        _, trusted = rotator.encode(bad)
        order = np.argsort(-trusted)
        lines.append(list(rotator.seen(bad[order])))
        notes.append([f"{share:.2f}" for share in trusted[order]])
    rotation.rows(lines, path, notes=notes)


def _draw_between(rotator: Rotator, features: Array, path: epath.Path) -> None:
    """On the way from a person to another, a pose to the next, a noise to another."""
    angles = rotator.angles
    middle = min(range(len(angles)), key=lambda number: abs(angles[number]))
    beside = middle + 1 if middle + 1 < len(angles) else middle - 1
    code = rotator.code(angles[middle])
    codes = (1 - _SHARES) * code + _SHARES * rotator.code(angles[beside])
    noise = np.random.default_rng(0).uniform(-1, 1, (2, rotator.noise))
    noise = (1 - _SHARES) * noise[0] + _SHARES * noise[1]
    names, lines = [], []
    for first, second in zip(features[::2], features[1::2]):
        between = (1 - _SHARES) * first + _SHARES * second
        lines.append(list(rotator.turn(between, [angles[middle]])[:, 0]))
        names.append("identity")
    for feature in features[:2]:
        same = np.repeat(feature[None], len(_SHARES), axis=0)
        lines.append(list(rotator.decode(same, codes)))
        still = np.repeat(code[None], len(_SHARES), axis=0)
        lines.append(list(rotator.decode(same, still, noise=noise)))
        names += [f"{angles[middle]:+g} to {angles[beside]:+g}", "noise"]
    titles = [f"{share:.2f}" for share in _SHARES[:, 0]]
    rotation.rows(lines, path, names=names, titles=titles)
