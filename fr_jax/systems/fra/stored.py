"""What a network computes of a run's images, once, stored with what it follows from."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from etils import epath

from fr_jax.embedder import Embedder
from fr_jax.training.data import Context
from fr_jax.training.digests import of_weights

Array = np.ndarray
_CHUNK = 256  # images decoded at a time


class Images(Protocol):
    """Images with a length and slices; `digest` uint64 [N] of their pixels, or None."""

    digest: Array | None

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> Array: ...


class Origin(NamedTuple):
    """What stored values follow from; they are reused only if all of it is equal.

    Attributes:
      network: architecture and digest of the weights.
      input: its input specification.
      images: number of images and digest of their pixels, in order.
    """

    network: str
    input: str
    images: str

    def describe(self) -> str:
        """Returns the origin as text, for messages."""
        return f"{self.images} by {self.network}, {self.input}"


def once(
    what: str,
    network: Embedder,
    images: Sequence[Images],
    folder: str,
    context: Context,
    compute: Callable[[], Array],
) -> Array:
    """Returns values of images, a row for each; those of a file if there are any.

    FOLDER/WHAT.npz is read if network, input specification and images are the same;
    otherwise a line says which differ, and the values are computed and stored. Several
    processes neither read nor store them.

    Args:
      folder: '' stores nothing.
    """
    if not folder or jax.process_count() > 1:
        return compute()
    origin = Origin(*_identity(network), _digest_of_images(images))
    path = epath.Path(folder) / f"{what}.npz"
    values = _read(path, what, origin, context)
    if values is None:
        values = compute()
        _write(path, origin, values)
    return values


def identity(network: Embedder) -> str:
    """Returns architecture, digest of weights and options, and input, as text."""
    return ", ".join(_identity(network))


def _identity(network: Embedder) -> tuple[str, str]:
    about = network.network
    weights = of_weights({"": about.variables})[""]
    options = json.dumps(about.options, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{weights} {options}".encode()).hexdigest()[:16]
    return f"{about.architecture} {digest}", json.dumps(about.input_spec._asdict())


def _digest_of_images(parts: Sequence[Images]) -> str:
    hashed, count = hashlib.blake2b(digest_size=8), 0
    for images in parts:
        count += len(images)
        if images.digest is not None:
            hashed.update(np.asarray(images.digest, np.uint64).tobytes())
            continue
        for start in range(0, len(images), _CHUNK):
            part = images[start : start + _CHUNK]
            hashed.update(np.ascontiguousarray(part).tobytes())
    return f"{count:,} images {hashed.hexdigest()}"


def _read(path: Any, what: str, origin: Origin, context: Context) -> Array | None:
    """Returns the values of this origin in a file, or None."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            about, values = json.loads(str(arrays["about"])), arrays["values"]
        found = Origin(**{name: about[name] for name in Origin._fields})
        if about["sha256"] != _digest(values):
            raise ValueError("its checksum is wrong")
    # NumPy, zipfile and json raise all kinds of errors for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        say(context, f"{path}: damaged ({reason:.200}); computed again")
        return None
    if found != origin:
        say(
            context,
            f"{path}: {what} of {found.describe()}; this run needs those of "
            f"{origin.describe()}: computed again",
        )
        return None
    say(context, f"{path}: {what} of {origin.describe()} are reused")
    return values


def _write(path: Any, origin: Origin, values: Array) -> None:
    about = {**origin._asdict(), "sha256": _digest(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), values=values)
    part.replace(path)


def _digest(values: Array) -> str:
    shape = f"{values.dtype} {values.shape}".encode()
    data = np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(shape + data).hexdigest()


def say(context: Context, line: str) -> None:
    """Prints a line of a run, in process 0 only."""
    if context.show_progress:
        print(line, file=sys.stderr)
