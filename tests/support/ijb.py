"""A small release in the form of IJB-C: lists, embeddings, and loose crops."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.vision import align
from fr_jax.evaluation.embeddings import Columns, StoredEmbeddings
from tests.support.faces import encoded, picture


class Release(NamedTuple):
    """What the lists of a release have, image by image and pair by pair."""

    folder: Path
    names: list[str]
    template: np.ndarray  # published numbers, [N]
    media: np.ndarray  # published numbers, [N]
    score: np.ndarray  # of the detector, [N]
    pairs: np.ndarray  # published numbers and label, [P, 3]
    subject: dict[int, str]  # of each template
    features: np.ndarray  # raw, [N, D]


def write(folder: Path, *, crops: bool = False, identities: int = 6) -> Release:
    """Writes a release with three templates of each identity, in two galleries."""
    rng = np.random.default_rng(0)
    meta = folder / "meta"
    meta.mkdir(parents=True)
    rows, subject, features = [], {}, []
    centres = rng.normal(size=(identities, 8))
    numbers = rng.permutation(np.arange(100, 100 + 3 * identities))
    for number, template in enumerate(numbers.tolist()):
        identity = number % identities
        subject[template] = f"s{identity}"
        for media in range(rng.integers(1, 4)):
            for _ in range(rng.integers(1, 4)):
                rows.append((template, 7000 + 10 * number + media))
                features.append(centres[identity] + 0.7 * rng.normal(size=8))
    order = rng.permutation(len(rows))  # media and templates in any order
    template, media = np.array(rows)[order].T
    features = np.array(features)[order] * rng.uniform(5, 30, (len(rows), 1))
    names = [f"{number + 1}.jpg" for number in range(len(rows))]
    score = rng.uniform(0.2, 1, len(rows)).round(6)
    lines = [f"{n} {t} {m}" for n, t, m in zip(names, template, media)]
    (meta / "ijbc_face_tid_mid.txt").write_text("\n".join(lines) + "\n")
    points = align.ARCFACE[None] * 1.1 + rng.normal(size=(len(rows), 5, 2)) + 4
    lines = [
        " ".join([name, *(f"{x:.4f}" for x in one.ravel()), f"{s:.6f}"])
        for name, one, s in zip(names, points, score)
    ]
    (meta / "ijbc_name_5pts_score.txt").write_text("\n".join(lines) + "\n")
    ids = np.array(sorted(subject))
    pairs = [
        (a, b, int(subject[a] == subject[b]))
        for a in ids.tolist()
        for b in ids.tolist()
        if a != b and rng.uniform() < 0.7
    ]
    lines = ["{} {} {}".format(*pair) for pair in pairs]
    path = meta / "ijbc_template_pair_label.txt"
    path.write_text("\n".join(lines) + "\n")
    enrolled: dict[str, list[int]] = {"G1": [], "G2": []}
    probes = []
    for number, one in enumerate(numbers.tolist()):
        gallery = "G1" if number % identities < identities // 2 else "G2"
        (enrolled[gallery] if number < identities else probes).append(one)
    tables = {f"gallery_{name}": ids for name, ids in enrolled.items()}
    for name, templates in {**tables, "probe_mixed": probes}.items():
        lines = ["TEMPLATE_ID,SUBJECT_ID,FILENAME"]
        for one in templates:  # a line per image
            lines += [f"{one},{subject[one]},img/{n}.jpg" for n in range(2)]
        (meta / f"ijbc_1N_{name}.csv").write_text("\n".join(lines) + "\n")
    if crops:
        (folder / "loose_crop").mkdir()
        faces = [encoded(image=picture(140, 150, number)) for number in range(3)]
        for number, name in enumerate(names):
            (folder / "loose_crop" / name).write_bytes(faces[number % 3])
    return Release(
        folder, names, template, media, score, np.array(pairs), subject, features
    )


def stored(release: Release, flip: bool | None = True) -> StoredEmbeddings:
    """Returns a file of the embeddings of a release, in another order."""
    order = np.random.default_rng(1).permutation(len(release.names))
    norms = np.linalg.norm(release.features, axis=1)
    columns = Columns(
        np.array(release.names)[order],
        np.full(len(order), ""),
        (release.features / norms[:, None])[order].astype(np.float32),
        norms[order].astype(np.float32),
        {} if flip is None else {"flip": flip},
    )
    return StoredEmbeddings(columns)
