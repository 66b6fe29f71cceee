"""`fr-jax embed`: embed aligned faces, and store the embeddings with their names.

The file has the arrays names, identities, embeddings (of unit length) and norms.
--projector writes them for TensorBoard's projector too, with thumbnails of the faces.

Examples:
    fr-jax embed aligned --embedder mbf --to faces.npz
    fr-jax embed aligned --embedder mbf --to faces.npz --projector projector
    tensorboard --logdir projector
"""

import argparse
import functools
import json
from pathlib import Path

import numpy as np

from fr_jax.cli.data import check_level, print_left_out
from fr_jax.cli.targets import check_writable
from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import UNALIGNED
from fr_jax.errors import UserError
from fr_jax.metrics.verification import l2_normalize
from fr_jax.progress import progress_bar
from fr_jax.report import projector

SUFFIXES = (".npz", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = "folder of images or of <identity>/*.jpg, one image, records, or a .bin"
    add("source", metavar="SRC", help=text)
    add("--embedder", required=True, metavar="EMBEDDER", help="embedder folder")
    add("--to", required=True, metavar="FILE", help="new .npz or .parquet file")
    text = "folder that names the identity, as of `fr-jax data convert`"
    add("--identity-level", type=int, metavar="N", help=text)
    text = "number of unusable images to skip; more are an error"
    add("--max-bad", type=int, default=100, metavar="N", help=text)
    text = "sum the embeddings of face and mirrored face before normalisation"
    add("--flip", action="store_true", help=text)
    add("--unaligned", **UNALIGNED)
    text = "new folder for TensorBoard's projector"
    add("--projector", metavar="DIR", help=text)
    text = "with --projector: no thumbnails of the faces"
    add("--no-images", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Embeds faces, and writes the embeddings."""
    target = Path(arguments.to)
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: the name must end in {' or '.join(SUFFIXES)}")
    if target.exists():
        raise UserError(f"{target} exists; choose another file or remove it")
    if target.suffix == ".parquet":
        import pyarrow  # noqa: F401 - fails before embedding if it is missing
    check_level(arguments.identity_level)
    check_writable("--to", target, file=True)
    if arguments.projector:
        if (Path(arguments.projector) / projector.CONFIG).exists():
            raise UserError(
                f"{arguments.projector} has a projector; choose another folder"
            )
        check_writable("--projector", arguments.projector)
    elif arguments.no_images:
        raise UserError("--no-images needs --projector")
    embedder = load_embedder(arguments.embedder)
    from data_pipelines.readers.embeddable import open_faces

    sides = None if arguments.unaligned else (embedder.network.input_spec.size,)
    progress = functools.partial(progress_bar, label="check", leave=False)
    faces = open_faces(
        Path(arguments.source),
        sides,
        progress,
        level=arguments.identity_level,
        max_bad=arguments.max_bad,
    )
    parts = []
    count, size = len(faces.names), embedder.batch_size
    batches = (faces.images[start : start + size] for start in range(0, count, size))
    thumbnails = None
    if arguments.projector and not arguments.no_images:
        thumbnails = projector.Thumbnails(count)
        batches = thumbnails.of(batches)
    with progress_bar(total=count, label="embed") as bar:
        for part in embedder.embed_each(batches, normalize=False, flip=arguments.flip):
            if not parts:
                needed = count * 4 * part.shape[1]
                check_writable("--to", target, file=True, needed=needed)
            parts.append(part)
            bar.update(len(part))
        seconds = max(bar.format_dict["elapsed"], 1e-9)
    embeddings = np.concatenate(parts)
    columns = {
        "names": np.array(faces.names, str),
        "identities": np.array(faces.identities, str),
        "embeddings": l2_normalize(embeddings).astype(np.float32),
        "norms": np.linalg.norm(embeddings, axis=1),
    }
    about = json.dumps(embedder.describe() | {"flip": arguments.flip})
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file:
            if target.suffix == ".parquet":
                _write_parquet(file, columns, about)
            else:
                np.savez(file, allow_pickle=False, about=np.array(about), **columns)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    print(
        f"{count:,} embeddings of {embeddings.shape[1]} dimensions to {target}, "
        f"{len(set(faces.identities) - {''}):,} identities, "
        f"{count / seconds:,.0f} images/s"
    )
    print_left_out(faces.skipped, faces.bad, faces.note)
    if arguments.projector:
        labels = {"name": columns["names"], "identity": columns["identities"]}
        labels["norm"] = [f"{norm:.3f}" for norm in columns["norms"]]
        projector.write(arguments.projector, columns["embeddings"], labels, thumbnails)
        print(f"projector: tensorboard --logdir {arguments.projector}")
        if thumbnails is not None and not thumbnails.side:
            print(f"no thumbnails: {count:,} do not fit into one image")


def _write_parquet(file, columns: dict[str, np.ndarray], about: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    embeddings = columns["embeddings"]
    flat, size = pa.array(embeddings.ravel()), embeddings.shape[1]
    rows = {
        "name": columns["names"].tolist(),
        "identity": columns["identities"].tolist(),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, size),
        "norm": columns["norms"],
    }
    parquet.write_table(pa.table(rows, metadata={"fr_jax": about}), file)
