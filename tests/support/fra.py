"""Stubs of FRA's tests: embeddings of known factors, an embedder, an augmenter."""

import numpy as np

from data_pipelines.readers import Face
from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.faces.landmark_maps import SIZE
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.fra import nearness, stored
from fr_jax.systems.fra.evaluation import Samples
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables

PERSONS, POSES, EXPRESSIONS, D = 8, 3, 2, 24
RNG = np.random.default_rng(0)
OF_PERSON = RNG.normal(0, 1.0, (PERSONS, D))
OF_POSE = RNG.normal(0, 1.5, (POSES, D))
OF_EXPRESSION = RNG.normal(0, 1.0, (EXPRESSIONS, D))


def factors(repeats: int = 2, sessions: bool = True, frontal: bool = True) -> Samples:
    """Embeddings that are the sum of person, pose, expression and noise.

    With `frontal` the last persons have only frontal images in their first session: a
    classifier never sees these persons in another pose.
    """
    grid = np.indices((PERSONS, POSES, EXPRESSIONS, 2, repeats)).reshape(5, -1)
    person, pose, expression, session, _ = grid
    if frontal:
        lacking = (person >= 2) & (session == 0) & (pose != 1)
        person, pose, expression, session = grid[:4, ~lacking]
    rng = np.random.default_rng(1)
    rows = OF_PERSON[person] + OF_POSE[pose] + OF_EXPRESSION[expression]
    rows = rows + rng.normal(0, 0.5, rows.shape)
    maps = np.zeros((len(person), SIZE, SIZE, 1), np.uint8)
    maps[np.arange(len(person)), pose, expression] = 1
    return Samples(
        rows.astype(np.float32),
        maps,
        {"identity": person, "pose": pose, "expression": expression},
        session if sessions else np.full(len(person), -1),
        {
            "identity": [f"p{n}" for n in range(PERSONS)],
            "pose": ["-45", "0", "45"],
            "expression": ["happy", "sad"],
        },
    )


def turned(samples: Samples, given, picture):
    """A perfect augmenter: the pose of the input is replaced by that of the map."""
    pose = samples.labels["pose"]
    return samples.embedding[given] + (OF_POSE[pose[picture]] - OF_POSE[pose[given]])


def shuffled(samples: Samples, given, picture):
    """A control: embeddings in the target poses, of other persons."""
    return turned(samples, np.random.default_rng(2).permutation(given), picture)


def fitted_maps(samples: Samples) -> nearness.LinearMaps:
    tuples = nearness.pairs(samples, limit=100_000)
    return nearness.fit(
        samples.embedding[tuples.input],
        samples.embedding[tuples.target],
        samples.labels["pose"][tuples.target],
        samples.labels["identity"][tuples.target],
        samples.names["pose"],
        "an embedder",
    )


# --- networks ----------------------------------------------------------------------

TINY = {"width": 0.0625, "inner_size": 32, "patch": 4}
TINY |= {"vit_width": 8, "vit_depth": 2, "vit_heads": 2}


class Stub:
    """An embedder whose embedding of an image is its first D pixels."""

    def __init__(self, weight: float = 1.0, size: int = D):
        weights = {"w": np.full(3, weight, np.float32)}
        options = {"embedding_size": size}
        self.network = Network("mobilefacenet", options, weights, InputSpec())

    def embed(self, images, normalize=True):
        assert not normalize
        return np.asarray(images)[:, 0, :, 0].astype(np.float32)[:, :D]


def network(embedder=None, **options) -> Embedder:
    """An untrained augmenter, that states its embedder if one is given."""
    options = {"embedding_size": D, **TINY, **options}
    model = models.create("fra", **options)
    spec = InputSpec(size=SIZE)
    variables = random_variables(model, spec)
    provenance = {"embedder": stored.identity(embedder)} if embedder else {}
    return Embedder(Network("fra", options, variables, spec, "augmenter"), provenance)


# --- records ------------------------------------------------------------------------

RECORD_SIZE = 20
RECORD_PERSONS, RECORD_EXPRESSIONS = 7, ("happy", "sad")
RECORD_YAWS = (-45.0, 0.0, 45.0)


def points(number: int) -> np.ndarray:
    """Returns landmarks by which a picture tells its image."""
    rng = np.random.default_rng(number)
    return rng.uniform(4, 16, (68, 2)).astype(np.float32)


def some_faces():
    """Seven persons, two sessions of 2 x 3 images; p5 has one expression and yaw."""
    number = 0
    for label in range(RECORD_PERSONS):
        for session in range(2):
            for expression in RECORD_EXPRESSIONS:
                for yaw in RECORD_YAWS:
                    number += 1
                    if label == 5 and (expression, yaw) != ("sad", 0):
                        continue
                    yield Face(
                        encoded(".png", picture(RECORD_SIZE, RECORD_SIZE, seed=number)),
                        label,
                        f"p{label}",
                        f"p{label}/{number}.png",
                        yaw=yaw + 2,
                        pitch=1.5,
                        expression=expression,
                        session=session,
                        landmarks68=points(number),
                    )


def lacking():
    """The same faces; the first lack something each."""
    for number, face in enumerate(some_faces()):
        changes: dict = {
            0: {"label": -1, "identity": ""},
            1: {"yaw": np.nan},
            2: {"expression": ""},
            3: {"landmarks68": np.zeros((0, 2), np.float32)},
            4: {"landmarks68": np.full((68, 2), np.nan, np.float32)},
        }.get(number, {})
        yield face._replace(**changes)


class FivePixels:
    """An embedder whose embedding of an image is its first five pixels."""

    def __init__(self, weight: float = 1.0, **spec):
        weights = {"w": np.full(3, weight, np.float32)}
        self.network = Network("mobilefacenet", {}, weights, InputSpec(**spec))
        self.weight, self.calls = weight, 0
        self.provenance, self.digests = {}, None

    def embed_raw(self, images, progress=""):
        parts = [images[start : start + 7] for start in range(0, len(images), 7)]
        self.calls += len(images)
        pixels = np.concatenate(parts)[:, 0, :5, 0]
        return {"embedding": self.weight * pixels.astype(np.float32)}


class Regressor:
    """Finds the centre of brightness of a crop, and a ring of points around it."""

    def __init__(self, radius: float = 20.0, kind: str = "landmarks"):
        weights = {"w": np.float32([radius])}
        self.network = Network("landmark_regressor", {}, weights, InputSpec(), kind)
        angles = np.linspace(0, 2 * np.pi, 68, endpoint=False)
        self.ring = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.calls: list[np.ndarray] = []
        self.provenance, self.digests = {}, None

    def points(self, images):
        self.calls.append(images)
        weight = images.astype(np.float64).sum(axis=3) + 1e-3
        weight = weight / weight.sum(axis=(1, 2), keepdims=True)
        x = (weight.sum(axis=1) * np.arange(images.shape[2])).sum(axis=1)
        y = (weight.sum(axis=2) * np.arange(images.shape[1])).sum(axis=1)
        return (np.stack([x, y], axis=1)[:, None] + self.ring).astype(np.float32)
