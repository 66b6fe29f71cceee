"""1:1 verification of the size of IJB-C: time and memory, in a process of its own.

The release is synthetic: 469,375 images of 3,531 identities, in 23,124 templates, and
15,658,489 pairs in random order, with 512-dimensional embeddings in a file. Measured is
all of `fr-jax evaluate --embeddings` but the report: reading the file and the lists,
pooling, scoring, metrics. The intervals of 200 resamples are timed apart.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, TEMPLATES, PAIRS, IDENTITIES = 469_375, 23_124, 15_658_489, 3_531
DIMENSIONS, RESAMPLES = 512, 200
FIRST = 100_000  # published numbers of templates have six digits here


def run(rounds: int) -> dict[str, float]:
    """Returns seconds and memory; one round takes a minute or more."""
    del rounds
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        command = [sys.executable, "-m", "benchmarks.ijb", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write(folder: Path, scale: float = 1.0) -> None:
    """Writes a synthetic release and its embeddings.

    Args:
      scale: of all numbers but the dimensions.
    """
    rng = np.random.default_rng(0)
    images, templates, pairs, identities = (
        int(number * scale) for number in (IMAGES, TEMPLATES, PAIRS, IDENTITIES)
    )
    subject = np.concatenate(
        [np.arange(identities), rng.integers(0, identities, templates - identities)]
    )
    template = np.sort(
        np.concatenate(
            [np.arange(templates), rng.integers(0, templates, images - templates)]
        )
    )
    media = rng.integers(0, 8, images) + 1000 * template  # up to eight a template
    meta = folder / "meta"
    meta.mkdir(parents=True)
    with (meta / "ijbc_face_tid_mid.txt").open("w") as file:
        for number, (one, medium) in enumerate(zip(template.tolist(), media.tolist())):
            file.write(f"{number + 1}.jpg {FIRST + one} {medium}\n")
    points = " ".join(["50.125"] * 10)
    with (meta / "ijbc_name_5pts_score.txt").open("w") as file:
        for number, score in enumerate(rng.uniform(0.5, 1, images).tolist()):
            file.write(f"{number + 1}.jpg {points} {score:.6f}\n")
    with (meta / "ijbc_template_pair_label.txt").open("wb") as file:
        genuine = np.arange(identities, templates)  # each with the first of its own
        own = np.stack([subject[genuine], genuine], axis=1)
        for start in range(0, pairs, 1 << 20):
            count = min(1 << 20, pairs - start)
            first = rng.integers(0, identities, count)
            second = rng.integers(identities, templates, count)
            if not start:
                first[: len(own)], second[: len(own)] = own.T
                order = rng.permutation(count)
                first, second = first[order], second[order]
            file.write(_lines(first, second, subject[first] == subject[second]))
    centres = rng.normal(size=(identities, DIMENSIONS)).astype(np.float32)
    rows = np.empty((images, DIMENSIONS), np.float32)
    for start in range(0, images, 1 << 14):
        part = slice(start, start + (1 << 14))
        owners = subject[template[part]]
        noise = rng.standard_normal((len(owners), DIMENSIONS), np.float32)
        rows[part] = centres[owners] + 8 * noise
        rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
    np.savez(
        folder / "faces.npz",
        names=np.array([f"{number + 1}.jpg" for number in range(images)]),
        identities=np.full(images, ""),
        embeddings=rows,
        norms=rng.uniform(10, 30, images).astype(np.float32),
        about=np.array('{"flip": true}'),
    )


def _lines(first: np.ndarray, second: np.ndarray, same: np.ndarray) -> bytes:
    """Returns lines of six digits, six digits, and a label."""
    text = np.full((len(first), 16), ord(" "), np.uint8)
    for start, numbers in ((0, first + FIRST), (7, second + FIRST)):
        for place in range(6):
            digit = numbers // 10 ** (5 - place) % 10
            text[:, start + place] = ord("0") + digit
    text[:, 14] = ord("0") + same
    text[:, 15] = ord("\n")
    return text.tobytes()


def measure(folder: str) -> dict[str, float]:
    """Returns seconds (wall and CPU) and GiB of an evaluation in this process."""
    from fr_jax.evaluation import embeddings, sets
    from fr_jax.evaluation.evaluator import Trained

    results: dict[str, float] = {}
    begun = time.perf_counter(), time.process_time()

    def passed(name: str) -> None:
        wall, used = time.perf_counter() - begun[0], time.process_time() - begun[1]
        results[f"ijb/{name}_seconds"] = wall
        results[f"ijb/{name}_cpu_seconds"] = used

    stored = embeddings.load(f"{folder}/faces.npz")
    passed("after_embeddings")
    text = f"ijbc={folder},protocol=ijb"
    evaluator = sets.parse(text, stored=stored)
    passed("after_lists")
    measured = evaluator(Trained(stored.embed_raw, {}))
    passed("all")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results["ijb/gib"] = peak / 2**20
    results["ijb/tar@far=1e-4"] = measured["ijbc/tar@far=1e-4"]
    print(json.dumps(results), flush=True)
    evaluator.intervals(RESAMPLES)
    passed("with_intervals")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results["ijb/with_intervals_gib"] = peak / 2**20
    return results


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
