"""Images pooled to templates, in the order of IJB-B and IJB-C.

| switch | insightface | MagFace | |
|---|---|---|---|
| `flip` | yes | no | add the embedding of the mirrored image |
| `norm` | yes | yes | keep the length of an image's embedding |
| `detector` | yes | no | weight an image by the score of the face detector |
| `media` | mean | unit | scale the mean of a medium to length 1 |
| `score` | cosine | angle | 1 - angle / pi |

A template is the sum of the means of its media, scaled to length 1. MagFace's mean over
media has the same direction.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import templates, verification


class Switches(NamedTuple):
    """Choices of a template protocol; see the table above."""

    flip: bool = True
    norm: bool = True
    detector: bool = True
    media: str = "mean"
    score: str = "cosine"


VARIANTS = {
    "insightface": Switches(),
    "magface": Switches(flip=False, detector=False, media="unit", score="angle"),
}


@dataclasses.dataclass
class TemplateSet:
    """Images [N] of media [M] of templates [T].

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3], or rows of a file of embeddings.
      media: int [N], the medium of each image.
      template: int [M], the template of each medium, ascending, every one from 0 on.
      switches: of the protocol.
      detector: float [N], scores of the face detector; needed by that switch.
      names: of the images, by which reports tell sets apart.
    """

    name: str
    images: Any
    media: np.ndarray
    template: np.ndarray
    switches: Switches = VARIANTS["insightface"]
    detector: np.ndarray | None = None
    names: Sequence[str] = ()

    def __post_init__(self):
        if self.switches.detector and self.detector is None:
            raise UserError(f"{self.name}: detector=yes needs scores of a detector")

    def embed(self, trained: Trained, progress: str = "") -> np.ndarray:
        """Returns templates of unit length, float32 [T, D].

        Raises:
          UserError: for embeddings that are not finite, and templates of length 0.
        """
        options = {"flip": self.switches.flip, "name": self.name, "progress": progress}
        blocks = embedded.blocks(trained, self.images, **options)
        means, _ = templates.media_means(
            self._weighted(blocks), self.media, num_media=len(self.template)
        )
        unit_media = self.switches.media == "unit"
        rows = templates.pooled(means, self.template, unit_media=unit_media)
        embedded.refuse_zeros(rows, f"{self.name}: {{}} templates")
        return rows

    def _weighted(self, blocks):
        done = 0
        for rows in blocks:
            if not self.switches.norm:
                rows = verification.l2_normalize(rows)
            if self.switches.detector and self.detector is not None:
                rows = rows * self.detector[done : done + len(rows), None]
            done += len(rows)
            yield rows


@dataclasses.dataclass
class ListedTemplates:
    """Templates [T] of listed images, each of which may be in several templates.

    A template is the sum of its images' embeddings of unit length, scaled to length 1.

    Attributes:
      name: first part of the key of every result.
      images: [N], see `TemplateSet`.
      members, template: int [K], an image and its template, ascending, from 0 on.
      flip: add the embeddings of the mirrored images.
      names: of the images, by which reports tell sets apart.
    """

    name: str
    images: Any
    members: np.ndarray
    template: np.ndarray
    flip: bool = True
    names: Sequence[str] = ()

    def embed(self, trained: Trained, progress: str = "") -> np.ndarray:
        """Returns templates of unit length, float32 [T, D]; errors as `TemplateSet`."""
        options = {"flip": self.flip, "name": self.name, "progress": progress}
        rows = embedded.unit_rows(trained, self.images, **options)
        rows = templates.pooled(rows[self.members], self.template)
        embedded.refuse_zeros(rows, f"{self.name}: {{}} templates")
        return rows
