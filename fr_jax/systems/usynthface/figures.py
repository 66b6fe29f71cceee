"""Pictures of learning without labels: what goes in, and how far apart it comes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from data_pipelines.pair_stream import PairStream
from data_pipelines.vision import rand_augment as randaugment
from fr_jax import augment
from fr_jax.embedder import Embedder
from fr_jax.models.preprocess import resize
from fr_jax.report import figures

_SHOWN = 24  # pairs
_JUDGED = 256
Policy = Sequence[tuple[str, Mapping[str, Any]]]


def before(
    config: ConfigDict, stream: Any, policy: Policy, folder: epath.Path
) -> list[epath.Path]:
    """Draws pairs as the network sees them, and every operation on some faces.

    Args:
      policy: what the device does to images; () where the host does it, or nobody.

    Returns what was written.
    """
    image, positive, _ = _views(config, stream, policy, _SHOWN)
    written = [folder / "pairs.png"]
    beside = list(np.concatenate([image, positive], axis=2))
    figures.contact_sheet(beside, written[0], columns=6)
    if config.data.augment == "none":
        return written
    if isinstance(stream, PairStream):
        faces = stream.fetch(stream.numbers(0)[1][:2, 0])
    else:
        faces = np.asarray(stream.batch_at(0)["image"][:2])
    written.append(folder / "augmentation.png")
    titles, examples = zip(
        *(
            example
            for number, face in enumerate(faces)
            for example in randaugment.examples(
                face,
                np.random.default_rng([config.train.seed, number]),
                num_ops=config.data.num_ops,
                magnitude=config.data.magnitude,
            )
        )
    )
    figures.contact_sheet(examples, written[1], columns=10, titles=titles)
    return written


def after(
    config: ConfigDict,
    embedder: Embedder,
    stream: Any,
    policy: Policy,
    folder: epath.Path,
) -> epath.Path:
    """Draws cosines of positives, two views of one person, and of negatives."""
    image, positive, label = _views(config, stream, policy, _JUDGED)
    scores = embedder.embed(image) @ embedder.embed(positive).T  # [N, N]
    same = np.eye(len(label), dtype=bool)
    nobody = label < 0
    own = (label[:, None] == label[None]) & ~nobody[:, None]
    counted = same | ~own
    path = folder / "pair_cosines.png"
    figures.cosines({"views trained on": (scores[counted], same[counted])}, path)
    return path


def _views(
    config: ConfigDict, stream: Any, policy: Policy, count: int
) -> tuple[np.ndarray, ...]:
    """The first pairs of a run: image, positive uint8 [n, S, S, 3] and label [n].

    S is the network's `image_size`. As in training, what the device augments has that
    size already; the host has augmented images of the size that they come in.
    """
    batches = [stream.batch_at(n) for n in range(-(-count // stream.batch_size))]
    image, positive, label, seed = (
        np.concatenate([np.asarray(batch[name]) for batch in batches])[:count]
        for name in ("image", "positive", "label", "seed")
    )

    @jax.jit
    def view(number, images):
        keys = augment.example_keys(jax.random.key(number), jnp.asarray(seed))
        images = resize(images, config.system.image_size)
        return jnp.round(augment.augment(keys, images, policy)).astype(jnp.uint8)

    image, positive = (
        np.asarray(view(number, images))
        for number, images in enumerate((image, positive))
    )
    return image, positive, label
