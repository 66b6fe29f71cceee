"""A trained generator, applied to faces: the same identities in other poses."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.models.dr_gan.generator import fuse
from fr_jax.models.preprocess import InputSpec, crop_middle, normalise, prepare, resize
from fr_jax.systems.dr_gan import poses

Array = np.ndarray
Angles = Sequence[float] | None  # None: all


class Rotator:
    """Rotates aligned uint8 RGB faces to target poses.

    Args:
      generator: embedder of kind 'generator', from training WORKDIR/embedder_generator;
        its provenance has `angles`, the yaw of each pose in degrees, and `lights`, the
        number of each light in the data.

    Attributes:
      generator, spec: the embedder and its input specification.
      angles: yaws of the pose classes, or the training yaws of a continuous generator.
      has_angles: the provenance has angles; otherwise they are the numbers of poses.
      continuous: any yaw is a target pose.
      unsigned: left and right yaws are the same pose.
      noise: length of the noise code.
      lights: number of target lights; 0: light is not a target.
      light_numbers: their numbers in the data.

    Raises:
      UserError: for a network of another kind.
    """

    def __init__(self, generator: Embedder, *, batch_size: int = 32):
        network = generator.network
        if network.architecture != "dr_gan_generator":
            raise UserError(
                f"a {network.architecture} cannot rotate faces; give a generator, such "
                "as WORKDIR/embedder_generator"
            )
        self.generator = generator
        self.spec: InputSpec = network.input_spec
        self._model: Any = models.create(network.architecture, **network.options)
        self._batch_size = batch_size
        self.continuous = self._model.poses == 1
        self.noise = int(self._model.noise)
        provenance = generator.provenance
        angles = provenance.get("angles")
        self.angles = [float(angle) for angle in angles or range(self._model.poses)]
        self.has_angles = bool(angles)
        self.unsigned = bool(provenance.get("unsigned", False))
        self.lights = self._model.illuminations
        numbers = list(provenance.get("lights") or ())
        complete = len(numbers) == self.lights
        self.light_numbers = numbers if complete else list(range(self.lights))
        jit = functools.partial(jax.jit, compiler_options=cpu.compiler_options())
        self._encode = jit(self._encoded, static_argnames="crop")
        self._decode = jit(self._decoded)

    def pose(self, yaws: Array) -> Array:
        """Returns the number of the nearest angle of yaws in degrees; -1 for NaN."""
        return poses.nearest(yaws, self.angles, unsigned=self.unsigned)

    def encode(self, images: Array, *, crop: bool = True) -> tuple[Array, Array]:
        """Returns features [N, F] and confidence [N] of uint8 RGB [N, H, W, 3].

        `crop` is False for images from `crop` and `rotate`, already in input size.
        """
        encode = functools.partial(self._encode, crop=crop)
        features, confidence = self._in_batches(encode, np.asarray(images))
        return features, confidence[:, 0]

    def decode(
        self,
        features: Array,
        codes: Array,
        light: int | Array = 0,
        noise: Array | None = None,
    ) -> Array:
        """Returns uint8 RGB [N, S, S, 3] of features [N, F] and pose codes [N, P].

        Args:
          light: target light, an index of `light_numbers`, one or [N]; unused without
            lights.
          noise: [N, Z]; by default 0, as in the authors' evaluation.
        """
        if noise is None:
            noise = np.zeros((len(features), self.noise))
        light_codes = np.eye(max(self.lights, 1))
        light_codes = light_codes[np.broadcast_to(light, len(features))]
        rows = (features, codes, light_codes, noise)
        rows = [np.asarray(row, np.float32) for row in rows]
        return self._in_batches(self._decode, *rows)[0]

    def light_indices(self, lights: Array) -> Array:
        """Returns the index of each light in `light_numbers`; 0 for unknown lights."""
        index = {number: n for n, number in enumerate(self.light_numbers)}
        indices = [index.get(light, 0) for light in np.asarray(lights).tolist()]
        return np.array(indices, int)

    def code(self, angle: float) -> Array:
        """Returns the pose code [P] of a yaw in degrees: that of the nearest angle."""
        angle = abs(angle) if self.unsigned else angle
        if self.continuous:
            return np.array([np.deg2rad(angle)], np.float32)
        nearest = int(np.argmin(np.abs(np.asarray(self.angles) - angle)))
        return np.eye(len(self.angles), dtype=np.float32)[nearest]

    def crop(self, images: Array) -> Array:
        """Returns faces cropped to the generator's input, uint8 [N, S, S, 3]."""
        height, width, _ = self.spec.shape
        resized = (resize(jnp.asarray(face[None]), self.spec.size) for face in images)
        parts = [np.asarray(crop_middle(face, height, width)) for face in resized]
        return np.clip(np.round(np.concatenate(parts)), 0, 255).astype(np.uint8)

    def rotate(
        self, images: Array, angles: Angles = None, light: int | Array = 0
    ) -> Array:
        """Returns uint8 [N, A, S, S, 3]: each face at each angle (None: all)."""
        return self.rotate_features(self.encode(images)[0], angles, light)

    def rotate_features(
        self, features: Array, angles: Angles = None, light: int | Array = 0
    ) -> Array:
        """Returns uint8 [N, A, S, S, 3] of features [N, F]; `light` is one, or [N]."""
        angles = self.angles if angles is None else angles
        codes = np.stack([self.code(angle) for angle in angles])
        rows = np.repeat(features, len(codes), axis=0)
        lights = np.repeat(np.broadcast_to(light, len(features)), len(codes))
        images = self.decode(rows, np.tile(codes, (len(features), 1)), lights)
        return images.reshape(len(features), len(codes), *images.shape[1:])

    def fuse(self, features: Array, confidence: Array) -> Array:
        """Returns the fused feature [F] of features [n, F] of an identity."""
        sets = jnp.asarray(features), jnp.asarray(confidence)[:, None]
        return np.asarray(fuse(*sets, normalise=self._model.normalise_fusion))

    def _encoded(self, images, crop):
        if crop:
            images = prepare(images, self.spec)
        else:
            images = normalise(images.astype(jnp.float32), self.spec)
        return self._model.apply(self.generator.variables, images, method="encode")

    def _decoded(self, features, codes, light_codes, noise):
        light = [light_codes] if self.lights else []
        images = self._model.apply(
            self.generator.variables, features, codes, noise, *light, method="decode"
        )
        scale, mean = map(jnp.float32, (self.spec.scale, self.spec.mean))
        pixels = images * scale + mean
        if self.spec.colour == "BGR":
            pixels = pixels[..., ::-1]
        if self.spec.colour == "GREY":
            pixels = jnp.repeat(pixels, 3, axis=3)
        return (jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8),)

    def _in_batches(self, function: Callable, *rows: Array) -> list[Array]:
        """Returns the outputs of a function of rows, called with full batches."""
        parts, size = [], self._batch_size
        for start in range(0, len(rows[0]), size):
            batch = [row[start : start + size] for row in rows]
            count = len(batch[0])
            padded = [np.concatenate([x, *[x[-1:]] * (size - count)]) for x in batch]
            parts.append([np.asarray(out)[:count] for out in function(*padded)])
        return [np.concatenate(part) for part in zip(*parts)]
