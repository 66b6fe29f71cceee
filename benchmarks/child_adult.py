"""Inter-Prototype where its claim can be seen: drawn people with images of childhood.

    python -m benchmarks.child_adult --to runs/child_adult

Plain ArcFace against ArcFace + Inter-Prototype, the same people, images, weights at the
start and batches; only the term differs. Judged on strangers: a child's image against
an image of the same or another person 20 and 30 years later. Intervals are bootstraps
over the strangers, who are the same in both arms.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from configs import inter_prototype as configs
from fr_jax.backend import cpu, sharding
from fr_jax.embedder import Embedder
from fr_jax.faces import sets
from fr_jax.losses.margin import unit
from fr_jax.metrics import verification
from fr_jax.systems import inter_prototype
from fr_jax.training import loop as train
from fr_jax.training.streams import ArrayStream

GAPS = (20, 30)
ARMS = {"arcface": False, "arcface+inter_prototype": True}
_SIZE = 48
_YAW = 30.0
_CHILD = (3.0, 12.0)  # years
_BOOTSTRAPS = 200


def strangers(seed: int, people: int) -> dict[int, np.ndarray]:
    """Returns images by the years after childhood, 0 and `GAPS`; a row a person."""
    numbers = sets.STRANGERS + np.arange(people)
    young = np.random.default_rng(seed).uniform(*_CHILD, people).astype(np.float32)
    found = {}
    for image, gap in enumerate((0, *GAPS)):
        face_set = sets.default(_YAW)
        codes = sets.label(face_set, seed, numbers, np.full(people, image)).codes
        codes = jax.tree.map(jnp.asarray, codes._replace(age=young + gap))
        mesh = sharding.make_mesh()
        found[gap] = np.asarray(sets.draw_rows(codes, mesh=mesh, size=_SIZE)[0])
    return found


def scores(embedder: Embedder, images: dict[int, np.ndarray], gap: int) -> np.ndarray:
    """Returns cosines [P, P] of every child with every adult, `gap` years apart."""
    child, adult = (unit(embedder.embed(images[years])) for years in (0, gap))
    return np.asarray(child @ adult.T)


def judged(cosine: np.ndarray, people: np.ndarray | slice) -> tuple[float, float]:
    """Returns AUC, and accuracy at the best threshold of as many pairs of each kind."""
    part = cosine[people][:, people]
    same = np.eye(len(part), dtype=bool)
    if not isinstance(people, slice):  # drawn again: twice the same person is genuine
        same = people[:, None] == people[None]
    area = roc_auc_score(same.ravel(), part.ravel())
    row = np.arange(len(part))
    pairs = np.r_[row, row], np.r_[row, np.roll(row, 1)]
    accuracy, _ = verification.best_accuracy(part[pairs], same[pairs])
    return area, accuracy


def run(arguments, seed: int, to: Path) -> dict[str, dict]:
    """Trains both arms once; returns cosines and the prototypes' closeness of each."""
    face_set = sets.ages(0.5, _YAW)
    arrays = sets.arrays(
        face_set,
        seed=seed,
        people=arguments.people,
        images=arguments.images,
        size=_SIZE,
        progress="drawing people",
    )
    children = np.flatnonzero(
        sets.child_owners(seed, np.arange(arguments.people), 0.5)
    ).tolist()
    judges = strangers(seed, arguments.strangers)
    options = configs.get_config("smoke").system.to_dict()
    options["head"], options["head_options"] = "arcface", {"margin": 0.3, "scale": 24.0}
    found = {}
    for arm, pushed in ARMS.items():
        stream = ArrayStream(arrays, 32, seed=seed)
        steps_per_epoch = stream.num_examples / stream.batch_size
        system = inter_prototype.make(
            arguments.people,
            **options,
            steps_per_epoch=steps_per_epoch,
            epochs=arguments.epochs,
            child_classes=children if pushed else (),
        )
        steps = round(arguments.epochs * steps_per_epoch)
        folder = to / f"{arm}_{seed}"
        result = train.train(system, stream, folder, num_steps=steps, seed=seed)
        embedder = Embedder(system.hand_over(result.state)["embedding"])
        rows = unit(np.asarray(result.state.params["prototypes"])[children])
        cosine = np.asarray(rows @ rows.T)
        between = cosine[~np.eye(len(children), dtype=bool)]
        found[arm] = {
            "prototypes": float(between.mean()),
            "prototypes_above_0": float(np.maximum(between, 0).mean()),
            "cosines": {gap: scores(embedder, judges, gap) for gap in GAPS},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=400, help="half own child images")
    parser.add_argument("--images", type=int, default=10, help="of each person")
    parser.add_argument("--epochs", type=float, default=14)
    parser.add_argument("--strangers", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--to", type=Path, default=Path("runs/child_adult"))
    arguments = parser.parse_args()
    cpu.keep_freed_memory()
    runs = {seed: run(arguments, seed, arguments.to) for seed in arguments.seeds}
    results: dict[str, float] = {}
    for arm in ARMS:
        for what in ("prototypes", "prototypes_above_0"):
            values = [found[arm][what] for found in runs.values()]
            results[f"{arm}/{what}/cosine"] = float(np.mean(values))
    drawn = np.random.default_rng(0).integers(
        0, arguments.strangers, (_BOOTSTRAPS, arguments.strangers)
    )

    def by_arm(gap, who=slice(None)):
        """AUC and accuracy by arm and seed: [2, seeds, 2]."""
        both = [[f[arm]["cosines"][gap] for f in runs.values()] for arm in ARMS]
        return np.array([[judged(cosine, who) for cosine in arm] for arm in both])

    for gap in GAPS:
        values = by_arm(gap)
        again = [
            np.diff(by_arm(gap, who), axis=0)[0].mean(axis=0)
            for who in tqdm(drawn, desc=f"{gap} years", unit="bootstrap", leave=False)
        ]
        low, high = np.percentile(again, [2.5, 97.5], axis=0)
        for k, metric in enumerate(("auc", "accuracy")):
            for arm, of_arm in zip(ARMS, values):
                results[f"{arm}/{gap}_years/{metric}"] = float(of_arm[:, k].mean())
            name, more = f"difference/{gap}_years/{metric}", np.diff(values, axis=0)[0]
            for seed, value in zip(runs, more[:, k]):
                results[f"{name}/seed_{seed}"] = float(value)
            results[name] = float(more[:, k].mean())
            results[f"{name}/low"] = float(low[k])
            results[f"{name}/high"] = float(high[k])
    (arguments.to / "results.json").write_text(json.dumps(results, indent=1))
    for name, value in results.items():
        print(f"{name:56s} {value:.4f}")


if __name__ == "__main__":
    main()
