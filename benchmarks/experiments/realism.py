"""Rendered faces, evaluated by a detector and an embedder of photographs.

    python -m benchmarks.experiments.realism --weights DIR [--lfw lfw.bin]
        [--photographs landmarks68.tar] [--to DIR]

The detector is OpenCV's YuNet, the embedder foamliu's MobileFaceNet; neither was
trained on rendered faces. Faces are loose 200x200 renders with |yaw| <= 45, aligned by
the detected points, as photographs are.
"""

import argparse
import json
import tarfile
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from data_pipelines.readers import verification_bin
from data_pipelines.vision import align, detect
from fr_jax import faces
from fr_jax.progress import progress_bar

GLASSES = ("glasses", "glasses_dark")
COVERS = ("mask", "hand", *GLASSES)


def conditions(key, identity, without=COVERS, **fixed):
    """Codes of photographs of these people, |yaw| <= 45, `without` something worn."""
    codes = faces.sample_codes(key, len(identity), identity=identity)
    yaw = codes.pose[:, 0]
    within = jax.random.uniform(key, yaw.shape, minval=-45, maxval=45)
    yaw = jnp.where(jnp.abs(yaw) <= 45, yaw, within)
    pose = codes.pose.at[:, 0].set(yaw)
    imaging = codes.imaging
    for name in without:
        imaging = imaging.at[:, faces.IMAGING.index(name)].set(0.0)
    return codes._replace(pose=pose, imaging=imaging, **fixed)


def render(codes, size=200, frame="loose", quality="full", chunk=50):
    """Returns uint8 images and the five points, rendered in chunks."""
    images, points = [], []
    for start in progress_bar(
        range(0, len(codes.age), chunk), unit=f" x {chunk} faces"
    ):
        part = jax.tree.map(lambda a: a[start : start + chunk], codes)  # noqa: B023
        drawn = faces.render(part, size, frame, quality)
        images.append(np.asarray(drawn.image * 255 + 0.5).astype(np.uint8))
        points.append(np.asarray(drawn.landmarks5))
    return np.concatenate(images), np.concatenate(points)


def embed(network, images):
    """Returns unit embeddings, flip-summed, of uint8 RGB faces [n, 112, 112, 3]."""
    found = []
    for start in range(0, len(images), 50):
        batch = images[start : start + 50].astype(np.float32)
        total = 0
        for view in (batch, batch[:, :, ::-1]):
            scaled = (view - 127.5) / 128
            network.setInput(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))
            total = total + network.forward().reshape(len(batch), -1)
        found.append(total)
    embeddings = np.concatenate(found)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def separation(first, second):
    """Returns AUC and cosines of row i with row i, against row i with all others."""
    cosine = first @ second.T
    same, other = np.diag(cosine), cosine[~np.eye(len(cosine), dtype=bool)]
    truth = np.r_[np.ones(len(same)), np.zeros(len(other))]
    return roc_auc_score(truth, np.r_[same, other]), same, other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lfw", type=Path)
    parser.add_argument("--photographs", type=Path, help=".jpg with 68-point .pts")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--to", type=Path, default=Path("runs/realism"))
    arguments = parser.parse_args()
    detector = detect.YuNet(arguments.weights / "face_detection_yunet_2026may.onnx")
    network = cv2.dnn.readNetFromONNX(str(arguments.weights / "MobileFaceNet.onnx"))
    results: dict[str, float] = {}

    people = faces.sample_identities(jax.random.key(1), arguments.people)
    drawn = jax.random.normal(jax.random.key(6), (arguments.people,))
    age = jnp.clip(36 + 15 * drawn, 16, 75)
    young = jnp.full_like(age, 25.0)
    sets = {
        "first": conditions(jax.random.key(2), people, age=age),
        "second": conditions(jax.random.key(3), people, age=age),
        "glasses": conditions(jax.random.key(3), people, ("mask", "hand"), age=age),
        "young": conditions(jax.random.key(4), people, age=young),
        "old": conditions(jax.random.key(5), people, age=young + 30),
    }
    embeddings, off, seen = {}, [], []
    for name, codes in sets.items():
        images, truth = render(codes)
        aligned = []
        for image, points in zip(images, truth):
            found = detector(image)
            seen.append(bool(found))
            if found:
                eyes = np.linalg.norm(points[0] - points[1])
                away = np.linalg.norm(found[0].points - points, axis=1)
                off.append(away / eyes)
                points = found[0].points
            aligned.append(align.crop(image, points))
        embeddings[name] = embed(network, np.stack(aligned))
    results["detected"] = float(np.mean(seen))
    results["points_median"] = float(np.median(off))
    for k, part in enumerate(("eye_left", "eye_right", "nose", "mouth_l", "mouth_r")):
        results[f"points_median/{part}"] = float(np.median(np.array(off)[:, k]))
    if arguments.photographs:
        off = photographs(arguments.photographs, detector)
        results["photographs/points_median"] = float(np.median(off))
    cosines = {}
    for name, (a, b) in {
        "conditions": ("first", "second"),
        "glasses": ("first", "glasses"),
        "30_years": ("young", "old"),
    }.items():
        results[f"auc/{name}"], same, other = separation(embeddings[a], embeddings[b])
        cosines[name] = same, other
        results[f"cosine/{name}/genuine"] = float(same.mean())
        results[f"cosine/{name}/impostor"] = float(other.mean())
        results[f"cosine/{name}/impostor_std"] = float(other.std())
    if arguments.lfw:
        images, issame = lfw(arguments.lfw)
        pairs = embed(network, images)
        cosine = np.sum(pairs[::2] * pairs[1::2], axis=1)
        cosines["lfw"] = cosine[issame], cosine[~issame]
        for name, values in zip(("genuine", "impostor"), cosines["lfw"]):
            results[f"cosine/lfw/{name}"] = float(values.mean())
        results["cosine/lfw/impostor_std"] = float(cosines["lfw"][1].std())
    arguments.to.mkdir(parents=True, exist_ok=True)
    (arguments.to / "results.json").write_text(json.dumps(results, indent=1))
    histograms(cosines, arguments.to / "cosines.png")
    for name, value in results.items():
        print(f"{name:32s} {value:.4f}")


def photographs(path: Path, detector, eyes: float = 36.0) -> np.ndarray:
    """Returns how far off the detector is on photographs that people annotated.

    They are shown as large as the drawn ones: 200x200 with `eyes` pixels between the
    eyes. [n, 5], in distances of the eyes.
    """
    off = []
    with tarfile.open(path) as archive:
        files = {Path(member.name): member for member in archive}
        for name in sorted(name for name in files if name.suffix == ".pts"):
            text = archive.extractfile(files[name]).read().decode()
            lines = [line.split() for line in text.splitlines()]
            points = [line for line in lines if len(line) == 2 and _number(line[0])]
            points = np.array(points, float) - 1  # they count from 1
            left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
            truth = np.stack([left, right, points[30], points[48], points[54]])
            scale = eyes / np.linalg.norm(right - left)
            data = archive.extractfile(files[name.with_suffix(".jpg")]).read()
            image = cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
            # Pixels' centres are at whole numbers, before and after.
            points, truth = ((p + 0.5) * scale - 0.5 for p in (points, truth))
            shift = 99.5 - points.mean(axis=0)
            moved = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
            found = detector(cv2.warpAffine(image, moved, (200, 200)))
            wrong = [one.points - truth - shift for one in found]
            away = [np.linalg.norm(points, axis=1) / eyes for points in wrong]
            off += sorted(away, key=np.mean)[:1]
    return np.array(off)


def _number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def lfw(path: Path, pairs: int = 600):
    """Returns the images and answers of evenly spaced pairs of a .bin file."""
    found = verification_bin.read(path)
    places = np.linspace(0, len(found.same) - 1, pairs).astype(int)
    jpegs = [found.images[2 * p + k] for p in places for k in (0, 1)]
    images = [cv2.imdecode(np.frombuffer(j, np.uint8), 1)[..., ::-1] for j in jpegs]
    return np.stack(images), np.asarray(found.same)[places]


def histograms(cosines, path: Path) -> None:
    """Draws the cosines of each set of pairs."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(cosines), figsize=(4 * len(cosines), 3))
    for axis, (name, (same, other)) in zip(np.atleast_1d(axes), cosines.items()):
        bins = np.linspace(-0.5, 1, 46)
        for values, label in ((same, "genuine"), (other, "impostor")):
            axis.hist(values, bins, alpha=0.6, label=label, density=True)
        axis.set(title=name, xlabel="cosine")
        axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
