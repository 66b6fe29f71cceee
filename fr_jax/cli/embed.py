"""`fr-jax embed`: faces of any kind -> names and embeddings in one file."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipelines import DataError, images
from data_pipelines import index as indexes
from data_pipelines.readers import verification_bin
from fr_jax.embedder import load_embedder
from fr_jax.embedder.images import FACE_SIDE
from fr_jax.errors import UserError

SUFFIXES = (".npz", ".parquet")


class Faces(NamedTuple):
    """Aligned faces: what each is called, whose it is ('' if not known), its pixels."""

    names: Sequence[str]
    identities: Sequence[str]
    images: images.EncodedImages


def run(arguments: argparse.Namespace) -> int:
    """Embeds as asked; returns the exit code."""
    target = Path(arguments.to)
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: the name must end in {' or '.join(SUFFIXES)}")
    if target.exists():
        raise UserError(f"{target} exists; choose another file or remove it")
    if target.suffix == ".parquet":
        import pyarrow  # noqa: F401 - said before the work, not after it
    embedder = load_embedder(arguments.embedder)
    faces = read(Path(arguments.source), embedder.network.input_spec.size)
    raw = []
    with tqdm(total=len(faces.names), desc="embed", unit="image", mininterval=1) as bar:
        size = embedder.batch_size
        batches = (
            faces.images[start : start + size] for start in range(0, bar.total, size)
        )
        for found in embedder.embed_each(batches, normalize=False, flip=arguments.flip):
            raw.append(found)
            bar.update(len(found))
        seconds = max(bar.format_dict["elapsed"], 1e-9)
    embeddings = np.concatenate(raw)
    norms = np.linalg.norm(embeddings, axis=1)
    columns = {
        "names": np.array(faces.names, str),
        "identities": np.array(faces.identities, str),
        "embeddings": embeddings / np.maximum(norms, 1e-12)[:, None],
        "norms": norms,
    }
    about = json.dumps(embedder.describe() | {"flip": arguments.flip})
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file:
            write = _write_parquet if target.suffix == ".parquet" else _write_npz
            write(file, columns, about)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    rate = len(embeddings) / seconds
    print(
        f"{len(embeddings):,} embeddings of {embeddings.shape[1]} numbers to {target}, "
        f"{rate:,.0f} a second"
    )
    return 0


def _write_npz(file, columns: dict[str, np.ndarray], about: str) -> None:
    np.savez(file, allow_pickle=False, about=np.array(about), **columns)


def _write_parquet(file, columns: dict[str, np.ndarray], about: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    embeddings = columns["embeddings"]
    table = pa.table(
        {
            "name": columns["names"].tolist(),
            "identity": columns["identities"].tolist(),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(embeddings.ravel()), embeddings.shape[1]
            ),
            "norm": columns["norms"],
        }
    )
    parquet.write_table(table.replace_schema_metadata({"fr_jax": about}), file)


def read(source: Path, side: int) -> Faces:
    """Returns the faces of a folder, an image, a set of records or a .bin file.

    Raises DataError for a source without faces, and for a folder whose images are not
    all whole and aligned: 112 pixels or `side`; all are looked at before the first is
    embedded.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.is_file():
        if source.suffix == ".bin":
            encoded = verification_bin.read(source).images
            names = [f"{source.name}:{number}" for number in range(len(encoded))]
            return _faces(names, [""] * len(names), encoded)
        return _files(source.parent, [source], side)
    if (source / indexes.FILE).exists() or list(source.glob(f"*/{indexes.FILE}")):
        return _records(source)
    paths = list(images.list_images(source))
    if not paths:
        raise DataError(f"{source}: no .jpg, .jpeg or .png below it")
    return _files(source, paths, side)


def _faces(names, identities, encoded) -> Faces:
    return Faces(names, identities, images.EncodedImages(encoded, lambda n: names[n]))


def _files(root: Path, paths: list[Path], side: int) -> Faces:
    refused = []
    for path in tqdm(paths, "look", unit="image", leave=False):
        try:
            header = images.probe(images.read_file(path))
            if (header.width, header.height) not in ((FACE_SIDE,) * 2, (side,) * 2):
                size = f"{header.width}x{header.height}"
                raise DataError(
                    f"{size} pixels, not an aligned {FACE_SIDE}x{FACE_SIDE}"
                )
        except (DataError, OSError) as error:
            refused.append(f"{path}: {error}")
    if refused:
        raise DataError(
            f"{len(refused):,} of {len(paths):,} images are no aligned faces, as "
            f"{refused[0]}; fr-jax data align makes them"
        )
    relative = [path.relative_to(root) for path in paths]
    return _faces(
        [path.as_posix() for path in relative],
        [path.parts[0] if len(path.parts) > 1 else "" for path in relative],
        paths,
    )


def _records(source: Path) -> Faces:
    from data_pipelines import records  # loads TensorFlow

    folder = indexes.find(source)
    index = indexes.load(folder)
    identities = [index.identities[n] if n >= 0 else "" for n in index.label]
    names = [f"{index.name}:{number}" for number in range(len(index))]

    class Encoded(Sequence):
        def __len__(self):
            return len(index)

        def __getitem__(self, number):
            face = records.decode(indexes.read(folder, index, number))
            names[number] = face.source or names[number]
            return face.image

    return _faces(names, identities, Encoded())
