"""Rendered faces evaluated by a detector and an embedder of photographs.

    python -m benchmarks.experiments.realism --weights DIR [--lfw lfw.bin]
        [--photographs landmarks68.tar] [--to DIR]

The detector is OpenCV's YuNet, the embedder foamliu's MobileFaceNet; neither was
trained on rendered faces. Faces are loose 200x200 renders with |yaw| <= 45, aligned by
the detected points, like photographs.
"""

import argparse
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import roc_auc_score

from data_pipelines import images as encoded_images
from data_pipelines.readers import landmark_photographs, verification_bin
from data_pipelines.vision import align, detect
from fr_jax import faces, load_embedder
from fr_jax.progress import progress_bar
from fr_jax.report import figures

COVERS = ("mask", "hand", "glasses", "glasses_dark")


def conditions(key, identity, without=COVERS, **fixed):
    """Returns codes of photographs of identities, |yaw| <= 45, `without` occluders."""
    codes = faces.sample_codes(key, len(identity), identity=identity)
    yaw = codes.pose[:, 0]
    within = jax.random.uniform(key, yaw.shape, minval=-45, maxval=45)
    yaw = jnp.where(jnp.abs(yaw) <= 45, yaw, within)
    pose = codes.pose.at[:, 0].set(yaw)
    removed = jnp.array([faces.IMAGING.index(name) for name in without])
    imaging = codes.imaging.at[:, removed].set(0.0)
    return codes._replace(pose=pose, imaging=imaging, **fixed)


def render(codes):
    """Returns uint8 images [n, 200, 200, 3] and the five points, 50 at a time."""
    images, points = [], []
    for start in progress_bar(range(0, len(codes.age), 50), unit=" x 50 faces"):
        part = jax.tree.map(lambda a: a[start : start + 50], codes)  # noqa: B023
        rendered = faces.render(part, 200, "loose")
        images.append(np.asarray(rendered.image * 255 + 0.5).astype(np.uint8))
        points.append(np.asarray(rendered.landmarks5))
    return np.concatenate(images), np.concatenate(points)


def separation(first, second):
    """Returns AUC, genuine cosines (of equal rows) and impostor cosines (of others)."""
    cosine = first @ second.T
    same = np.eye(len(cosine), dtype=bool)
    area = roc_auc_score(same.ravel(), cosine.ravel())
    return area, cosine[same], cosine[~same]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--lfw", type=Path)
    parser.add_argument("--photographs", type=Path, help=".jpg with 68-point .pts")
    parser.add_argument("--identities", type=int, default=200, help="number")
    parser.add_argument("--to", type=Path, default=Path("runs/realism"))
    arguments = parser.parse_args()
    detector = detect.YuNet(arguments.weights / "face_detection_yunet_2026may.onnx")
    embedder = load_embedder(arguments.weights / "MobileFaceNet.onnx")
    results: dict[str, float] = {}

    identity = faces.sample_identities(jax.random.key(1), arguments.identities)
    normal = jax.random.normal(jax.random.key(6), (arguments.identities,))
    age = jnp.clip(36 + 15 * normal, 16, 75)
    young = jnp.full_like(age, 25.0)
    sets = {
        "first": conditions(jax.random.key(2), identity, age=age),
        "second": conditions(jax.random.key(3), identity, age=age),
        "glasses": conditions(jax.random.key(3), identity, ("mask", "hand"), age=age),
        "young": conditions(jax.random.key(4), identity, age=young),
        "old": conditions(jax.random.key(5), identity, age=young + 30),
    }
    embeddings, errors, detected = {}, [], []
    for name, codes in sets.items():
        images, truth = render(codes)
        aligned = []
        for image, points in zip(images, truth):
            detections = detector(image)
            detected.append(bool(detections))
            if detections:
                eyes = np.linalg.norm(points[0] - points[1])
                distances = np.linalg.norm(detections[0].points - points, axis=1)
                errors.append(distances / eyes)
                points = detections[0].points
            aligned.append(align.crop(image, points))
        embeddings[name] = embedder.embed(np.stack(aligned), flip=True)
    results["detected"] = float(np.mean(detected))
    results["points_median"] = float(np.median(errors))
    parts = ("eye_left", "eye_right", "nose", "mouth_l", "mouth_r")
    for part, error in zip(parts, np.median(errors, axis=0)):
        results[f"points_median/{part}"] = float(error)
    if arguments.photographs:
        errors = photographs(arguments.photographs, detector)
        results["photographs/points_median"] = float(np.median(errors))
    cosines = {}
    for name, first, second in (
        ("conditions", "first", "second"),
        ("glasses", "first", "glasses"),
        ("30_years", "young", "old"),
    ):
        area, *cosines[name] = separation(embeddings[first], embeddings[second])
        results[f"auc/{name}"] = area
    if arguments.lfw:
        images, same = lfw(arguments.lfw)
        pairs = embedder.embed(images, flip=True)
        cosine = np.sum(pairs[::2] * pairs[1::2], axis=1)
        cosines["lfw"] = cosine[same], cosine[~same]
    for name, (genuine, impostor) in cosines.items():
        results[f"cosine/{name}/genuine"] = float(genuine.mean())
        results[f"cosine/{name}/impostor"] = float(impostor.mean())
        results[f"cosine/{name}/impostor_std"] = float(impostor.std())
    arguments.to.mkdir(parents=True, exist_ok=True)
    (arguments.to / "results.json").write_text(json.dumps(results, indent=1))
    pairs = {
        name: (np.concatenate(parts), np.repeat([True, False], list(map(len, parts))))
        for name, parts in cosines.items()
    }
    figures.cosines(pairs, arguments.to / "cosines.png")
    for name, value in results.items():
        print(f"{name:32s} {value:.4f}")


def photographs(path: Path, detector) -> np.ndarray:
    """Returns the detector's errors on annotated photographs, [n, 5] eye distances.

    Faces have the size of the rendered ones: 200x200 pixels, 36 between the eyes.
    """
    errors, eyes = [], 36.0
    for _, image, points in landmark_photographs.read(path):
        left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
        truth = np.stack([left, right, points[30], points[48], points[54]])
        scale = eyes / np.linalg.norm(right - left)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=method)
        # Pixel centres are at whole numbers, before and after.
        points, truth = ((p + 0.5) * scale - 0.5 for p in (points, truth))
        shift = 99.5 - points.mean(axis=0)
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
        detections = detector(cv2.warpAffine(image, matrix, (200, 200)))
        away = [face.points - truth - shift for face in detections]
        distances = [np.linalg.norm(points, axis=1) / eyes for points in away]
        errors += sorted(distances, key=np.mean)[:1]
    return np.array(errors)


def lfw(path: Path, pairs: int = 600):
    """Returns the images, and whether the pairs are genuine, of evenly spaced pairs."""
    pack = verification_bin.read(path)
    chosen = np.linspace(0, len(pack.same) - 1, pairs).astype(int)
    jpegs = [pack.images[2 * pair + k] for pair in chosen for k in (0, 1)]
    images = [encoded_images.decode(jpeg) for jpeg in jpegs]
    return np.stack(images), pack.same[chosen]


if __name__ == "__main__":
    main()
