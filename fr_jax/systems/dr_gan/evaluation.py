"""A generator evaluated: its poses, the identities in its images, its features.

The measures are independent of it: a classifier of poses that is trained on pictures, a
recogniser that was trained elsewhere, linear probes of features.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fr_jax.backend import cpu
from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import generation, identification, probes, quality
from fr_jax.metrics.verification import l2_normalize
from fr_jax.report import rotation
from fr_jax.systems.dr_gan import figures
from fr_jax.systems.dr_gan.posed_sets import PosedSet, degrade
from fr_jax.systems.dr_gan.rotator import Rotator

Array = np.ndarray
MOST = 6  # images that are fused, where that is scored
_COSINE_SCALE = 30.0  # of an identity head of cosines, as the authors train it
_BY_RECOGNISER = ("recogniser", "recogniser_turned")
Embed = Callable[[Array], Array]
GRADIENTS: tuple[str, Embed] = ("gradients", probes.gradient_histograms)


@dataclasses.dataclass(eq=False)
class GeneratorEvaluator:
    """Evaluates the generator among a run's networks; see the functions below.

    Args:
      faces: unseen identities in several poses.
      for_poses: other faces, to train a pose classifier on; None leaves it out.
      recogniser: images -> embeddings, of a recogniser of its own.
      features: a name, and images -> features, for the distance between image sets.
      seen: identities of the training set, labelled as the discriminator's classes.
      num_inputs: faces that are rotated.

    Attributes:
      rotated: (rows, images [n, A, S, S, 3]) of the last evaluation.
      tables: rank-1 by number of fused images, of the last evaluation.
    """

    faces: PosedSet
    for_poses: PosedSet | None = None
    _: dataclasses.KW_ONLY
    recogniser: Embed | None = None
    features: tuple[str, Embed] = GRADIENTS
    seen: PosedSet | None = None
    num_inputs: int = 200
    rotated: tuple[Array, Array] | None = dataclasses.field(default=None, init=False)
    tables: dict[str, Array] = dataclasses.field(default_factory=dict, init=False)
    _drawings: list[Callable] = dataclasses.field(default_factory=list, init=False)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that do not depend on the generator's angles."""
        names = ["identification/rank1", "identification/rank1:turned"]
        names += ["confidence/spearman", f"rotation/kid:{self.features[0]}"]
        if self.for_poses is not None:
            names += ["rotation/pose_accuracy", "rotation/pose_accuracy_true"]
        if self.recogniser is not None:
            names += [f"identification/rank1:{n}" for n in _BY_RECOGNISER]
            names += [f"rotation/identity_{n}" for n in ("cosine", "cosine_impostor")]
            names.append("rotation/identity_auc")
        return names

    def __call__(self, trained: Trained) -> dict[str, float]:
        """Returns all results."""
        rotator, faces = Rotator(trained.networks["generator"]), self.faces
        classify = None
        if self.for_poses is not None:
            classify = pose_classifier(rotator, self.for_poses)
        results = evaluate_features(rotator, faces, self.recogniser)
        found, rows, images = evaluate_images(
            rotator,
            faces,
            classify=classify,
            embed=self.recogniser,
            features=self.features,
            inputs=self.num_inputs,
        )
        self.rotated = rows, images
        known, self.tables, draw = evaluate_confidence(rotator, faces)
        self._drawings = [draw, functools.partial(figures.draw, rotator, faces)]
        if self.seen is not None and "discriminator" in trained.networks:
            discriminator = trained.networks["discriminator"]
            more, draw = evaluate_seen(rotator, discriminator, self.seen)
            known |= more
            self._drawings.append(draw)
        return results | found | known

    def draw(self, folder: epath.Path) -> list[epath.Path]:
        """Draws the figures of the last evaluation; returns their paths."""
        return [path for drawing in self._drawings for path in drawing(folder)]


def pose_classifier(rotator: Rotator, faces: PosedSet) -> Callable[[Array], Array]:
    """Returns a classifier of the generator's poses, trained on pictures."""
    pose = rotator.pose(faces.yaw)
    seen, pose = rotator.seen(faces.images[pose >= 0]), pose[pose >= 0]
    # Poses, not sharpness: from degraded images too.
    degraded, _ = degrade(seen)
    return probes.PictureClassifier(np.concatenate([seen, degraded]), np.tile(pose, 2))


def evaluate_features(
    rotator: Rotator, faces: PosedSet, embed: Embed | None = None
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
    held = _gallery(faces)
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
    pose = rotator.pose(faces.yaw[known])
    whose, rows = faces.label[known], features[known]
    if len(np.unique(whose)) >= 5 and len(np.unique(pose)) > 1:
        results["leakage/pose"] = probes.leakage(rows, pose, whose)
        results["leakage/pose_chance"] = float(np.bincount(pose).max() / len(pose))
    if np.unique(whose, return_counts=True)[1].min() >= 5:
        results["leakage/identity"] = probes.leakage(rows, whose)
    return results


def evaluate_images(
    rotator: Rotator,
    faces: PosedSet,
    *,
    classify: Embed | None = None,
    embed: Embed | None = None,
    features: tuple[str, Embed] = GRADIENTS,
    inputs: int = 200,
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
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(faces.images))[:inputs])
    true = rotator.seen(faces.images)
    lights = rotator.places(faces.light[rows])
    made = rotator.rotate(faces.images[rows], light=lights)
    flat = made.reshape(-1, *made.shape[2:])
    wanted = np.tile(np.arange(made.shape[1]), len(rows))
    pose = rotator.pose(faces.yaw)
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
        given, whose = embed(true[rows]), faces.label[rows]
        turned = embed(flat).reshape(*made.shape[:2], -1)
        kept = generation.identity_preservation(given, whose, turned)
        results |= {f"rotation/identity_{name}": value for name, value in kept.items()}
        if 1 < len(np.unique(whose)) < len(whose):
            auc = generation.pairwise_auc(given, whose)
            results["rotation/identity_auc_true"] = auc
        given, turned = l2_normalize(given), l2_normalize(turned)
        by_angle("rotation/identity_cosine", np.einsum("nf,naf->na", given, turned))
    name, describe = features
    # [poses that there are, images]: as many of each, for made ones have as many.
    of_pose = [np.flatnonzero(pose == n) for n in np.unique(pose[pose >= 0])]
    least = min(map(len, of_pose))
    alike = np.stack([rng.permutation(some)[:least] for some in of_pose])
    of_true = describe(true[alike.ravel()]).reshape(*alike.shape, -1)
    of_made = describe(flat[np.isin(wanted, pose[alike[:, 0]])])
    distance, deviation = generation.kernel_distance(_flat(of_true), of_made)
    results[f"rotation/kid:{name}"] = distance
    results[f"rotation/kid_std:{name}"] = deviation
    halves = of_true[:, : least // 2], of_true[:, least // 2 :]
    if alike[:, : least // 2].size > 1:
        distance, _ = generation.kernel_distance(*map(_flat, halves))
        results[f"rotation/kid_true:{name}"] = distance
    return results, rows, made


def evaluate_confidence(
    rotator: Rotator, faces: PosedSet
) -> tuple[dict[str, float], dict[str, Array], Callable]:
    """Returns how confidence goes with quality, rank-1 of templates, and a drawing.

    Every image is degraded to a level of `posed_sets.LEVELS` at random.
    confidence/spearman with
    the level; fusion/rank1:mean@n=1 to 6 and :confidence, templates against a gallery
    of frontal images as they are, and gain@n=, the latter less the former, with its
    deviation over draws gain_std@n=. The drawing shows confidence against quality, pose
    and light, and the templates.
    """
    degraded, levels = degrade(faces.images)
    features, trusted = rotator.encode(degraded)
    clean, confidence = rotator.encode(faces.images)
    held = _gallery(faces)
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
        )
        gain = tables["confidence"] - tables["mean"]
        for n, gained in enumerate(gain, 1):
            for name, shares in tables.items():
                results[f"fusion/rank1:{name}@n={n}"] = float(shares[n - 1].mean())
            results[f"fusion/gain@n={n}"] = float(gained.mean())
            results[f"fusion/gain_std@n={n}"] = float(gained.std())
    panels = {"yaw": _means(faces.yaw, confidence)}
    if (faces.light >= 0).any():
        light = np.where(faces.light < 0, np.nan, faces.light)
        panels["light"] = _means(light, confidence)

    def draw(folder: epath.Path) -> list[epath.Path]:
        paths = [folder / "confidence.png"]
        rotation.confidence(panels, paths[0], quality=levels, trusted=trusted)
        if tables:
            paths.append(folder / "number_of_images.png")
            rotation.number_of_images(tables, paths[1])
        return paths

    return results, tables, draw


def evaluate_seen(
    rotator: Rotator, discriminator: Embedder, faces: PosedSet
) -> tuple[dict[str, float], Callable]:
    """Returns how confidence goes with the discriminator's, and a drawing of both.

    confidence/spearman_known, with the probability of the true identity among all that
    it was trained on, image by image, degraded as in `evaluate_confidence`.

    Args:
      discriminator: of the same training.
      faces: of identities it was trained on; their labels are its classes.
    """
    degraded, levels = degrade(faces.images)
    _, trusted = rotator.encode(degraded)
    cosines = discriminator.network.options.get("cosine_identity")
    scale = _COSINE_SCALE if cosines else 1.0

    @functools.partial(jax.jit, compiler_options=cpu.compiler_options())
    def true_share(variables, images, label):
        found: Any = discriminator.apply(variables, {"image": images})
        shares = jax.nn.softmax(scale * found["embedding"]["identity"])
        return jnp.take_along_axis(shares, label[:, None], axis=1)[:, 0]

    size, variables = discriminator.batch_size, discriminator.variables
    count = -(-len(degraded) // size) * size
    rows = np.arange(count).reshape(-1, size) % len(degraded)
    parts = [true_share(variables, degraded[r], faces.label[r]) for r in rows]
    shares = np.concatenate(parts)[: len(degraded)]

    def draw(folder: epath.Path) -> list[epath.Path]:
        path = folder / "confidence_known.png"
        rotation.known(shares, trusted, levels, path)
        return [path]

    found = quality.rank_correlation(trusted, shares)
    return {"confidence/spearman_known": found}, draw


def _flat(rows: Array) -> Array:
    return rows.reshape(-1, rows.shape[-1])


def _gallery(faces: PosedSet) -> Array:
    return identification.gallery(
        faces.label, faces.yaw, faces.light, faces.session, neutral=faces.neutral
    )


def _means(values: Array, confidence: Array) -> dict[float, float]:
    there = np.unique(values[np.isfinite(values)])
    return {float(v): float(confidence[values == v].mean()) for v in there}


def number_of_images(tables: Mapping[str, Array]) -> dict[str, Any]:
    """Returns for each row its rank1 by number of images, and its gain over the others.

    Both with the deviation over draws, of the difference of the same draw for gains:
    {name: {rank1: [n], rank1_std: [n], gain: {name of an earlier row: {mean, std}}}}.

    Args:
      tables: name -> rank-1 [n, draws] of the same images.
    """

    def over_draws(values):
        return {
            "mean": values.mean(axis=1).tolist(),
            "std": values.std(axis=1).tolist(),
        }

    found: dict[str, Any] = {}
    for name, shares in tables.items():
        gains = {other: over_draws(shares - tables[other]) for other in found}
        mean, std = over_draws(shares).values()
        found[name] = {"rank1": mean, "rank1_std": std, "gain": gains}
    return found
