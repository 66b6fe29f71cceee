"""A trained generator: faces in, the same people in any pose out."""

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


class Rotator:
    """Turns aligned uint8 RGB faces.

    Args:
      generator: an embedder of kind 'generator', as training leaves one in
        WORKDIR/embedder_generator; its provenance has `angles`, what each pose is in
        degrees, and `lights`, the number of each light.

    Attributes:
      angles: of the pose classes, or those that a generator of any yaw was trained on.
      unsigned: left and right are one pose.
      noise: numbers of it.
      lights: how many can be asked for; light_numbers: as the data number them.

    Raises:
      UserError: for any other network.
    """

    def __init__(self, generator: Embedder, *, batch_size: int = 32):
        network = generator.network
        if network.architecture != "dr_gan_generator":
            raise UserError(
                f"a {network.architecture} does not turn faces; give a generator, as "
                "WORKDIR/embedder_generator"
            )
        self.spec: InputSpec = network.input_spec
        self.variables = generator.variables
        self._model: Any = models.create(network.architecture, **network.options)
        self._batch_size = batch_size
        self.continuous = self._model.poses == 1
        self.noise = int(self._model.noise)
        known = generator.provenance
        angles = known.get("angles")
        self.angles = [float(angle) for angle in angles or range(self._model.poses)]
        self.has_angles = bool(angles)
        self.unsigned = bool(known.get("unsigned", False))
        self.lights = self._model.illuminations
        numbers = list(known.get("lights") or ())
        numbered = len(numbers) == self.lights
        self.light_numbers = numbers if numbered else list(range(self.lights))
        options = cpu.compiler_options()
        self._encode = jax.jit(
            self._encoded, static_argnames="cut", compiler_options=options
        )
        self._decode = jax.jit(self._decoded, compiler_options=options)

    def pose(self, yaws: np.ndarray) -> np.ndarray:
        """Returns the number of the nearest angle of yaws in degrees; -1 for a NaN."""
        return poses.nearest(yaws, self.angles, unsigned=self.unsigned)

    def encode(
        self, images: np.ndarray, *, cut: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns features [N, F] and confidence [N] of uint8 RGB [N, H, W, 3].

        `cut` is False for images as `seen` and `turn` give them, cut out already.
        """
        encode = functools.partial(self._encode, cut=cut)
        features, confidence = self._in_batches(encode, np.asarray(images))
        return features, confidence[:, 0]

    def decode(
        self,
        features: np.ndarray,
        codes: np.ndarray,
        light: int | np.ndarray = 0,
        noise: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns uint8 RGB [N, S, S, 3] of features [N, F] and pose codes [N, P].

        Args:
          light: place among `light_numbers`, one or [N]; asked for where lights are.
          noise: [N, Z]; by default 0, as the authors judge.
        """
        lit = np.eye(max(self.lights, 1), dtype=np.float32)
        rows = [features, codes, lit[np.broadcast_to(light, len(features))]]
        rows += [np.zeros((len(features), self.noise)) if noise is None else noise]
        rows = [np.asarray(row, np.float32) for row in rows]
        return self._in_batches(self._decode, *rows)[0]

    def places(self, lights: np.ndarray) -> np.ndarray:
        """Returns the place of each light's number; the first where it is not known."""
        place = {number: n for n, number in enumerate(self.light_numbers)}
        found = [place.get(number, 0) for number in np.asarray(lights).tolist()]
        return np.array(found, int)

    def code(self, angle: float) -> np.ndarray:
        """Returns the pose code [P] of a yaw in degrees: that of the nearest angle."""
        angle = abs(angle) if self.unsigned else angle
        if self.continuous:
            return np.array([np.deg2rad(angle)], np.float32)
        nearest = int(np.argmin(np.abs(np.asarray(self.angles) - angle)))
        return np.eye(len(self.angles), dtype=np.float32)[nearest]

    def seen(self, images: np.ndarray) -> np.ndarray:
        """Returns the part of faces that the generator sees, uint8 [N, S, S, 3]."""
        height, width, _ = self.spec.shape
        resized = (resize(jnp.asarray(face[None]), self.spec.size) for face in images)
        parts = [np.asarray(crop_middle(face, height, width)) for face in resized]
        return np.clip(np.round(np.concatenate(parts)), 0, 255).astype(np.uint8)

    def rotate(
        self,
        images: np.ndarray,
        angles: Sequence[float] | None = None,
        light: int | np.ndarray = 0,
    ) -> np.ndarray:
        """Returns uint8 [N, A, S, S, 3]: each face at each angle (None: at all)."""
        return self.turn(self.encode(images)[0], angles, light)

    def turn(
        self,
        features: np.ndarray,
        angles: Sequence[float] | None = None,
        light: int | np.ndarray = 0,
    ) -> np.ndarray:
        """Returns uint8 [N, A, S, S, 3] of features [N, F]; `light` is one, or [N]."""
        angles = self.angles if angles is None else angles
        codes = np.stack([self.code(angle) for angle in angles])
        rows = np.repeat(features, len(codes), axis=0)
        lit = np.repeat(np.broadcast_to(light, len(features)), len(codes))
        made = self.decode(rows, np.tile(codes, (len(features), 1)), lit)
        return made.reshape(len(features), len(codes), *made.shape[1:])

    def fuse(self, features: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        """Returns one feature [F] of several [n, F] of a person."""
        sets = jnp.asarray(features), jnp.asarray(confidence)[:, None]
        return np.asarray(fuse(*sets, normalise=self._model.normalise_fusion))

    def _encoded(self, images, cut):
        if cut:
            images = prepare(images, self.spec)
        else:
            images = normalise(images.astype(jnp.float32), self.spec)
        return self._model.apply(self.variables, images, method="encode")

    def _decoded(self, features, codes, lit, noise):
        light = [lit] if self.lights else []
        made = self._model.apply(
            self.variables, features, codes, noise, *light, method="decode"
        )
        scale, mean = map(jnp.float32, (self.spec.scale, self.spec.mean))
        pixels = made * scale + mean
        if self.spec.colour == "BGR":
            pixels = pixels[..., ::-1]
        if self.spec.colour == "GREY":
            pixels = jnp.repeat(pixels, 3, axis=3)
        return (jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8),)

    def _in_batches(self, function: Callable, *rows: np.ndarray) -> list[np.ndarray]:
        parts, size = [], self._batch_size
        for start in range(0, len(rows[0]), size):
            some = [row[start : start + size] for row in rows]
            count = len(some[0])
            filled = [np.concatenate([x, *[x[-1:]] * (size - count)]) for x in some]
            parts.append([np.asarray(out)[:count] for out in function(*filled)])
        return [np.concatenate(part) for part in zip(*parts)]
