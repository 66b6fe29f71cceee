"""What a stored evaluation says of the embedder and the program behind it."""

import hashlib
import platform
from importlib import metadata
from typing import Any

import jax
import numpy as np

import fr_jax
from fr_jax.embedder import Embedder
from fr_jax.evaluation.embeddings import StoredEmbeddings

_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn")


def about(name: str, embedder: Embedder | StoredEmbeddings) -> dict[str, Any]:
    """Returns what a report says of an embedder, as JSON values.

    Names of training identities are replaced by their number. Of stored embeddings the
    digest is that of their file's contents.
    """
    described = embedder.describe()
    provenance = dict(described["provenance"])
    for key in ("identities", "held_out"):
        if key in provenance:
            counts = {data: len(names) for data, names in provenance[key].items()}
            provenance[key] = counts
    if isinstance(embedder, StoredEmbeddings):
        digest = embedder.digest()
    else:
        digest = weights_digest(embedder.network.variables)
    return {"name": name, "digest": digest} | described | {"provenance": provenance}


def weights_digest(variables: Any) -> str:
    """Returns a digest of a pytree of arrays, whatever file they came from."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.ascontiguousarray(leaf)
        header = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        digest.update(header.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


def versions() -> dict[str, str]:
    """Returns the versions of fr_jax, Python and the numerical libraries."""
    own = {"fr_jax": fr_jax.__version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in _LIBRARIES}
