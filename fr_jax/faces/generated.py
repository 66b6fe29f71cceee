"""DiscoFaceGAN on the device: images of coefficients, and batches for training."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fr_jax import models
from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_range
from fr_jax.faces import batches
from fr_jax.faces.discofacegan import FACTORS, VARIED, align, landmarks, vary
from fr_jax.models import discofacegan
from fr_jax.models.discofacegan import NUM_CODES, NUM_NOISE
from fr_jax.system import Network

Array = jax.Array

NAME = "discofacegan"


class Drawn(NamedTuple):
    """Images of the generator.

    Attributes:
      image: uint8 RGB [B, S, S, 3].
      landmarks5: float32 [B, 5, 2] in their pixels.
    """

    image: Any
    landmarks5: Any


class Generator:
    """The network as jitted functions over all devices of this process.

    Args:
      network: of architecture 'discofacegan'.
      size: side of aligned faces; 0: whole images of 256 pixels.
      truncation: 1 for none; see `models.discofacegan`.
      batch_size: rows that are drawn at once.

    Raises:
      UserError: for another network, and settings out of range.
    """

    def __init__(
        self,
        network: Network,
        *,
        size: int = 112,
        truncation: float = 0.7,
        batch_size: int = 8,
        dtype: str = "",
    ):
        check(network)
        check_range("truncation", truncation, 0, 1)
        options = network.options | ({"dtype": dtype} if dtype else {})
        self._model: Any = models.create(network.architecture, **options)
        self.identities = self._model.identities
        devices = jax.local_devices()
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        mesh = jax.make_mesh(
            (len(devices),), ("data",), (jax.sharding.AxisType.Auto,), devices=devices
        )
        self._rows = sharding.batch_sharding(mesh)
        self._variables = jax.device_put(network.variables, sharding.replicated(mesh))
        self._coefficients = jax.jit(
            functools.partial(self._model.apply, method="coefficients")
        )
        options = {"size": size, "truncation": truncation}
        self._draw = jax.jit(
            functools.partial(draw, self._model, **options), out_shardings=self._rows
        )

    def coefficients(self, codes: np.ndarray, identity: Any = None) -> np.ndarray:
        """Returns coefficients float32 [N, 254] of codes z [N, 179].

        Args:
          identity: int [N], rows of stored identity coefficients; not used by a network
            with a decoder of identities.
        """
        codes = np.asarray(codes, np.float32)
        if codes.ndim != 2 or codes.shape[1] != NUM_CODES:
            shape = list(codes.shape)
            raise UserError(f"codes are [N, {NUM_CODES}], got {shape}")
        rows = np.zeros(len(codes), np.int32) if identity is None else identity
        return np.array(self._coefficients(self._variables, codes, rows))

    def images(self, coefficients: np.ndarray, noise: np.ndarray) -> Drawn:
        """Returns N images of coefficients [N, 254] and noise [N, 32]."""
        return next(self.each([(coefficients, noise)]))

    def each(self, batches: Any) -> Iterator[Drawn]:
        """Yields the images of (coefficients, noise) batch by batch.

        The next batch is computed while the caller uses the last one. Batches may have
        any length; those of equal length compile once.
        """
        pending = None
        for coefficients, noise in batches:
            parts = self._parts(coefficients, noise)
            if pending is not None:
                yield _joined(pending)
            pending = parts
        if pending is not None:
            yield _joined(pending)

    def _parts(self, coefficients: np.ndarray, noise: np.ndarray) -> list[Any]:
        lengths = {"coefficients": 254, "noise": NUM_NOISE}
        arrays = []
        for (name, length), value in zip(lengths.items(), (coefficients, noise)):
            array = np.asarray(value, np.float32)
            if array.ndim != 2 or array.shape[1] != length:
                raise UserError(f"{name} are [N, {length}], got {list(array.shape)}")
            arrays.append(array)
        count, size = len(arrays[0]), self.batch_size
        parts = []
        for start in range(0, count, size):
            rows = [array[start : start + size] for array in arrays]
            kept = len(rows[0])
            padded = [np.pad(a, ((0, size - kept), (0, 0)), "edge") for a in rows]
            placed = [jax.device_put(array, self._rows) for array in padded]
            parts.append((kept, self._draw(self._variables, *placed)))
        return parts


def _joined(parts: list[Any]) -> Drawn:
    columns = [[np.asarray(column)[:kept] for column in drawn] for kept, drawn in parts]
    return Drawn(*map(np.concatenate, zip(*columns)))


def check(network: Network) -> None:
    """Raises a UserError for a network that is not DiscoFaceGAN's."""
    if network.architecture != NAME:
        raise UserError(
            f"a {network.architecture} generates no faces from codes; give the "
            "generator that fr-jax import network.pkl --vae DIR --to G makes"
        )


def draw(
    model: Any,
    variables: Any,
    coefficients: Array,
    noise: Array,
    *,
    size: int = 112,
    truncation: float = 0.7,
) -> Drawn:
    """Returns images of coefficients [B, 254] and noise [B, 32]; a pure function.

    Args:
      model: `models.discofacegan.DiscoFaceGAN`.
      size: side of aligned faces; 0: whole images of 256 pixels.
    """
    images = model.apply(variables, coefficients, noise, truncation, method="draw")
    images, points = discofacegan.pixels(images), landmarks(coefficients)
    return Drawn(*(align(images, points, size) if size else (images, points)))


class Sampled:
    """Numbered images of numbered identities, for training: pure functions.

    Image n of an identity has its codes of identity and noise, and its own of
    expression, lighting and pose. Numbers do not depend on the devices.

    Args:
      network: of architecture 'discofacegan'; its variables are passed to functions.
      seed: selects the identities.
      factor: as in `draws`.
      truncation, size: as in `draw`.

    Raises:
      UserError: for another network, and settings out of range.
    """

    def __init__(
        self,
        network: Network,
        *,
        seed: int = 0,
        factor: int = 0,
        truncation: float = 0.7,
        size: int = 112,
        mesh: Mesh | None = None,
    ):
        check(network)
        check_range("truncation", truncation, 0, 1)
        check_range("factor", factor, 0, len(FACTORS) - 1)
        check_range("size", size, 16, 1024)
        self._model: Any = models.create(network.architecture, **network.options)
        self.identities = self._model.identities
        self._seed, self._factor = seed, factor
        self._options: dict[str, Any] = {"size": size, "truncation": truncation}
        self.mesh = mesh or sharding.make_mesh()

    def images(self, variables: Any, label: Array, number: Array) -> Array:
        """Returns images uint8 [B, S, S, 3]; every device draws its rows.

        Args:
          label, number: identity and image, [B] each.
        """

        def of_image(label, number):
            key = jax.random.fold_in(jax.random.key(self._seed), label)
            shared = jax.random.normal(key, (NUM_CODES + NUM_NOISE,))
            return shared, jax.random.normal(jax.random.fold_in(key, number), (VARIED,))

        rows = sharding.batch_sharding(self.mesh)
        label, number = jax.lax.with_sharding_constraint((label, number), rows)
        shared, fresh = jax.vmap(of_image)(label, number)
        codes = vary(shared[:, :NUM_CODES], fresh, self._factor)
        identity = label % max(self.identities, 1)
        apply = self._model.apply
        coefficients = apply(variables, codes, identity, method="coefficients")
        noise = shared[:, NUM_CODES:]
        drawn = draw(self._model, variables, coefficients, noise, **self._options)
        return drawn.image

    def batches(
        self, num_identities: int, batch_size: int, images_per_identity: int = 0
    ) -> Callable[[Array, Any], dict[str, Array]]:
        """Returns a function: (key, variables) -> image, label int32 [B].

        Args:
          num_identities: numbered from 0.
          images_per_identity: K for batches of B / K distinct identities with K images
            each; 0 samples the identity of every row independently.

        Raises:
          UserError: for a batch that is not divisible by K or by the mesh's shards.
        """
        each = images_per_identity
        batches.check(num_identities, batch_size, each)
        sharding.local_rows(self.mesh, batch_size)

        def make_batch(key: Array, variables: Any) -> dict[str, Array]:
            key_identities, key_images = jax.random.split(key)
            label = batches.labels(key_identities, num_identities, batch_size, each)
            number = jax.random.bits(key_images, (batch_size,), jnp.uint32)
            image = self.images(variables, label, number)
            return {"image": image, "label": label.astype(jnp.int32)}

        return make_batch
