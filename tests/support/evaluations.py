"""Synthetic evaluations of embedders, for reports and stored results."""

import numpy as np

from fr_jax.metrics import intervals, verification
from fr_jax.report.runs import EvaluatedSet, Hardest, Run, Scores

IDENTITIES, IMAGES = 12, 4
PROTOCOL = {"protocol": "insightface", "flip_sum": True, "missing": "error"}


def pairs_of(num_pairs, seed=0):
    """Genuine and impostor pairs in turn, as numbers of images [P, 2] and labels."""
    rng = np.random.default_rng(seed)
    same = np.arange(num_pairs) % 2 == 0
    rows = []
    for genuine in same:
        first, second = rng.choice(IDENTITIES, 2, replace=False)
        places = rng.choice(IMAGES, 2, replace=False)
        second = first if genuine else second
        rows.append([first * IMAGES + places[0], second * IMAGES + places[1]])
    return np.array(rows), same


def evaluated_set(name="faces", *, noise=1.0, seed=1, num_pairs=200, **fields):
    """A set of ten folds, of embeddings with noise, with thumbnails of four pairs."""
    pairs, same = pairs_of(num_pairs)
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(IDENTITIES, 8))
    faces = np.repeat(centres, IMAGES, axis=0)
    faces = faces + noise * rng.normal(size=faces.shape)
    first, second = faces[pairs[:, 0]], faces[pairs[:, 1]]
    images = rng.integers(0, 256, (4, 2, 32, 32, 3), np.uint8)
    scores = Scores(
        verification.cosines(first, second),
        same,
        np.arange(num_pairs) * 10 // num_pairs,
        pairs,
        np.repeat(np.arange(IDENTITIES), IMAGES),
        verification.squared_distances(first, second),
        Hardest(np.array([0, 2, 1, 3]), images),
    )
    values = {"digest": "0123", "protocol": PROTOCOL, "scores": scores} | fields
    return EvaluatedSet(name, **values)


def results_of(one, key=None, reported=None):
    """Results of a set's pairs, with intervals of the accuracy."""
    scores = one.scores
    statistics = intervals.PairStatistics(
        scores.values,
        scores.same,
        protocol="pooled" if scores.folds is None else "insightface",
        folds=scores.folds,
        distances=scores.distances,
        reported=reported,
    )
    values = statistics(None)
    if "accuracy" in values:
        values["accuracy_low"] = values["accuracy"] - 0.01
        values["accuracy_high"] = values["accuracy"] + 0.01
    chosen = ~scores.same
    if reported is not None:
        chosen = chosen & reported[scores.folds]
    values["impostor_pairs"] = float(np.sum(chosen))
    return {f"{key or one.name}/{name}": value for name, value in values.items()}


def run(name="first", *sets, notes=None, **fields):
    """A run on `sets`, or on one made by `evaluated_set(**fields)`."""
    sets = sets or (evaluated_set(**fields),)
    results = {}
    for one in sets:
        if one.scores is None:
            results[f"{one.name}/rank1"] = 0.875
        elif one.seen_folds:
            results |= results_of(one, f"{one.name}_seen")
            unseen = ~np.isin(np.arange(10), one.seen_folds)
            results |= results_of(one, f"{one.name}_heldout", unseen)
        else:
            results |= results_of(one, f"{one.name}_seen" if one.seen else None)
    embedder = {"name": name, "digest": "45ef", "architecture": "iresnet18"}
    return Run(name, results, notes or {}, embedder, {"numpy": "2"}, tuple(sets))
