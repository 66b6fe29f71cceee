"""Training batches of people in several poses and lights, drawn on the device.

As `batches`, from a grid of poses x lights (`sets.multipie`), with the labels that
DR-GAN learns from and, if wanted, the same person in another pose beside each image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.faces import sets

Array = jax.Array


def make(
    angles: tuple[float, ...],
    lights: tuple[int, ...],
    people: int,
    batch_size: int,
    *,
    seed: int = 0,
    images_per_identity: int = 1,
    paired: bool = False,
    size: int = 112,
    quality: str = "fast",
    mesh: Mesh | None = None,
) -> Callable[[Array], dict[str, Array]]:
    """Returns a pure function: key -> image uint8 [B, S, S, 3], label, pose, light [B].

    B / n distinct people with n images each. Poses and lights are numbers in `angles`
    and `lights`. `paired` adds target_image, target_pose and target_light, in the light
    of the image.

    Raises:
      UserError: for a batch that cannot be cut so, or not into the mesh's shards.
    """
    mesh = mesh or sharding.make_mesh()
    sharding.local_rows(mesh, batch_size)
    face_set = sets.multipie(angles, lights)
    each = images_per_identity
    if batch_size % each or not 1 <= batch_size // each <= people:
        raise UserError(
            f"a batch of {batch_size} with {each} images of each person out of "
            f"{people} people; use a multiple of {each}, of at most so many people"
        )

    def make_batch(key: Array) -> dict[str, Array]:
        key_people, key_pose, key_light, key_target = jax.random.split(key, 4)
        label = jax.random.permutation(key_people, people)[: batch_size // each]
        label = jnp.repeat(label, each)
        shape = (batch_size,)
        light = jax.random.randint(key_light, shape, 0, len(lights))
        batch = {"label": label.astype(jnp.int32)}
        for prefix, key_angle in (("", key_pose), ("target_", key_target)):
            if prefix and not paired:
                break
            pose = jax.random.randint(key_angle, shape, 0, len(angles))
            known = sets.label_rows(
                face_set,
                jax.random.key(seed),
                label.astype(jnp.uint32),
                (pose * len(lights) + light).astype(jnp.uint32),
            )
            picture, *_ = sets.draw_rows(
                known.codes, mesh=mesh, size=size, quality=quality
            )
            batch |= {f"{prefix}image": picture, f"{prefix}pose": pose}
            batch[f"{prefix}light"] = light
        return batch

    return make_batch
