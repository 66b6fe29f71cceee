"""Whether generated embeddings are nearer to true ones than two baselines are.

The baselines are the input embedding itself, and a linear map for each target pose,
learnt on the same training tuples. The measure is the cosine with the true embedding,
that of the same person and expression in the target pose. NumPy.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from fr_jax.metrics import classification
from fr_jax.metrics.verification import l2_normalize
from fr_jax.systems.fra.evaluation import Generate, Samples
from fr_jax.systems.fra.tuples import Tuples

Array = np.ndarray
FILE = "linear_maps.npz"
MAX_TUPLES = 5000  # that are compared
# Factors of the mean variance of a coordinate, from no penalty to nearly no map.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_HELD_OUT = 5  # every fifth person chooses the penalty


class LinearMaps(NamedTuple):
    """x -> x + (x - mean) @ slope + offset for each target pose.

    Attributes:
      poses: names of the target poses [P].
      embedder: that of the embeddings, as `stored.identity` names it.
      mean, offset: float32 [P, D].
      slope: float32 [P, D, D].
    """

    poses: list[str]
    embedder: str
    mean: Array
    offset: Array
    slope: Array

    def apply(self, rows: Array, poses: Sequence[str]) -> Array:
        """Returns rows [N, D] in their target poses; NaN for poses without a map."""
        moved = np.full(rows.shape, np.nan, np.float32)
        names = np.asarray(poses, str)
        for number, name in enumerate(self.poses):
            mask = names == name
            x = rows[mask]
            change = (x - self.mean[number]) @ self.slope[number]
            moved[mask] = x + change + self.offset[number]
        return moved

    def save(self, path: epath.PathLike) -> None:
        """Writes the maps, atomically."""
        path = epath.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        arrays: Any = self._asdict() | {"poses": np.array(self.poses, str)}
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.replace(path)


def load(path: epath.PathLike) -> LinearMaps | None:
    """Returns saved maps; None if the file is missing."""
    path = epath.Path(path)
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        stored: Any = {name: arrays[name] for name in LinearMaps._fields}
    stored |= {"poses": stored["poses"].tolist(), "embedder": str(stored["embedder"])}
    return LinearMaps(**stored)


def fit(
    inputs: Array,
    targets: Array,
    pose: Array,
    person: Array,
    names: Sequence[str],
    embedder: str = "",
) -> LinearMaps:
    """Returns linear maps of training tuples, by ridge least squares.

    The penalty is on the change of the embedding, so that a large one leaves the input
    as it is; it is chosen for each pose by the error for a fifth of the persons, and
    the map is then fitted to all.

    Args:
      inputs, targets: [T, D] embeddings of tuples.
      pose, person: int [T], of the target.
      names: of the poses.
    """
    kept, mean, offset, slope = [], [], [], []
    held_out = np.unique(person, return_inverse=True)[1].ravel() % _HELD_OUT == 0
    for number, name in enumerate(names):
        mask = pose == number
        if not mask.any():
            continue
        x, y = (rows[mask].astype(np.float64) for rows in (inputs, targets))
        unseen, penalty = held_out[mask], _PENALTIES[-1]
        if unseen.any() and not unseen.all():
            tried = _ridge(x[~unseen], (y - x)[~unseen], _PENALTIES)
            errors = [
                np.mean(((x[unseen] - m) @ w + b - (y - x)[unseen]) ** 2)
                for m, b, w in tried
            ]
            penalty = _PENALTIES[int(np.argmin(errors))]
        ((m, b, w),) = _ridge(x, y - x, (penalty,))
        kept.append(name)
        mean.append(m)
        offset.append(b)
        slope.append(w)
    stacked = (np.stack(rows).astype(np.float32) for rows in (mean, offset, slope))
    return LinearMaps(kept, embedder, *stacked)


def _ridge(x: Array, y: Array, penalties: Sequence[float]) -> list[tuple[Any, ...]]:
    """Returns (mean of x, offset, slope) of y = offset + (x - mean) @ slope each."""
    mean, offset = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean, y - offset
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ y / len(x))
    level = max(float(values.mean()), 1e-12)
    values = np.maximum(values, 0)[:, None]
    return [
        (mean, offset, vectors @ (projected / (values + factor * level)))
        for factor in penalties
    ]


def pairs(samples: Samples, seed: int = 0, limit: int = MAX_TUPLES) -> Tuples:
    """Returns all tuples of two poses of a person's expression, at most `limit`.

    The landmarks are those of another person in the target pose, with the same
    expression, or of the target if there is none.
    """
    person, pose, expression = (
        samples.labels[name] for name in ("identity", "pose", "expression")
    )
    rng = np.random.default_rng([seed, 33])
    cell = np.unique(np.stack([person, expression], 1), axis=0, return_inverse=True)
    given, target = [], []
    for one in range(len(cell[0])):
        rows = np.flatnonzero(cell[1].ravel() == one)
        first, second = np.meshgrid(rows, rows, indexing="ij")
        mask = pose[first] != pose[second]
        given.append(first[mask])
        target.append(second[mask])
    given, target = np.concatenate(given), np.concatenate(target)
    if len(given) > limit:
        chosen = np.sort(rng.permutation(len(given))[:limit])
        given, target = given[chosen], target[chosen]
    picture = target.copy()
    keys = np.stack([expression, pose, person], axis=1)
    for shown, turned, one in np.unique(keys[target], axis=0):
        rows = np.flatnonzero((keys[target] == (shown, turned, one)).all(axis=1))
        others = (expression == shown) & (pose == turned) & (person != one)
        if others.any():
            picture[rows] = rng.choice(np.flatnonzero(others), len(rows))
    return Tuples(picture, given, target)


class Cosines(NamedTuple):
    """Cosines [T] with the true embedding; `person` and `pose` [T] of the target.

    `linear` is NaN for poses without a linear map; None without maps.
    """

    generated: Array
    input: Array
    linear: Array | None
    person: Array
    pose: Array

    def of(self) -> dict[str, Array]:
        """Returns the cosines by name, without those that are not measured."""
        named = {"generated": self.generated, "input": self.input}
        if self.linear is not None:
            named["linear"] = self.linear
        return named


def measure(
    samples: Samples, tuples: Tuples, generate: Generate, linear: LinearMaps | None
) -> Cosines:
    """Returns the cosines of generated embeddings, inputs and linear maps."""
    true = l2_normalize(samples.embedding[tuples.target])
    given = samples.embedding[tuples.input]

    def cosines(rows):
        return np.sum(l2_normalize(rows) * true, axis=1)

    pose, mapped = samples.labels["pose"][tuples.target], None
    if linear is not None:
        names = np.asarray(samples.names["pose"], str)
        moved = linear.apply(given, names[pose].tolist())
        rows = np.asarray(np.isfinite(moved).all(axis=1))
        mapped = np.where(rows, cosines(np.where(rows[:, None], moved, 1.0)), np.nan)
    return Cosines(
        cosines(generate(tuples.input, tuples.picture)),
        cosines(given),
        mapped,
        samples.labels["identity"][tuples.target],
        pose,
    )


def results(
    cosines: Cosines, poses: Sequence[str], *, prefix: str = "fra"
) -> dict[str, float]:
    """Returns mean cosines and how generated embeddings compare with the baselines.

    PREFIX/cosine:generated, :input and :linear, also @pose=; nearer:input and
    nearer:linear, the share of tuples whose generated embedding is nearer than the
    baseline; cosine_gain:input and :linear, the mean over persons of their mean
    difference, with _low and _high: tuples of one person are not independent.
    """
    flat: dict[str, float] = {}
    for name, values in cosines.of().items():
        flat[f"{prefix}/cosine:{name}"] = _mean(values)
        for number, pose in enumerate(poses):
            if (mask := cosines.pose == number).any():
                flat[f"{prefix}/cosine:{name}@pose={pose}"] = _mean(values[mask])
    for name, values in cosines.of().items():
        rows = np.isfinite(values)
        if name == "generated" or not rows.any():
            continue
        gain = (cosines.generated - values)[rows]
        person = cosines.person[rows]
        of_persons = [gain[person == one].mean() for one in np.unique(person)]
        flat[f"{prefix}/nearer:{name}"] = float(np.mean(gain > 0))
        estimate = classification.mean_interval(np.array(of_persons))
        for end, value in zip(("", "_low", "_high"), estimate):
            flat[f"{prefix}/cosine_gain{end}:{name}"] = value
    return flat


def verdict(flat: dict[str, float], *, prefix: str = "fra") -> list[str]:
    """Returns a sentence for each baseline that says which of the two is nearer."""
    baselines = {"input": "the input", "linear": "a linear map for each pose"}
    lines = []
    for name, baseline in baselines.items():
        if (gain := flat.get(f"{prefix}/cosine_gain:{name}")) is None:
            continue
        low, high = (flat[f"{prefix}/cosine_gain_{x}:{name}"] for x in ("low", "high"))
        order = ["the generated embedding", baseline]
        if gain <= 0:
            order.reverse()
        lines.append(
            f"{order[0]} is nearer to the true embedding than {order[1]}: cosine of "
            f"generated less baseline {gain:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"larger in {100 * flat[f'{prefix}/nearer:{name}']:.1f} % of the tuples"
        )
    return lines


def _mean(values: Array) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
