"""Judging a generator: is it the pose, is it the person, and what does a feature tell?

The judges are independent of it: a classifier of poses that learnt from pictures, a
recogniser that learnt elsewhere.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fr_jax.backend import cpu
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.metrics import generation, identification, probes, quality
from fr_jax.models.preprocess import resize
from fr_jax.report import rotation
from fr_jax.systems.dr_gan.rotator import Rotator

Array = np.ndarray
# Of the side in pixels that a spoilt image keeps. A drawn person is known from 8 of 64:
# the last level is what harms the mean of several images.
LEVELS = (1.0, 0.5, 0.25, 0.125, 0.0625)
MOST = 6  # images that are fused, where that is scored
_COSINE_SCALE = 30.0  # of a head of cosines, as the authors learn it


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


def check(faces: PosedSet, name: str) -> None:
    """Raises UserError for a set, called `name`, that nobody could be judged on."""
    known = np.isfinite(faces.yaw)
    if not known.any():
        raise UserError(f"{name}: no image has a yaw; give a labels.csv with them")
    people, counts = np.unique(faces.label[known], return_counts=True)
    if len(people) < 2:
        raise UserError(f"{name}: {len(people)} people to judge on; at least 2")
    if counts.max() < 2:
        raise UserError(
            f"{name}: one image of each person, which the gallery takes; at least 2"
        )


def judge_features(
    rotator: Rotator,
    faces: PosedSet,
    embed: Callable[[Array], Array] | None = None,
) -> dict[str, float]:
    """Returns identification by yaw, and what linear probes read from features.

    identification/rank1, over all probes, and rank1@yaw=A, left and right together;
    rank1:turned likewise, of probes that were turned frontal and encoded again, against
    the same gallery; and both by a recogniser, rank1:recogniser and :recogniser_turned.
    leakage/pose and /identity with /pose_chance, of rows whose yaw is known.

    Args:
      embed: images uint8 as the generator sees them -> embeddings, the recogniser's.
    """
    features, _ = rotator.encode(faces.images)
    known = np.isfinite(faces.yaw)
    held = identification.gallery(
        faces.label, faces.yaw, faces.light, faces.session, neutral=faces.neutral
    )
    probing = np.setdiff1d(np.flatnonzero(known), held)
    frontal = min(rotator.angles, key=abs)
    lights = rotator.places(faces.light[probing])
    turned = rotator.turn(features[probing], [frontal], lights)[:, 0]
    pairs = {
        "": (features[probing], features[held]),
        ":turned": (rotator.encode(turned, cut=False)[0], features[held]),
    }
    if embed is not None:
        of_held = embed(rotator.seen(faces.images[held]))
        of_probes = embed(rotator.seen(faces.images[probing]))
        pairs[":recogniser"] = of_probes, of_held
        pairs[":recogniser_turned"] = embed(turned), of_held
    results = {}
    for name, (probes_, gallery) in pairs.items():
        hits = identification.rank_one(
            probes_, faces.label[probing], gallery, faces.label[held]
        )
        results[f"identification/rank1{name}"] = float(hits.mean())
        for angle, share in identification.by_yaw(hits, faces.yaw[probing]).items():
            results[f"identification/rank1{name}@yaw={angle}"] = share
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
    features: tuple[str, Callable[[Array], Array]] = (
        "gradients",
        probes.gradient_histograms,
    ),
    inputs: int = 200,
    seed: int = 0,
) -> tuple[dict[str, float], Array, Array]:
    """Returns results, the rows that were turned [n], and their turned images [n, A].

    Where light can be asked for, each is turned in its own. rotation/pose_accuracy,
    also by @yaw, beside pose_accuracy_true, that of true images; identity_cosine, also
    by @yaw, _strangers and identity_auc, beside identity_auc_true, between the inputs
    themselves; kid:FEATURES between as many true images of each pose and made ones of
    those poses, with its deviation kid_std:, and kid_true: of two halves of the former.

    Args:
      classify: images uint8 as the generator sees them -> pose classes.
      embed: images -> embeddings, by a recogniser of its own.
      features: their name, and images -> features, for the distance between the sets;
        distances of other features are not comparable.
      inputs: so many of the faces are turned.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(faces.images))[:inputs])
    true = rotator.seen(faces.images)
    lights = rotator.places(faces.light[rows])
    made = rotator.rotate(faces.images[rows], light=lights)
    flat = made.reshape(-1, *made.shape[2:])
    wanted = np.tile(np.arange(made.shape[1]), len(rows))
    pose = classes_of(rotator, faces.yaw)
    results: dict[str, float] = {}

    def by_angle(name, values):
        for number, angle in enumerate(rotator.angles):
            results[f"{name}@yaw={angle:g}"] = float(values[:, number].mean())

    if classify is not None:
        right = (classify(flat) == wanted).reshape(made.shape[:2])
        of_true = classify(true[pose >= 0]) == pose[pose >= 0]
        results["rotation/pose_accuracy"] = float(right.mean())
        results["rotation/pose_accuracy_true"] = float(of_true.mean())
        by_angle("rotation/pose_accuracy", right)
    if embed is not None:
        given = embed(true[rows])
        turned = embed(flat).reshape(*made.shape[:2], -1)
        kept = generation.identity_preservation(given, faces.label[rows], turned)
        results["rotation/identity_cosine"] = kept["cosine"]
        results["rotation/identity_cosine_strangers"] = kept["cosine_strangers"]
        results["rotation/identity_auc"] = kept["auc"]
        whose = faces.label[rows]
        if 1 < len(np.unique(whose)) < len(whose):
            results["rotation/identity_auc_true"] = generation.told_apart(given, whose)
        given = given / np.linalg.norm(given, axis=1, keepdims=True)
        turned = turned / np.linalg.norm(turned, axis=2, keepdims=True)
        by_angle("rotation/identity_cosine", np.einsum("nf,naf->na", given, turned))
    name, describe = features
    # [poses that there are, images]: as many of each, for made ones have as many.
    least = min(np.sum(pose == number) for number in np.unique(pose[pose >= 0]))
    alike = np.stack(
        [
            rng.permutation(np.flatnonzero(pose == number))[:least]
            for number in np.unique(pose[pose >= 0])
        ]
    )
    of_true = describe(true[alike.ravel()]).reshape(*alike.shape, -1)
    of_made = describe(flat[np.isin(wanted, pose[alike[:, 0]])])
    pairs = {"kid": (of_true, of_made)}
    if alike[:, : least // 2].size > 1:
        pairs["kid_true"] = of_true[:, : least // 2], of_true[:, least // 2 :]
    for kind, pair in pairs.items():
        real, other = (x.reshape(-1, x.shape[-1]) for x in pair)
        found = generation.kernel_distance(real, other, seed=seed)
        results[f"rotation/{kind}:{name}"] = found[0]
        if kind == "kid":
            results[f"rotation/kid_std:{name}"] = found[1]
    return results, rows, made


def judge_confidence(
    rotator: Rotator, faces: PosedSet, folder: epath.Path, *, seed: int = 0
) -> tuple[dict[str, float], dict[str, Array]]:
    """Returns whether confidence knows bad images, and rank-1 of templates by draw.

    Every image is spoilt to a level of `LEVELS` at random. confidence/spearman with the
    level; fusion/rank1:mean@n=1 to 6 and :confidence, templates against a gallery of
    unspoilt frontal images, and gain@n=, the latter less the former, with its deviation
    over draws gain_std@n=. Draws confidence against quality, pose and light, and the
    templates.
    """
    bad, levels = degrade(faces.images, seed)
    features, trusted = rotator.encode(bad)
    clean, confidence = rotator.encode(faces.images)
    held = identification.gallery(
        faces.label, faces.yaw, faces.light, faces.session, neutral=faces.neutral
    )
    probing = np.setdiff1d(np.arange(len(faces.label)), held)
    results = {"confidence/spearman": quality.rank_correlation(trusted, levels)}
    least, tables = np.unique(faces.label[probing], return_counts=True)[1].min(), {}
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
        gain = tables["confidence"] - tables["mean"]
        for number in range(len(gain)):
            for name, shares in tables.items():
                mean = float(shares[number].mean())
                results[f"fusion/rank1:{name}@n={number + 1}"] = mean
            results[f"fusion/gain@n={number + 1}"] = float(gain[number].mean())
            results[f"fusion/gain_std@n={number + 1}"] = float(gain[number].std())
        rotation.number_of_images(tables, folder / "number_of_images.png")
    panels = {"yaw": _means(faces.yaw, confidence)}
    if (faces.light >= 0).any():
        panels["light"] = _means(
            np.where(faces.light < 0, np.nan, faces.light), confidence
        )
    rotation.confidence(
        panels, folder / "confidence.png", quality=levels, trusted=trusted
    )
    return results, tables


def judge_known(
    rotator: Rotator, discriminator: Embedder, faces: PosedSet, path: epath.Path
) -> dict[str, float]:
    """Returns how confidence goes with the discriminator's trust in who it is.

    confidence/spearman_known, with the probability of the true identity among all that
    it was trained on; draws one against the other, image by image, spoilt as in
    `judge_confidence`.

    Args:
      discriminator: of the same training.
      faces: of people it knows; their labels are its classes.
    """
    bad, levels = degrade(faces.images)
    _, trusted = rotator.encode(bad)
    scale = (
        _COSINE_SCALE if discriminator.network.options.get("cosine_identity") else 1.0
    )

    @functools.partial(jax.jit, compiler_options=cpu.compiler_options())
    def true_share(variables, images, label):
        found: Any = discriminator.apply(variables, {"image": images})
        shares = jax.nn.softmax(scale * found["embedding"]["identity"])
        return jnp.take_along_axis(shares, label[:, None], axis=1)[:, 0]

    size, variables = discriminator.batch_size, discriminator.variables
    count = -(-len(bad) // size) * size
    rows = np.arange(count).reshape(-1, size) % len(bad)
    parts = [true_share(variables, bad[some], faces.label[some]) for some in rows]
    shares = np.concatenate(parts)[: len(bad)]
    rotation.known(shares, trusted, levels, path)
    return {"confidence/spearman_known": quality.rank_correlation(trusted, shares)}


def degrade(images: Array, seed: int = 0) -> tuple[Array, Array]:
    """Returns images of fewer pixels, brought back to their size, and their levels."""
    levels = np.random.default_rng(seed).choice(LEVELS, len(images))
    out, side = np.array(images), images.shape[1]
    for row in np.flatnonzero(levels < 1):  # one by one: a program for each level
        fewer = max(round(levels[row] * side), 2)
        small = resize(jnp.asarray(images[row][None]), fewer)
        out[row] = np.clip(np.round(resize(small, side)), 0, 255)[0]
    return out, levels


def classes_of(rotator: Rotator, yaws: Array) -> Array:
    """Returns the number of the nearest of a generator's angles; -1 for a NaN.

    Of |yaw| where left and right are one pose to it.
    """
    turned = np.abs(yaws) if rotator.unsigned else np.asarray(yaws)
    away = np.abs(turned[:, None] - np.asarray(rotator.angles)[None])
    nearest = np.nan_to_num(away, nan=np.inf).argmin(axis=1)
    return np.where(np.isnan(yaws), -1, nearest)


def _means(values: Array, confidence: Array) -> dict[float, float]:
    there = np.unique(values[np.isfinite(values)])
    return {float(v): float(confidence[values == v].mean()) for v in there}
