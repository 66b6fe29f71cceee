"""A trained FRA network, applied to embeddings: the same faces in other poses."""

import functools
import math
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.models.fra import SIZE
from fr_jax.systems.fra import stored
from fr_jax.systems.fra.inputs import as_trained

Array = np.ndarray


class Augmenter:
    """Generates embeddings in the poses of landmark maps.

    Args:
      network: embedder of kind 'augmenter', from training WORKDIR/embedder_augmenter;
        its provenance has `embedder`, the face embedder whose embeddings it augments.
      batch_size: rows of the compiled batch.

    Attributes:
      network: that embedder.
      embedding_size: D.

    Raises:
      UserError: for a network of another kind.
    """

    def __init__(self, network: Embedder, *, batch_size: int = 64):
        about = network.network
        if about.kind != "augmenter":
            raise UserError(
                f"a network of kind {about.kind!r} ({about.architecture}) augments no "
                "embeddings; give an augmenter, such as WORKDIR/embedder_augmenter"
            )
        self.network = network
        self._model: Any = models.create(about.architecture, **about.options)
        self.embedding_size = int(self._model.embedding_size)
        self._batch_size = batch_size
        often = functools.partial(jax.jit, compiler_options=cpu.compiler_options())
        # Of few rows, for figures.
        once = functools.partial(jax.jit, compiler_options=cpu.quick_compilation())
        self._outputs = {
            "generated": often(self._output("generated")),
            "reconstruction": once(self._output("reconstruction")),
            "attention": once(self._attention),
        }

    def generate(
        self,
        rows: Array,
        maps: Array,
        given: Array | None = None,
        picture: Array | None = None,
    ) -> Array:
        """Returns embeddings float32 [M, D], raw, in the poses of the maps.

        Args:
          rows: [N, D], raw, of the augmenter's embedder.
          maps: [P, 112, 112, 1] of 0 and 1.
          given, picture: int [M], the row and the map of each result; None: row n has
            map n.

        Raises:
          UserError: for other shapes, and values that are not finite.
        """
        return self._batched("generated", rows, maps, given, picture)

    def reconstruct(self, maps: Array) -> Array:
        """Returns float32 [P, 112, 112, 1] in [0, 1], the output of the autoencoder."""
        rows = np.zeros((len(maps), self.embedding_size), np.float32)
        return self._batched("reconstruction", rows, maps)

    def attention(self, rows: Array, maps: Array) -> Array:
        """Returns attention weights of the class token, [N, layers, heads, 4, 4].

        To the patches of the image of code (its upper half) and embedding (its lower
        half), without that to the token itself; the sides are those of the image in
        patches. Arguments as of `generate`.
        """
        return self._batched("attention", rows, maps)

    def _batched(
        self,
        output: str,
        rows: Array,
        maps: Array,
        given: Array | None = None,
        picture: Array | None = None,
    ) -> Array:
        rows, maps = np.asarray(rows, np.float32), np.asarray(maps)
        _check_maps(maps)
        if rows.ndim != 2 or rows.shape[1] != self.embedding_size:
            raise UserError(
                f"the augmenter takes embeddings [N, {self.embedding_size}], got "
                f"{list(rows.shape)}"
            )
        if given is None or picture is None:
            if len(rows) != len(maps):
                raise UserError(f"{len(rows)} embeddings and {len(maps)} landmark maps")
            given = picture = np.arange(len(rows))
        if not np.isfinite(rows).all():
            raise UserError("the embeddings have values that are not finite")
        size, count = self._batch_size, len(given)
        if not count:
            return np.zeros((0, self.embedding_size), np.float32)
        parts = []
        for start in range(0, count, size):
            # The last batch is padded with its first row.
            numbers = np.arange(start, start + size)
            numbers = np.where(numbers < count, numbers, start)
            batch = maps[picture[numbers]].astype(np.float32), rows[given[numbers]]
            outputs = self._outputs[output](self.network.variables, *batch)
            parts.append(np.asarray(outputs)[: count - start])
        return np.concatenate(parts)

    def _output(self, name: str) -> Callable[..., Any]:
        return lambda variables, maps, rows: self._model.apply(variables, maps, rows)[
            name
        ]

    def _attention(self, variables: Any, maps: Any, rows: Any) -> Any:
        _, stored = self._model.apply(
            variables,
            maps,
            rows,
            capture_intermediates=lambda module, _: module.name == "in_proj",
            mutable="intermediates",
        )
        layers, heads = stored["intermediates"]["vit"], self._model.vit_heads
        weights = []  # of each layer, [B, heads, patches]
        for number in range(self._model.vit_depth):
            (joint,) = layers[f"transformer_{number}"]["attn"]["in_proj"]["__call__"]
            query, key, _ = einops.rearrange(
                joint, "b t (three h d) -> three b h t d", three=3, h=heads
            )
            scores = jnp.einsum("bhd,bhsd->bhs", query[:, :, 0], key)
            scores = scores / math.sqrt(query.shape[-1])
            weights.append(jax.nn.softmax(scores)[..., 1:])
        side = math.isqrt(weights[0].shape[-1])
        return einops.rearrange(weights, "l b h (y x) -> b l h y x", y=side)


def check_embedder(augmenter: Augmenter, embedder: Embedder) -> bool:
    """Raises a UserError unless an augmenter was trained for this embedder.

    Architecture, weights, options and input specification are compared, so that another
    embedder of equal length is refused as well.

    Returns:
      Whether the augmenter states its embedder; an imported one does not, and only the
      lengths are compared.
    """
    stated = augmenter.network.provenance.get("embedder")
    given = stored.identity(embedder)
    size = embedder.network.options.get("embedding_size")
    if stated is not None and stated != given:
        raise UserError(
            f"the augmenter was trained for embeddings of {stated}; the given embedder "
            f"is {given}: give the one it was trained with, or train another augmenter"
        )
    if stated is None and size is not None and size != augmenter.embedding_size:
        raise UserError(
            f"the augmenter takes embeddings of {augmenter.embedding_size} values; the "
            f"given embedder, {given}, returns {size}"
        )
    return stated is not None


def augment_embeddings(
    embedder: Embedder, fra: Embedder, images: Any, landmark_maps: Array
) -> Array:
    """Returns embeddings of faces in other poses, to train any classifier with.

    Row n * P + p is that of image n in the pose of map p: labels of the images are
    `np.repeat(labels, P)`, those of the poses `np.tile(poses, N)`.

        from sklearn.svm import SVC
        from fr_jax import load_embedder
        from fr_jax.systems.fra import augment_embeddings

        embedder = load_embedder("runs/recogniser/embedder")
        fra = load_embedder("runs/fra/embedder_augmenter")
        real = embedder.embed(images, normalize=False)
        made = augment_embeddings(embedder, fra, images, maps)
        rows = np.concatenate([real, made])
        names = np.concatenate([labels, np.repeat(labels, len(maps))])
        classifier = SVC().fit(rows, names)

    Args:
      embedder: the face embedder that the augmenter was trained with.
      fra: a trained augmenter, WORKDIR/embedder_augmenter.
      images: N faces, as `Embedder.embed` takes them.
      landmark_maps: [P, 112, 112, 1] of 0 and 1, one for each target pose, as
        `faces.landmark_maps` draws them.

    Returns:
      float32 [N * P, D], raw.

    Raises:
      UserError: for an augmenter of another embedder, naming both, and maps of another
        form.
    """
    augmenter, embedder = Augmenter(fra), as_trained(embedder, fra.provenance)
    check_embedder(augmenter, embedder)
    maps = np.asarray(landmark_maps)
    _check_maps(maps)
    real = embedder.embed(images, normalize=False)
    given, picture = np.divmod(np.arange(len(real) * len(maps)), max(len(maps), 1))
    return augmenter.generate(real, maps, given, picture)


def _check_maps(maps: Array) -> None:
    if maps.ndim != 4 or maps.shape[1:] != (SIZE, SIZE, 1):
        raise UserError(
            f"landmark maps are [N, {SIZE}, {SIZE}, 1], got {list(maps.shape)}"
        )
    if not ((maps == 0) | (maps == 1)).all():
        raise UserError("landmark maps have the values 0 and 1 only")
