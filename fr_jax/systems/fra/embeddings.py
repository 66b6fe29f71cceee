"""Embeddings of a run's images, computed once and stored with what they follow from."""

import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.systems.fra.faces import Faces
from fr_jax.training.data import Context
from fr_jax.training.digests import of_weights

Array = np.ndarray
FILE = "embeddings.npz"
_CHUNK = 256  # images decoded at a time


class Origin(NamedTuple):
    """What embeddings follow from; they are reused only if all of it is equal.

    Attributes:
      embedder: architecture and digest of the weights.
      input: its input specification.
      images: number of images and digest of their pixels, in order.
    """

    embedder: str
    input: str
    images: str

    def describe(self) -> str:
        """Returns the origin as text, for messages."""
        return f"{self.images} by {self.embedder}, {self.input}"


def of_faces(
    embedder: Embedder, parts: Sequence[Faces], folder: str, context: Context
) -> list[Array]:
    """Returns raw embeddings float32 [N, D] of each part, with its own input.

    They are stored in FOLDER/embeddings.npz, and read from there if embedder, input
    specification and images are the same; otherwise a line says which differ, and they
    are computed again. Several processes neither read nor store them.

    Args:
      folder: '' stores nothing.

    Raises:
      UserError: for a network without embeddings, and embeddings that are not finite.
    """
    origin = _origin(embedder, parts)
    path = None
    if folder and jax.process_count() == 1:
        path = epath.Path(folder) / FILE
    embeddings = None if path is None else _stored(path, origin, context)
    if embeddings is None:
        embeddings = np.concatenate(
            [
                embedder.embed_raw(
                    part.pixels(),
                    progress="embedding faces" * context.show_progress,
                )["embedding"]
                for part in parts
            ]
        ).astype(np.float32)
        if not np.isfinite(embeddings).all():
            row = int(np.argmax(~np.isfinite(embeddings).all(axis=1)))
            raise UserError(
                f"image {row} of {len(embeddings):,}: the embedder gives values that "
                "are not finite; give another: --given embedder=EMBEDDER"
            )
        if path is not None:
            _store(path, origin, embeddings)
    return np.split(embeddings, np.cumsum([len(part) for part in parts])[:-1])


def distance(embeddings: Array, label: Array, limit: int = 2000) -> float:
    """Returns the mean Euclidean distance of embeddings of different identities.

    Args:
      limit: rows that are compared at most, equally spaced.
    """
    rows = np.arange(0, len(label), -(-len(label) // limit))
    x, label = embeddings[rows].astype(np.float64), label[rows]
    square = (x**2).sum(axis=1)
    squares = square[:, None] + square[None, :] - 2 * x @ x.T
    different = label[:, None] != label[None, :]
    return float(np.sqrt(np.maximum(squares[different], 0)).mean())


def identity(embedder: Embedder) -> str:
    """Returns architecture, digest of weights and options, and input, as text."""
    return ", ".join(_identity(embedder))


def _identity(embedder: Embedder) -> tuple[str, str]:
    network = embedder.network
    weights = of_weights({"": network.variables})[""]
    options = json.dumps(network.options, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{weights} {options}".encode()).hexdigest()[:16]
    return f"{network.architecture} {digest}", json.dumps(network.input_spec._asdict())


def _origin(embedder: Embedder, parts: Sequence[Faces]) -> Origin:
    hashed, count = hashlib.blake2b(digest_size=8), 0
    for part in parts:
        count += len(part)
        if part.digest is not None:
            hashed.update(np.asarray(part.digest, np.uint64).tobytes())
            continue
        images = part.pixels()
        for start in range(0, len(images), _CHUNK):
            hashed.update(
                np.ascontiguousarray(images[start : start + _CHUNK]).tobytes()
            )
    return Origin(*_identity(embedder), f"{count:,} images {hashed.hexdigest()}")


def _stored(path: Any, origin: Origin, context: Context) -> Array | None:
    """Returns the embeddings of this origin in a file, or None."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            about, embeddings = json.loads(str(arrays["about"])), arrays["embedding"]
        found = Origin(**{name: about[name] for name in Origin._fields})
        if about["sha256"] != _digest(embeddings) or embeddings.ndim != 2:
            raise ValueError("its checksum is wrong")
    # NumPy, zipfile and json raise all kinds of errors for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        _say(context, f"{path}: damaged ({reason:.200}); computed again")
        return None
    if found != origin:
        _say(
            context,
            f"{path}: embeddings of {found.describe()}; this run needs those of "
            f"{origin.describe()}: computed again",
        )
        return None
    _say(context, f"{path}: embeddings of {origin.describe()} are reused")
    return embeddings


def _store(path: Any, origin: Origin, embeddings: Array) -> None:
    about = {**origin._asdict(), "sha256": _digest(embeddings)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), embedding=embeddings)
    part.replace(path)


def _digest(embeddings: Array) -> str:
    shape = f"{embeddings.dtype} {embeddings.shape}".encode()
    data = np.ascontiguousarray(embeddings).tobytes()
    return hashlib.sha256(shape + data).hexdigest()


def _say(context: Context, line: str) -> None:
    if context.show_progress:
        print(line, file=sys.stderr)
