"""Evaluation of a generator: poses and identities of its images, and its features.

The measures do not depend on the generator: a pose classifier trained on images, a
separately trained recogniser, linear probes of features.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import einops
import jax
import numpy as np
from etils import epath

from fr_jax.embedder import Embedder
from fr_jax.embedder.batched import BatchedEmbed
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.resampled import of_statistics
from fr_jax.metrics import generation, identification, intervals, probes
from fr_jax.metrics import image_statistics as of_images
from fr_jax.metrics.image_statistics import Statistic
from fr_jax.report import rotation
from fr_jax.report.measures import with_end
from fr_jax.systems.dr_gan import figures
from fr_jax.systems.dr_gan.posed_sets import PosedSet, degrade
from fr_jax.systems.dr_gan.rotator import Rotator

Array = np.ndarray
MAX_FUSED = 6  # images of an identity
_COSINE_SCALE = 30.0  # of cosine logits, as in `presets.authors_2018`
_BY_RECOGNISER = ("recogniser", "recogniser_frontalised")
Embed = Callable[[Array], Array]
GRADIENTS: tuple[str, Embed] = ("gradients", probes.gradient_histograms)


@dataclasses.dataclass(eq=False)
class GeneratorEvaluator:
    """Evaluates the generator of a run's networks.

    Args:
      faces: unseen identities in several poses.
      for_poses: other faces, to train a pose classifier on; None: no pose accuracy.
      recogniser: uint8 images of the generator's input size -> embeddings, of a
        separately trained recogniser.
      features: a name, and images -> features, for the distance between image sets;
        distances of different features are not comparable. The command's default is
        the recogniser; without one, gradients.
      seen: identities of the training set, labelled as the discriminator's classes.
      num_inputs: maximum number of faces to rotate.

    Attributes:
      rotated: (rows [n], images [n, A, S, S, 3]) of the last evaluation.
      tables: rank-1 [n, draws] by number of fused images, of the last evaluation.
      statistics: its results by key, as functions of draws of the identities.
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
    statistics: dict[str, Statistic] = dataclasses.field(
        default_factory=dict, init=False
    )
    _of_seen: dict[str, Statistic] = dataclasses.field(default_factory=dict, init=False)
    _frechet: list[str] = dataclasses.field(default_factory=list, init=False)
    _drawings: dict[str, Callable] = dataclasses.field(default_factory=dict, init=False)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that do not depend on the generator's angles."""
        names = ["identification/rank1", "identification/rank1:frontalised"]
        names += ["confidence/spearman"]
        names += [f"rotation/{n}:{self.features[0]}" for n in ("kid", "fid")]
        if self.for_poses is not None:
            names += ["rotation/pose_accuracy", "rotation/pose_accuracy_real"]
        if self.recogniser is not None:
            names += [f"identification/rank1:{n}" for n in _BY_RECOGNISER]
            names += [f"rotation/identity_{n}" for n in ("cosine", "cosine_impostor")]
            names.append("rotation/identity_auc")
        return names

    def __call__(self, trained: Trained) -> dict[str, float]:
        """Returns all results."""
        rotator = Rotator(trained.networks["generator"])
        self._drawings, self.statistics, self._of_seen = {}, {}, {}
        self._draw_faces = functools.partial(figures.draw, rotator, self.faces)
        results = self.evaluate_features(rotator)
        results |= self.evaluate_images(rotator)
        results |= self.evaluate_confidence(rotator)
        if self.seen is not None and "discriminator" in trained.networks:
            discriminator = trained.networks["discriminator"]
            results |= self.evaluate_seen(rotator, discriminator, self.seen)
        self._frechet = [key for key in results if key.startswith("rotation/fid")]
        return results

    def intervals(
        self, resamples: int | None = None, *, progress: str = ""
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Returns bootstrap bounds of the last evaluation by result key, and notes.

        Identities are resampled; generated images, galleries and probes stay as they
        are. The Frechet distances have no bounds, and notes say so.

        Args:
          resamples: default: 1,000.
          progress: label of a progress bar; '': none.
        """
        resamples = intervals.RESAMPLES if resamples is None else resamples
        bounds, notes = {}, {}
        for statistics, faces in (
            (self.statistics, self.faces),
            (self._of_seen, self.seen),
        ):
            if statistics and faces is not None:
                found = of_statistics(
                    statistics, faces.label, resamples, progress=progress
                )
                bounds, notes = bounds | found[0], notes | found[1]
        if bounds:
            bounds["rotation/resamples"] = float(resamples)
            count = len(np.unique(self.faces.label))
            bounds["rotation/resampled_identities"] = float(count)
            for key in self._frechet:
                reason = "no interval: copies of images would bias the distance"
                notes[with_end(key, "_low")] = reason
        return bounds, notes

    def _values(self, statistics: Mapping[str, Statistic]) -> dict[str, float]:
        """Returns the values of statistics, and keeps these for `intervals`."""
        self.statistics |= statistics
        return {key: statistic(None) for key, statistic in statistics.items()}

    def draw(self, folder: epath.Path) -> list[epath.Path]:
        """Draws the figures of the last evaluation; returns their paths."""
        paths = {name: folder / f"{name}.png" for name in self._drawings}
        for name, path in paths.items():
            self._drawings[name](path=path)
        return [*paths.values(), *self._draw_faces(folder)]

    def evaluate_features(self, rotator: Rotator) -> dict[str, float]:
        """Returns rank-1 identification, and accuracies of linear probes of features.

        identification/rank1 over all probes, and rank1@yaw=A for |yaw| = A;
        rank1:frontalised of probes rotated to frontal and encoded again, against the
        same gallery; both by the recogniser, rank1:recogniser and
        :recogniser_frontalised.
        leakage/pose and /identity with /pose_chance, of images with known yaw.
        """
        faces, embed = self.faces, self.recogniser
        features, _ = rotator.encode(faces.images)
        has_yaw = np.isfinite(faces.yaw)
        gallery_rows = _gallery(faces)
        probe_rows = np.setdiff1d(np.flatnonzero(has_yaw), gallery_rows)
        frontal = min(rotator.angles, key=abs)
        lights = rotator.light_indices(faces.light[probe_rows])
        rotated = rotator.rotate_features(features[probe_rows], [frontal], lights)[:, 0]
        pairs = {
            "": (features[probe_rows], features[gallery_rows]),
            ":frontalised": (
                rotator.encode(rotated, crop=False)[0],
                features[gallery_rows],
            ),
        }
        if embed is not None:
            of_gallery = embed(rotator.crop(faces.images[gallery_rows]))
            of_probes = embed(rotator.crop(faces.images[probe_rows]))
            pairs[":recogniser"] = of_probes, of_gallery
            pairs[":recogniser_frontalised"] = embed(rotated), of_gallery
        statistics = {}
        for name, (queries, gallery) in pairs.items():
            labels, key = faces.label[probe_rows], f"identification/rank1{name}"
            hits = identification.rank_one(
                queries, labels, gallery, faces.label[gallery_rows]
            )
            statistics[key] = of_images.mean(hits, labels)
            for angle, rows in identification.by_yaw(faces.yaw[probe_rows]).items():
                mean = of_images.mean(hits[rows], labels[rows])
                statistics[f"{key}@yaw={angle}"] = mean
        pose, labels = rotator.pose(faces.yaw[has_yaw]), faces.label[has_yaw]
        identities, counts = np.unique(labels, return_counts=True)
        if len(identities) >= 5 and len(np.unique(pose)) > 1:
            hits = probes.leakage(features[has_yaw], pose, labels)
            statistics["leakage/pose"] = of_images.mean(hits, labels)
            chance = of_images.largest_share(pose, labels)
            statistics["leakage/pose_chance"] = chance
        if counts.min() >= 5:
            hits = probes.leakage(features[has_yaw], labels)
            statistics["leakage/identity"] = of_images.mean(hits, labels)
        return self._values(statistics)

    def evaluate_images(self, rotator: Rotator) -> dict[str, float]:
        """Returns pose accuracy, preserved identity and kernel distance of images.

        Faces keep their light if it is a target. rotation/pose_accuracy, also @yaw, and
        pose_accuracy_real of real images, pose_error_degrees between the classified and
        the target pose, also _real; identity_cosine, also @yaw, _impostor and
        identity_auc, and identity_auc_real between the inputs themselves; kid:FEATURES
        between equally many real images per pose and generated images of these poses,
        its deviation kid_std:, and kid_real: between two halves of the real images;
        fid:FEATURES between as many real as generated images, with fid_real:.
        """
        faces, rng = self.faces, np.random.default_rng(0)
        rows = np.sort(rng.permutation(len(faces.label))[: self.num_inputs])
        real = rotator.crop(faces.images)
        lights = rotator.light_indices(faces.light[rows])
        rotated = rotator.rotate(faces.images[rows], light=lights)
        self.rotated = rows, rotated
        fake = einops.rearrange(rotated, "n a ... -> (n a) ...")
        target = np.tile(np.arange(rotated.shape[1]), len(rows))
        pose = rotator.pose(faces.yaw)
        labels, count = faces.label[rows], rotated.shape[1]
        of_fake = labels.repeat(count)  # the identities of generated images
        statistics: dict[str, Statistic] = {}

        def add(name, values):
            """Adds the mean of values [n, A] of generated images, and by angle."""
            statistics[f"rotation/{name}"] = of_images.mean(values, labels)
            for number, angle in enumerate(rotator.angles):
                mean = of_images.mean(values[:, number], labels)
                statistics[f"rotation/{name}@yaw={angle:g}"] = mean

        if self.for_poses is not None:
            classify = pose_classifier(rotator, self.for_poses)
            of_pose = pose >= 0
            classified, of_real = classify(fake), classify(real[of_pose])
            add("pose_accuracy", (classified == target).reshape(-1, count))
            statistics["rotation/pose_accuracy_real"] = of_images.mean(
                of_real == pose[of_pose], faces.label[of_pose]
            )
            for end, guess, truth, whose in (
                ("", classified, target, of_fake),
                ("_real", of_real, pose[of_pose], faces.label[of_pose]),
            ):
                if rotator.has_angles:
                    yaws, truth = np.array(rotator.angles)[[guess, truth]]
                    errors = generation.pose_errors(yaws, truth)
                    mean = of_images.mean(errors, whose)
                    statistics[f"rotation/pose_error_degrees{end}"] = mean
        if self.recogniser is not None:
            of_inputs = self.recogniser(real[rows])
            of_fakes = self.recogniser(fake).reshape(-1, count, of_inputs.shape[1])
            pairs = generation.pairs_with_inputs(of_inputs, labels, of_fakes)
            add("identity_cosine", pairs.scores[pairs.same].reshape(-1, count))
            scores, _, *identities = (column[~pairs.same] for column in pairs)
            mean = of_images.mean_of_pairs(scores, *identities)
            statistics["rotation/identity_cosine_impostor"] = mean
            area = of_images.area_under_roc(*pairs)
            statistics["rotation/identity_auc"] = area
            if 1 < len(np.unique(labels)) < len(labels):
                pairs = generation.pairs_of_images(of_inputs, labels)
                area = of_images.area_under_roc(*pairs)
                statistics["rotation/identity_auc_real"] = area
        name, describe = self.features
        # Equally many real images per pose [poses, images], as of generated ones.
        by_pose = [np.flatnonzero(pose == n) for n in np.unique(pose[pose >= 0])]
        count = min(map(len, by_pose))
        balanced = np.stack([rng.permutation(some)[:count] for some in by_pose])
        of_real, whose_real = describe(real[balanced.ravel()]), faces.label[balanced]
        whose_real, chosen = whose_real.ravel(), np.isin(target, pose[balanced[:, 0]])
        of_fakes = describe(fake[chosen])
        distance, deviation = generation.kernel_distance(of_real, of_fakes)
        statistics[f"rotation/kid:{name}"] = of_images.kernel_distance(
            distance, of_real, whose_real, of_fakes, of_fake[chosen]
        )
        results = {f"rotation/kid_std:{name}": deviation}
        # The Frechet distance is biased by the number of images, which is made equal.
        size = min(len(of_real), len(of_fakes))
        some, others = (rng.permutation(x)[:size] for x in (of_real, of_fakes))
        results[f"rotation/fid:{name}"] = generation.frechet_distance(some, others)
        first = np.tile(np.arange(count) < count // 2, len(balanced))
        if first.sum() > 1:
            distance, _ = generation.kernel_distance(of_real[first], of_real[~first])
            statistics[f"rotation/kid_real:{name}"] = of_images.kernel_distance(
                *(distance, of_real[first], whose_real[first]),
                *(of_real[~first], whose_real[~first]),
            )
            distance = generation.frechet_distance(of_real[first], of_real[~first])
            results[f"rotation/fid_real:{name}"] = distance
        return results | self._values(statistics)

    def evaluate_confidence(self, rotator: Rotator) -> dict[str, float]:
        """Returns correlation of confidence and quality, and rank-1 of fused images.

        Every image is degraded to a random level of `posed_sets.LEVELS`.
        confidence/spearman: correlation with the level. fusion/rank1:mean@n=1 to 6 and
        :confidence: templates of n degraded images against a gallery of original
        frontal images. gain@n=: confidence minus mean, with its deviation over draws,
        gain_std@n=.
        """
        faces = self.faces
        degraded, levels = degrade(faces.images)
        features, trusted = rotator.encode(degraded)
        clean, confidence = rotator.encode(faces.images)
        gallery_rows = _gallery(faces)
        probe_rows = np.setdiff1d(np.arange(len(faces.label)), gallery_rows)
        statistics: dict[str, Statistic] = {
            "confidence/spearman": of_images.rank_correlation(
                trusted, levels, faces.label
            )
        }
        results, tables, labels = {}, {}, faces.label[probe_rows]
        count = np.unique(labels, return_counts=True)[1].min()
        if count >= 2:
            hits = identification.number_of_images(
                features[probe_rows],
                trusted[probe_rows],
                labels,
                clean[gallery_rows],
                faces.label[gallery_rows],
                most=min(MAX_FUSED, count),
            )
            gains = hits["confidence"].astype(float) - hits["mean"]
            identities = np.unique(labels)
            for n, gain in enumerate(gains, 1):  # [draws, identities]
                for name, shares in hits.items():
                    mean = of_images.mean(shares[n - 1].T, identities)
                    statistics[f"fusion/rank1:{name}@n={n}"] = mean
                mean = of_images.mean(gain.T, identities)
                statistics[f"fusion/gain@n={n}"] = mean
                results[f"fusion/gain_std@n={n}"] = float(gain.mean(axis=1).std())
            tables = {name: shares.mean(axis=2) for name, shares in hits.items()}
        panels = {"yaw": _means(faces.yaw, confidence)}
        if (faces.light >= 0).any():
            light = np.where(faces.light < 0, np.nan, faces.light)
            panels["light"] = _means(light, confidence)
        self.tables = tables
        self._drawings["confidence"] = functools.partial(
            rotation.confidence, panels, quality=levels, trusted=trusted
        )
        if tables:
            draw = functools.partial(rotation.number_of_images, tables)
            self._drawings["number_of_images"] = draw
        return results | self._values(statistics)

    def evaluate_seen(
        self, rotator: Rotator, discriminator: Embedder, seen: PosedSet
    ) -> dict[str, float]:
        """Returns the correlation of confidence with the discriminator's, on `seen`.

        confidence/spearman_known: with the probability of the true identity among all
        training identities, of images degraded as in `evaluate_confidence`.

        Args:
          discriminator: from the same training.
        """
        degraded, levels = degrade(seen.images)
        _, trusted = rotator.encode(degraded)
        cosines = discriminator.network.options.get("cosine_identity")
        scale = _COSINE_SCALE if cosines else 1.0

        def probabilities(variables, batch):
            logits: Any = discriminator.apply(variables, batch)["embedding"]
            return {"embedding": jax.nn.softmax(scale * logits["identity"])}

        embed = BatchedEmbed(probabilities, discriminator.batch_size)
        of_classes = embed(discriminator.variables, degraded)["embedding"]
        shares = of_classes[np.arange(len(degraded)), seen.label]
        draw = functools.partial(rotation.known, shares, trusted, levels)
        self._drawings["confidence_known"] = draw
        correlation = of_images.rank_correlation(trusted, shares, seen.label)
        self._of_seen = {"confidence/spearman_known": correlation}
        return {"confidence/spearman_known": correlation(None)}


def pose_classifier(rotator: Rotator, faces: PosedSet) -> Callable[[Array], Array]:
    """Returns a classifier of the generator's poses, trained on images."""
    pose = rotator.pose(faces.yaw)
    images, pose = rotator.crop(faces.images[pose >= 0]), pose[pose >= 0]
    # Degraded images too, so that accuracy does not depend on sharpness.
    degraded, _ = degrade(images)
    images = np.concatenate([images, degraded])
    return probes.PictureClassifier(images, np.tile(pose, 2))


def _gallery(faces: PosedSet) -> Array:
    return identification.gallery(
        faces.label, faces.yaw, faces.light, faces.session, neutral=faces.neutral
    )


def _means(values: Array, confidence: Array) -> dict[float, float]:
    """Returns the mean confidence of each finite value."""
    finite = np.unique(values[np.isfinite(values)])
    return {float(v): float(confidence[values == v].mean()) for v in finite}
