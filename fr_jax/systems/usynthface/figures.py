"""Figures of contrastive training: pairs, augmentation and cosines of the pairs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fr_jax import augment
from fr_jax.augment.image import Policy
from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Trained
from fr_jax.models.preprocess import resize
from fr_jax.report import figures

_SHOWN = 24  # pairs
_MEASURED = 256


@dataclasses.dataclass(eq=False)
class PairFigures:
    """An evaluator without metrics that draws three figures.

    pairs.png: augmented pairs; augmentation.png: every operation on two faces;
    pair_cosines.png: cosines of two views of one identity, and of different identities.

    Args:
      stream: of batches with `image`, `positive`, `label` and `seed`.
      faces: uint8 [2, H, W, 3] without augmentation, for augmentation.png.
      policy: augmentation on the device; () if the host augments; None for none.
      num_ops, magnitude: of RandAugment.
    """

    stream: Any
    faces: np.ndarray
    policy: Policy | None
    num_ops: int
    magnitude: int
    metric_names: Sequence[str] = dataclasses.field(default=(), init=False)
    _embedder: Embedder | None = dataclasses.field(default=None, init=False)

    def __call__(self, trained: Trained) -> dict[str, float]:
        self._embedder = trained.networks["embedding"]
        return {}

    def draw(self, folder: epath.Path) -> list[epath.Path]:
        """Draws the figures and returns their paths."""
        assert self._embedder is not None
        size = self._embedder.network.input_spec.size
        image, positive, label = self.views(_MEASURED, size)
        paths = [folder / "pairs.png", folder / "pair_cosines.png"]
        side_by_side = list(np.concatenate([image, positive], axis=2)[:_SHOWN])
        figures.contact_sheet(side_by_side, paths[0], columns=6)
        scores = self._embedder.embed(image) @ self._embedder.embed(positive).T
        pair = np.eye(len(label), dtype=bool)
        same_identity = (label[:, None] == label[None]) & (label >= 0)[:, None]
        counted = pair | ~same_identity
        curve = scores[counted], pair[counted]
        figures.cosines({"views trained on": curve}, paths[1])
        if self.policy is not None:
            paths.append(folder / "augmentation.png")
            self._draw_operations(paths[-1])
        return paths

    def _draw_operations(self, path: epath.Path) -> None:
        from data_pipelines.vision import rand_augment

        options = {"num_ops": self.num_ops, "magnitude": self.magnitude}
        examples = []
        for number, face in enumerate(self.faces):
            rng = np.random.default_rng(number)
            examples += rand_augment.examples(face, rng, **options)
        titles, images = zip(*examples)
        figures.contact_sheet(images, path, columns=10, titles=titles)

    def views(self, count: int, size: int) -> tuple[np.ndarray, ...]:
        """Returns the first pairs of a run: image, positive, uint8, and label.

        As in training, the device augments images of the network's size, the host
        images of their stored size.
        """
        stream = self.stream
        batches = [stream.batch_at(n) for n in range(-(-count // stream.batch_size))]
        image, positive, label, seed = (
            np.concatenate([np.asarray(batch[name]) for batch in batches])[:count]
            for name in ("image", "positive", "label", "seed")
        )

        @jax.jit
        def view(number, images):
            keys = augment.example_keys(jax.random.key(number), jnp.asarray(seed))
            images = augment.augment(keys, resize(images, size), self.policy or ())
            return jnp.round(images).astype(jnp.uint8)

        shown = (view(n, images) for n, images in enumerate((image, positive)))
        return (*map(np.asarray, shown), label)
