"""Inter-Prototype on rendered identities with child images.

    python -m benchmarks.experiments.child_adult --to runs/child_adult

ArcFace against ArcFace + Inter-Prototype: same identities, images, initial weights and
batches; only the term differs. Evaluated on unseen identities: a child image against an
image of the same or another identity 20 and 30 years later. Intervals are bootstraps
over the unseen identities, which are the same in both arms.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from configs import inter_prototype as configs
from fr_jax.backend import cpu, sharding
from fr_jax.embedder import Embedder
from fr_jax.faces import sets
from fr_jax.metrics.verification import best_accuracy, l2_normalize
from fr_jax.progress import progress_bar
from fr_jax.systems import inter_prototype
from fr_jax.training.loop import train
from fr_jax.training.streams import ArrayStream

GAPS = (20, 30)
ARMS = ("arcface", "arcface+inter_prototype")
_SIZE = 48
_YAW = 30.0
_CHILD = (3.0, 12.0)  # years
_BOOTSTRAPS = 200


def unseen(seed: int, count: int) -> dict[int, np.ndarray]:
    """Returns one image of each identity by years after childhood, 0 and `GAPS`."""
    numbers = sets.FIRST_UNSEEN + np.arange(count)
    young = np.random.default_rng(seed).uniform(*_CHILD, count).astype(np.float32)
    images = {}
    for image, gap in enumerate((0, *GAPS)):
        face_set = sets.default(_YAW)
        codes = sets.label(face_set, seed, numbers, np.full(count, image)).codes
        codes = jax.tree.map(jnp.asarray, codes._replace(age=young + gap))
        mesh = sharding.make_mesh()
        images[gap] = np.asarray(sets.render_rows(codes, mesh=mesh, size=_SIZE)[0])
    return images


def measure(cosine: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Returns AUC, and accuracy at the best threshold of as many pairs of each kind.

    Args:
      rows: the identities; pairs of one that occurs twice are genuine.
    """
    part = cosine[rows][:, rows]
    same = rows[:, None] == rows[None]
    area = roc_auc_score(same.ravel(), part.ravel())
    row = np.arange(len(part))
    pairs = np.r_[row, row], np.r_[row, np.roll(row, 1)]
    accuracy, _ = best_accuracy(part[pairs], same[pairs])
    return area, accuracy


def run(arguments, seed: int) -> dict[str, dict]:
    """Trains both arms; returns their cosines and the similarity of prototypes."""
    count = arguments.identities
    options = {"images": arguments.images, "size": _SIZE, "progress": "rendering faces"}
    face_set = sets.ages(0.5, _YAW)
    arrays = sets.arrays(face_set, seed=seed, num_identities=count, **options)
    children = np.flatnonzero(sets.child_owners(seed, np.arange(count), 0.5)).tolist()
    images = unseen(seed, arguments.unseen)
    options = configs.get_config("smoke").system.to_dict()
    options |= {"head": "arcface", "head_options": {"margin": 0.3, "scale": 24.0}}
    results = {}
    for arm, child_classes in zip(ARMS, ((), children)):
        stream = ArrayStream(arrays, 32, seed=seed)
        steps_per_epoch = stream.num_examples / stream.batch_size
        steps = round(arguments.epochs * steps_per_epoch)
        system = inter_prototype.make(
            count,
            **options,
            steps_per_epoch=steps_per_epoch,
            num_steps=steps,
            child_classes=child_classes,
        )
        folder = arguments.to / f"{arm}_{seed}"
        result = train(system, stream, folder, num_steps=steps, seed=seed)
        embedder = Embedder(system.hand_over(result.state)["embedding"])
        # Cosines [P, P] of every child with every adult, by years between them.
        child, *adults = (l2_normalize(embedder.embed(images[n])) for n in (0, *GAPS))
        rows = l2_normalize(np.asarray(result.state.params["prototypes"])[children])
        cosine = np.asarray(rows @ rows.T)
        between = cosine[~np.eye(len(children), dtype=bool)]
        results[arm] = {
            "prototypes": float(between.mean()),
            "prototypes_above_0": float(np.maximum(between, 0).mean()),
            "cosines": {gap: child @ adult.T for gap, adult in zip(GAPS, adults)},
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--identities", type=int, default=400, help="half have child images")
    add("--images", type=int, default=10, help="per identity")
    add("--epochs", type=float, default=14)
    add("--unseen", type=int, default=400)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--to", type=Path, default=Path("runs/child_adult"))
    arguments = parser.parse_args()
    cpu.keep_freed_memory()
    runs = {seed: run(arguments, seed) for seed in arguments.seeds}
    results: dict[str, float] = {}
    for arm in ARMS:
        for name in ("prototypes", "prototypes_above_0"):
            values = [arms[arm][name] for arms in runs.values()]
            results[f"{arm}/{name}/cosine"] = float(np.mean(values))
    count = arguments.unseen
    samples = np.random.default_rng(0).integers(0, count, (_BOOTSTRAPS, count))

    def by_arm(gap, rows):
        """Returns AUC and accuracy by arm and seed: [2, seeds, 2]."""
        cosines = [[r[arm]["cosines"][gap] for r in runs.values()] for arm in ARMS]
        return np.array([[measure(cosine, rows) for cosine in arm] for arm in cosines])

    for gap in GAPS:
        values = by_arm(gap, np.arange(count))
        differences = np.diff(values, axis=0)[0]
        label = f"{gap} years"
        resampled = [
            np.diff(by_arm(gap, rows), axis=0)[0].mean(axis=0)
            for rows in progress_bar(samples, label, unit="bootstrap", leave=False)
        ]
        low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
        for k, metric in enumerate(("auc", "accuracy")):
            for arm, of_arm in zip(ARMS, values):
                results[f"{arm}/{gap}_years/{metric}"] = float(of_arm[:, k].mean())
            name = f"difference/{gap}_years/{metric}"
            for seed, value in zip(runs, differences[:, k]):
                results[f"{name}/seed_{seed}"] = float(value)
            results[name] = float(differences[:, k].mean())
            results[f"{name}/low"] = float(low[k])
            results[f"{name}/high"] = float(high[k])
    (arguments.to / "results.json").write_text(json.dumps(results, indent=1))
    for name, value in results.items():
        print(f"{name:56s} {value:.4f}")


if __name__ == "__main__":
    main()
