"""DiscoFaceGAN on the device: images of coefficients, and batches for training."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from fr_jax import models
from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_range
from fr_jax.faces import batches
from fr_jax.faces.discofacegan import FACTORS, VARIED, align, landmarks, vary
from fr_jax.models import discofacegan
from fr_jax.models.discofacegan import NUM_CODES, NUM_COEFFICIENTS, NUM_NOISE
from fr_jax.system import Network

Array = jax.Array

NAME = "discofacegan"
CHUNK = 32  # images of a batch generated at a time by each device, about 2 GB


class GeneratedImages(NamedTuple):
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
      batch_size: images that are generated at once.

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
        self._model = _model(network, dtype)
        check_range("truncation", truncation, 0, 1)
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
        self._generate = jax.jit(
            functools.partial(generate, self._model, size=size, truncation=truncation),
            out_shardings=self._rows,
        )

    def coefficients(self, codes: np.ndarray, identity: Any = None) -> np.ndarray:
        """Returns coefficients float32 [N, 254] of codes z [N, 179].

        Args:
          identity: int [N], rows of stored identity coefficients; not used by a network
            with a decoder of identities.

        Raises:
          UserError: for codes of another shape, and for missing or unknown identities.
        """
        codes = np.asarray(codes, np.float32)
        if codes.ndim != 2 or codes.shape[1] != NUM_CODES:
            shape = list(codes.shape)
            raise UserError(f"codes are [N, {NUM_CODES}], got {shape}")
        return np.array(
            self._coefficients(self._variables, codes, self._stored(identity, codes))
        )

    def _stored(self, identity: Any, codes: np.ndarray) -> np.ndarray:
        """Returns the rows of stored identity coefficients, int32 [N]."""
        if not self.identities:
            return np.zeros(len(codes), np.int32)
        if identity is None:
            raise UserError(
                f"the generator has coefficients of {self.identities:,} identities and "
                "no decoder of identities: give their numbers, as in "
                "coefficients(draw.codes, draw.identity)"
            )
        rows = np.asarray(identity)
        if rows.shape != (len(codes),):
            raise UserError(f"identity is [{len(codes)}], got {list(rows.shape)}")
        if (outside := rows[(rows < 0) | (rows >= self.identities)]).size:
            raise UserError(
                f"identity {outside[0]}: the generator has coefficients of "
                f"{self.identities:,} identities, numbered from 0"
            )
        return rows.astype(np.int32)

    def images(self, coefficients: np.ndarray, noise: np.ndarray) -> GeneratedImages:
        """Returns N images of coefficients [N, 254] and noise [N, 32]."""
        parts = list(self.each([(coefficients, noise)]))
        if not parts:
            raise UserError("no coefficients: give one row for each image")
        return GeneratedImages(*map(np.concatenate, zip(*parts)))

    def each(
        self, rows: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[GeneratedImages]:
        """Yields the images of (coefficients, noise) in order, `batch_size` at a time.

        Rows of several pairs share a batch, so pairs may have any length. Only the last
        batch may have fewer images. The next batch is computed while the caller uses
        the last one.
        """
        pending = None
        for block in _packed(map(_joined, rows), self.batch_size):
            count = len(block)
            padded = np.pad(block, ((0, self.batch_size - count), (0, 0)), "edge")
            parts = np.split(padded, [NUM_COEFFICIENTS], axis=1)
            placed = [jax.device_put(part, self._rows) for part in parts]
            images = self._generate(self._variables, *placed)
            if pending is not None:
                yield _fetched(*pending)
            pending = images, count
        if pending is not None:
            yield _fetched(*pending)


def _joined(row: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns coefficients and noise as float32 [N, 286]."""
    arrays = [np.asarray(array, np.float32) for array in row]
    lengths = {"coefficients": NUM_COEFFICIENTS, "noise": NUM_NOISE}
    for array, (name, length) in zip(arrays, lengths.items()):
        if array.ndim != 2 or array.shape[1] != length:
            raise UserError(f"{name} are [N, {length}], got {list(array.shape)}")
    counts = [len(array) for array in arrays]
    if counts[0] != counts[1]:
        raise UserError(f"{counts[0]} rows of coefficients, {counts[1]} of noise")
    return np.concatenate(arrays, axis=1)


def _packed(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields the rows of all arrays in blocks of `size`; the last may be shorter."""
    rest = np.zeros((0, NUM_COEFFICIENTS + NUM_NOISE), np.float32)
    for array in arrays:
        rows = np.concatenate([rest, array])
        complete = len(rows) // size * size
        for start in range(0, complete, size):
            yield rows[start : start + size]
        rest = rows[complete:]
    if len(rest):
        yield rest


def _fetched(images: GeneratedImages, count: int) -> GeneratedImages:
    return GeneratedImages(*(np.asarray(column)[:count] for column in images))


def _model(network: Network, dtype: str) -> Any:
    check(network)
    options = network.options | ({"dtype": dtype} if dtype else {})
    return models.create(network.architecture, **options)


def check(network: Network) -> None:
    """Raises a UserError for a network that is not DiscoFaceGAN's."""
    if network.architecture != NAME:
        raise UserError(
            f"expected a DiscoFaceGAN generator, got {network.architecture}; "
            "fr-jax import network.pkl --vae DIR --to GENERATOR makes one"
        )


def generate(
    model: Any,
    variables: Any,
    coefficients: Array,
    noise: Array,
    *,
    size: int = 112,
    truncation: float = 0.7,
) -> GeneratedImages:
    """Returns images of coefficients [B, 254] and noise [B, 32]; a pure function.

    Args:
      model: `models.discofacegan.DiscoFaceGAN`.
      size: side of aligned faces; 0: whole images of 256 pixels.
    """
    images = model.apply(variables, coefficients, noise, truncation, method="generate")
    images, points = discofacegan.pixels(images), landmarks(coefficients)
    return GeneratedImages(*(align(images, points, size) if size else (images, points)))


class Sampled:
    """Numbered images of numbered identities, for training: pure functions.

    Image n of an identity has its codes of identity and noise, and its own of
    expression, lighting and pose. Numbers do not depend on the devices.

    Args:
      network: of architecture 'discofacegan'; its variables are passed to functions.
      seed: selects the identities.
      factor: as in `draws`.
      truncation, size: as in `generate`.
      dtype: of the convolutions; '' for that of the network.

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
        dtype: str = "",
        mesh: Mesh | None = None,
    ):
        self._model = _model(network, dtype)
        check_range("truncation", truncation, 0, 1)
        check_range("factor", factor, 0, len(FACTORS) - 1)
        check_range("size", size, 16, 1024)
        self.identities = self._model.identities
        self._seed, self._factor = seed, factor
        self._options: dict[str, Any] = {"size": size, "truncation": truncation}
        self.mesh = mesh or sharding.make_mesh()

    def images(self, variables: Any, label: Array, number: Array) -> Array:
        """Returns images uint8 [B, S, S, 3]; every device generates its rows.

        At most `CHUNK` images are generated at a time by each device.

        Args:
          label, number: identity and image, [B] each. With stored identity coefficients
            labels are below their number.
        """

        def random_numbers(label, number):
            key = jax.random.fold_in(jax.random.key(self._seed), label)
            shared = jax.random.normal(key, (NUM_CODES + NUM_NOISE,))
            return shared, jax.random.normal(jax.random.fold_in(key, number), (VARIED,))

        def chunk(variables, label, number):
            shared, fresh = jax.vmap(random_numbers)(label, number)
            codes = vary(shared[:, :NUM_CODES], fresh, self._factor)
            coefficients = self._model.apply(
                variables, codes, label, method="coefficients"
            )
            noise = shared[:, NUM_CODES:]
            options = self._options
            return generate(
                self._model, variables, coefficients, noise, **options
            ).image

        def local(variables, label, number):
            count = len(label)
            if count <= CHUNK:
                return chunk(variables, label, number)
            rows = [
                jnp.pad(a, (0, -count % CHUNK), "edge").reshape(-1, CHUNK)
                for a in (label, number)
            ]
            image = jax.lax.map(lambda rows: chunk(variables, *rows), rows)
            return image.reshape(-1, *image.shape[2:])[:count]

        rows = PartitionSpec("data")
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=rows,
            check_vma=False,
        )(variables, label, number)

    def batches(
        self, num_identities: int, batch_size: int, images_per_identity: int = 0
    ) -> Callable[[Array, Any], dict[str, Array]]:
        """Returns a function: (key, variables) -> image, label int32 [B].

        Args:
          num_identities: numbered from 0.
          images_per_identity: K for batches of B / K distinct identities with K images
            each; 0 samples the identity of every row independently.

        Raises:
          UserError: for a batch that is not divisible by K or by the mesh's shards,
            and for more identities than stored identity coefficients.
        """
        each = images_per_identity
        batches.check(num_identities, batch_size, each)
        if 0 < self.identities < num_identities:
            raise UserError(
                f"{num_identities:,} identities: the generator has coefficients of "
                f"{self.identities:,}"
            )
        sharding.local_rows(self.mesh, batch_size)

        def make_batch(key: Array, variables: Any) -> dict[str, Array]:
            key_identities, key_images = jax.random.split(key)
            label = batches.labels(key_identities, num_identities, batch_size, each)
            number = jax.random.bits(key_images, (batch_size,), jnp.uint32)
            image = self.images(variables, label, number)
            return {"image": image, "label": label.astype(jnp.int32)}

        return make_batch
