"""The product of training: a network with all it takes to use it right.

A folder with `embedder.json` (architecture, input specification, provenance, digest of
the weights) and `weights.npz` (variables, and a canary: fixed inputs with the outputs
they gave when it was saved). Loading checks both, so a network that would embed
differently here than where it was made is refused.
"""

import functools
import hashlib
import io
import json
import os
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.evaluate import ImageEmbedder
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.system import Network

PyTree = Any

FORMAT = 1
_DESCRIPTION, _WEIGHTS = "embedder.json", "weights.npz"
_CANARIES = 2
_AGREEMENT = 0.9999  # least cosine of a canary's embedding with the stored one


class Embedder:
    """A network that turns aligned uint8 RGB faces into embeddings.

    Attributes:
      network: architecture, options, variables and input specification.
      provenance: where it came from: data sets, their licences, people, steps.
    """

    def __init__(
        self,
        network: Network,
        provenance: dict[str, Any] | None = None,
        *,
        batch_size: int | None = None,
    ):
        self.network = network
        self.provenance = provenance or {}
        if batch_size is None:
            batch_size = 16 if jax.default_backend() == "cpu" else 256
        self._model = models.create(network.architecture, **network.options)
        self._images = ImageEmbedder(self.apply, batch_size)
        self._variables = jax.tree.map(jnp.asarray, network.variables)

    def apply(self, variables: PyTree, batch: dict[str, Any]) -> dict[str, jax.Array]:
        """Returns {'embedding': raw [B, D]} of {'image': uint8 RGB [B, H, W, 3]}."""
        images = prepare(batch["image"], self.network.input_spec)
        embedding: Any = self._model.apply(variables, images)
        return {"embedding": embedding}

    def views(self, images: Any, *, flip: bool, progress: str = "") -> np.ndarray:
        """Returns raw embeddings [N, V, D] of the images and, with `flip`, mirrored."""
        return self._images(self._variables, images, flip=flip, progress=progress)

    def embed(
        self, images: Any, *, normalize: bool = True, flip: bool = False
    ) -> np.ndarray:
        """Returns embeddings float32 [N, D] of uint8 RGB faces [N, H, W, 3].

        Args:
          normalize: scale each embedding to length 1.
          flip: add the embedding of the mirrored face first.

        Raises:
          UserError: for anything but uint8 [N, H, W, 3].
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images are {images.dtype} {images.shape}, not uint8 RGB [N, H, W, 3]"
            )
        embeddings = self.views(images, flip=flip).sum(axis=1)
        if normalize:
            lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(lengths, 1e-12)
        return embeddings

    def save(self, path: str | os.PathLike) -> None:
        """Writes the embedder to a folder, with its canary."""
        folder = epath.Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        canaries = _canary_images(self.network.input_spec.size)
        arrays: dict[str, Any] = {
            "/".join(name): np.asarray(leaf)
            for name, leaf in flax.traverse_util.flatten_dict(
                dict(self.network.variables)
            ).items()
        }
        arrays["canary/images"] = canaries
        arrays["canary/embeddings"] = self.embed(canaries, normalize=False)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        weights = buffer.getvalue()
        description = {
            "format": FORMAT,
            "kind": self.network.kind,
            "architecture": self.network.architecture,
            "options": self.network.options,
            "input_spec": self.network.input_spec._asdict(),
            "provenance": self.provenance,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
        }
        if jax.process_index():  # every process took part in the canary, one writes
            return
        (folder / _WEIGHTS).write_bytes(weights)
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1))


def load_embedder(
    path: str | os.PathLike, *, batch_size: int | None = None, check: bool = True
) -> Embedder:
    """Returns the embedder of a folder.

    Args:
      batch_size: rows of its compiled batch; 16 on a CPU, else 256.
      check: run the canary; it costs one batch.

    Raises:
      UserError: for a folder without one, weights that were altered, or a canary that
        embeds differently here.
    """
    folder = epath.Path(path)
    if not (folder / _DESCRIPTION).exists():
        raise UserError(
            f"{path}: no embedder here (no {_DESCRIPTION}); training leaves one in "
            "WORKDIR/embedder"
        )
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        if description["format"] != FORMAT:
            raise UserError(f"{path}: format {description['format']}, not {FORMAT}")
        spec = InputSpec.from_dict(description["input_spec"])
        weights = (folder / _WEIGHTS).read_bytes()
        digest = description["weights_sha256"]
        if hashlib.sha256(weights).hexdigest() != digest:
            raise UserError(f"{folder / _WEIGHTS}: altered or cut short; copy it again")
        with np.load(io.BytesIO(weights), allow_pickle=False) as file:
            arrays = dict(file)
        images = arrays.pop("canary/images")
        expected = arrays.pop("canary/embeddings")
        leaves = {tuple(name.split("/")): leaf for name, leaf in arrays.items()}
        network = Network(
            description["architecture"],
            description["options"],
            flax.traverse_util.unflatten_dict(leaves),
            spec,
            description["kind"],
        )
        embedder = Embedder(network, description["provenance"], batch_size=batch_size)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged embedder ({error})") from error
    if check:
        found = embedder.embed(images, normalize=False)
        cosine = np.min(
            np.sum(found * expected, axis=1)
            / (np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1))
        )
        if not cosine >= _AGREEMENT:
            raise UserError(
                f"{path}: canary failed: its test patterns embed with cosine "
                f"{cosine:.4f} to what they gave when it was saved"
            )
    return embedder


@functools.cache
def _canary_images(size: int) -> np.ndarray:
    """Fixed smooth colour patterns, uint8 [2, size, size, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (_CANARIES, 8, 8, 3)).astype(np.float32)
    shape = (_CANARIES, size, size, 3)
    return np.asarray(jax.image.resize(coarse, shape, "linear")).astype(np.uint8)
