"""Inputs of face embedders as the program of FRA's authors computes them.

| embedder | input | of the authors' program |
|---|---|---|
| iResNet: MagFace, ArcFace | that of its weights | BGR, pixel / 255 |
| Sphere20, Sphere20a | central 112 x 96 pixels | BGR, face squeezed to 96 x 112 |

The former is right for MagFace only. The latter exchanges height and width; the network
runs, since its last map has 6 x 7 cells in place of 7 x 6, but it was not trained so.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.models.preprocess import normalise

_SQUEEZED = "squeezed"  # template: the whole face, whatever its proportions


class _Squeezed(Embedder):
    """An embedder whose input is the whole face in other proportions."""

    def apply(self, variables: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """See `Embedder.apply`."""
        spec, images = self.network.input_spec, jnp.float32(batch["image"])
        shape = (len(images), *spec.shape)
        # As OpenCV's, without antialiasing.
        images = jax.image.resize(images, shape, "linear", antialias=False)
        return {"embedding": self._model.apply(variables, normalise(images, spec))}


def published(embedder: Embedder) -> Embedder:
    """Returns the embedder with the input of the authors' program.

    Raises:
      UserError: for another architecture than those of the table above.
    """
    network = embedder.network
    changes: dict[str, Any] = {"colour": "BGR", "mean": 0.0, "scale": 255.0}
    kind = Embedder
    if network.architecture.startswith("sphere20"):
        height, width = network.input_spec.shape[:2]
        changes |= {"mean": 127.5, "scale": 128.0, "template": _SQUEEZED}
        changes["crop"] = (width, height)
        kind = _Squeezed
    elif not network.architecture.startswith("iresnet"):
        raise UserError(
            f"config.data.faithful_inputs: of {network.architecture} no published "
            "inputs are known, only of iresnet and sphere20; set it to False"
        )
    spec = network.input_spec._replace(**changes)
    return kind(
        network._replace(input_spec=spec),
        embedder.provenance,
        batch_size=embedder.batch_size,
        digests=embedder.digests,
    )


def as_trained(embedder: Embedder, provenance: Mapping[str, Any]) -> Embedder:
    """Returns the embedder with the input that an augmenter was trained with.

    Args:
      provenance: of the augmenter.
    """
    return published(embedder) if provenance.get("faithful_inputs") else embedder
