"""Judging a generator: is it the pose, is it the person, and what does a feature tell?

The judges are independent of it: a classifier of poses that learnt from pictures, a
recogniser that learnt elsewhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from fr_jax.metrics import generation, identification, probes, quality
from fr_jax.models.preprocess import resize
from fr_jax.report import rotation
from fr_jax.rotator import Rotator

Array = np.ndarray
LEVELS = (1.0, 0.5, 0.25, 0.125)  # of the side in pixels that a spoilt image keeps
MOST = 6  # images that are fused


class PosedSet(NamedTuple):
    """Aligned faces of people in several poses.

    Attributes:
      images: uint8 RGB [N, H, W, 3].
      label, yaw: [N] who it is, and degrees, NaN where not known.
      light, session: int [N], -1 where not known.
      neutral: the light that a gallery wants.
    """

    images: Array
    label: Array
    yaw: Array
    light: Array
    session: Array
    neutral: int = 7


def judge_features(rotator: Rotator, faces: PosedSet) -> dict[str, float]:
    """Returns identification by yaw, and what linear probes read from features.

    identification/rank1@yaw=A, left and right together, /rank1 over all probes;
    leakage/pose and /identity with /pose_chance, of rows whose yaw is known.
    """
    features, _ = rotator.encode(faces.images)
    known = np.isfinite(faces.yaw)
    held = identification.gallery(
        faces.label, faces.yaw, faces.light, faces.session, neutral=faces.neutral
    )
    probing = np.setdiff1d(np.flatnonzero(known), held)
    hits = identification.rank_one(
        features[probing], faces.label[probing], features[held], faces.label[held]
    )
    shares = identification.by_yaw(hits, faces.yaw[probing])
    results = {f"identification/rank1@yaw={a}": s for a, s in shares.items()}
    results["identification/rank1"] = float(hits.mean())
    pose = classes_of(rotator, faces.yaw[known])
    whose, rows = faces.label[known], features[known]
    if len(np.unique(whose)) >= 5 and len(np.unique(pose)) > 1:
        results["leakage/pose"] = probes.leakage(rows, pose, whose)
        results["leakage/pose_chance"] = float(np.bincount(pose).max() / len(pose))
    if np.unique(whose, return_counts=True)[1].min() >= 5:
        results["leakage/identity"] = probes.leakage(rows, whose)
    return results


def judge_images(
    rotator: Rotator,
    faces: PosedSet,
    *,
    classify: Callable[[Array], Array] | None = None,
    embed: Callable[[Array], Array] | None = None,
    features: Callable[[Array], Array] | None = None,
    inputs: int = 200,
    seed: int = 0,
) -> tuple[dict[str, float], Array, Array]:
    """Returns results, the rows that were turned [n], and their turned images [n, A].

    rotation/pose_accuracy, also by @yaw, beside pose_accuracy_true, that of true
    images; identity_cosine, also by @yaw, _strangers and identity_auc, beside
    identity_auc_true, between the inputs themselves; kid with its deviation, and
    kid_true, of two halves of the true images.

    Args:
      classify: images uint8 as the generator sees them -> pose classes.
      embed: images -> embeddings, by a recogniser of its own.
      features: images -> features, for the distance between the sets; by default
        histograms of gradients.
      inputs: so many of the faces are turned.
    """
    rng = np.random.default_rng(seed)
    count = len(faces.images)
    rows = np.sort(rng.permutation(count)[:inputs])
    true = rotator.seen(faces.images)
    made = rotator.rotate(faces.images[rows])
    flat = made.reshape(-1, *made.shape[2:])
    wanted = np.tile(np.arange(made.shape[1]), len(rows))
    results: dict[str, float] = {}

    def by_angle(name, values):
        for number, angle in enumerate(rotator.angles):
            results[f"{name}@yaw={angle:g}"] = float(values[:, number].mean())

    if classify is not None:
        right = (classify(flat) == wanted).reshape(made.shape[:2])
        known = np.isfinite(faces.yaw)
        of_true = classify(true[known]) == classes_of(rotator, faces.yaw[known])
        results["rotation/pose_accuracy"] = float(right.mean())
        results["rotation/pose_accuracy_true"] = float(of_true.mean())
        by_angle("rotation/pose_accuracy", right)
    if embed is not None:
        given = embed(true[rows])
        turned = embed(flat).reshape(*made.shape[:2], -1)
        kept = generation.identity_kept(given, faces.label[rows], turned)
        results["rotation/identity_cosine"] = kept["cosine"]
        results["rotation/identity_cosine_strangers"] = kept["cosine_strangers"]
        results["rotation/identity_auc"] = kept["auc"]
        whose = faces.label[rows]
        if 1 < len(np.unique(whose)) < len(whose):
            results["rotation/identity_auc_true"] = generation.told_apart(given, whose)
        given = given / np.linalg.norm(given, axis=1, keepdims=True)
        turned = turned / np.linalg.norm(turned, axis=2, keepdims=True)
        by_angle("rotation/identity_cosine", np.einsum("nf,naf->na", given, turned))
    describe = features or probes.gradient_histograms
    of_true, of_made = describe(true), describe(flat)
    mean, deviation = generation.kernel_distance(of_true, of_made, seed=seed)
    results["rotation/kid"], results["rotation/kid_std"] = mean, deviation
    order = rng.permutation(count)
    halves = of_true[order[: count // 2]], of_true[order[count // 2 :]]
    results["rotation/kid_true"] = generation.kernel_distance(*halves, seed=seed)[0]
    return results, rows, made


def judge_confidence(
    rotator: Rotator, faces: PosedSet, folder: epath.Path, *, seed: int = 0
) -> dict[str, float]:
    """Returns whether confidence knows bad images; draws it against pose and light.

    Every image is spoilt to a level of `LEVELS` at random. confidence/spearman with the
    level; fusion/rank1:mean@n=1 to 6 and :confidence, templates against a gallery of
    unspoilt frontal images.
    """
    bad, levels = spoil(faces.images, seed)
    features, trusted = rotator.encode(bad)
    clean, confidence = rotator.encode(faces.images)
    held = identification.gallery(
        faces.label, faces.yaw, faces.light, faces.session, neutral=faces.neutral
    )
    probing = np.setdiff1d(np.arange(len(faces.label)), held)
    results = {"confidence/spearman": quality.rank_correlation(trusted, levels)}
    least = np.unique(faces.label[probing], return_counts=True)[1].min()
    if least >= 2:
        tables = identification.number_of_images(
            features[probing],
            trusted[probing],
            faces.label[probing],
            clean[held],
            faces.label[held],
            most=min(MOST, least),
            seed=seed,
        )
        for name, shares in tables.items():
            for number, share in enumerate(shares, 1):
                results[f"fusion/rank1:{name}@n={number}"] = share
        rotation.number_of_images(tables, folder / "number_of_images.png")
    panels = {"yaw": _means(faces.yaw, confidence)}
    if (faces.light >= 0).any():
        panels["light"] = _means(
            np.where(faces.light < 0, np.nan, faces.light), confidence
        )
    rotation.confidence(
        panels, folder / "confidence.png", quality=levels, trusted=trusted
    )
    return results


def draw(
    rotator: Rotator, faces: PosedSet, folder: epath.Path, *, people: int = 6
) -> list[epath.Path]:
    """Draws faces turned beside true ones, fused, and between two people and poses."""
    members = [
        np.flatnonzero(faces.label == who) for who in np.unique(faces.label)[:people]
    ]
    # Of each person another image, so that some are turned from the side.
    rows = np.array([m[(3 * n) % len(m)] for n, m in enumerate(members)])
    features, _ = rotator.encode(faces.images[rows])
    paths = [folder / f"{n}.png" for n in ("pose_grid", "fused", "interpolation")]
    rotation.pose_grid(
        rotator.seen(faces.images[rows]),
        rotator.turn(features),
        paths[0],
        angles=rotator.angles,
        truth=[_truth(rotator, faces, m, row) for m, row in zip(members, rows)],
    )
    _draw_fused(rotator, faces, members[:4], paths[1])
    _draw_between(rotator, features, paths[2])
    return paths


def _truth(
    rotator: Rotator, faces: PosedSet, members: Array, row: int
) -> list[Array | None]:
    """A person's image in each pose, in the light of `row`, where there is one."""
    alike = members[faces.light[members] == faces.light[row]]
    pose = classes_of(rotator, faces.yaw[alike])
    found = [alike[pose == number] for number in range(len(rotator.angles))]
    return [
        rotator.seen(faces.images[some[:1]])[0] if len(some) else None for some in found
    ]


def _draw_fused(
    rotator: Rotator, faces: PosedSet, members: list[Array], path: epath.Path
) -> None:
    """Up to six images of each person, their confidence, and the first n fused."""
    lines, notes, frontal = [], [], min(rotator.angles, key=abs)
    for some in members:
        some = np.random.default_rng(0).permutation(some)[:MOST]
        own, trusted = rotator.encode(faces.images[some])
        counts = range(1, len(some) + 1)
        fused = np.stack([rotator.fuse(own[:n], trusted[:n]) for n in counts])
        lines.append(list(rotator.seen(faces.images[some])))
        lines.append(list(rotator.turn(fused, [frontal])[:, 0]))
        notes += [[f"{share:.2f}" for share in trusted], []]
    titles = [str(n) for n in range(1, max(map(len, lines)) + 1)]
    names = ["inputs", "frontal"] * len(members)
    rotation.rows(lines, path, names=names, titles=titles, notes=notes)


def _draw_between(rotator: Rotator, features: Array, path: epath.Path) -> None:
    """Faces on the way from one person to another, and from one pose to another."""
    shares = np.linspace(0, 1, 5)[:, None]
    frontal = min(rotator.angles, key=abs)
    names, lines = [], []
    for first, second in zip(features[::2], features[1::2]):
        between = (1 - shares) * first + shares * second
        lines.append(list(rotator.turn(between, [frontal])[:, 0]))
        names.append("identity")
    first, second = rotator.code(frontal), rotator.code(rotator.angles[-1])
    codes = (1 - shares) * first + shares * second
    for feature in features[:2]:
        lines.append(list(rotator.decode(np.repeat(feature[None], 5, axis=0), codes)))
        names.append("pose")
    titles = [f"{share:.2f}" for share in shares[:, 0]]
    rotation.rows(lines, path, names=names, titles=titles)


def spoil(images: Array, seed: int = 0) -> tuple[Array, Array]:
    """Returns images of fewer pixels, brought back to their size, and their levels."""
    levels = np.random.default_rng(seed).choice(LEVELS, len(images))
    out, side = np.array(images), images.shape[1]
    for level in LEVELS[1:]:
        rows = levels == level
        if rows.any():
            small = resize(jnp.asarray(images[rows]), max(round(level * side), 2))
            out[rows] = np.clip(np.round(resize(small, side)), 0, 255).astype(np.uint8)
    return out, levels


def classes_of(rotator: Rotator, yaws: Array) -> Array:
    """Returns the number of the nearest of a generator's angles; -1 for a NaN."""
    away = np.abs(np.asarray(yaws)[:, None] - np.asarray(rotator.angles)[None])
    nearest = np.nan_to_num(away, nan=np.inf).argmin(axis=1)
    return np.where(np.isnan(yaws), -1, nearest)


def _means(values: Array, confidence: Array) -> dict[float, float]:
    there = np.unique(values[np.isfinite(values)])
    return {float(v): float(confidence[values == v].mean()) for v in there}
