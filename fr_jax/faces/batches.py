"""Training batches rendered from codes on the device, never stored.

    make_batch = batches.make(sets.default(), 10_000, 256, size=112)
    stream = GeneratedStream(make_batch, 256, seed=0)

No image occurs twice. For accelerators, where rendering keeps up with training. On a
CPU render once: `sets.arrays` into an `ArrayStream` if the set fits into memory, else
`fr-jax faces render --format records` and a record stream.
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
    face_set: sets.FaceSet,
    num_identities: int,
    batch_size: int,
    *,
    seed: int = 0,
    images_per_identity: int = 0,
    size: int = 112,
    quality: str = "fast",
    mesh: Mesh | None = None,
) -> Callable[[Array], dict[str, Array]]:
    """Returns a pure function: key -> image uint8 [B, S, S, 3], label int32 [B].

    The result does not depend on the number of devices; each renders its rows.

    Args:
      num_identities: numbered from 0; `seed` selects them.
      images_per_identity: K for batches of B / K distinct identities with K images
        each; 0 samples the identity of every row independently.

    Raises:
      UserError: for a batch that is not divisible by K or by the mesh's shards.
    """
    each = images_per_identity
    check(num_identities, batch_size, each)
    render = _renderer(face_set, batch_size, seed, size, quality, mesh)

    def make_batch(key: Array) -> dict[str, Array]:
        key_identities, key_images = jax.random.split(key)
        label = labels(key_identities, num_identities, batch_size, each)
        if face_set.images:
            image = jax.random.randint(key_images, (batch_size,), 0, face_set.images)
        else:
            image = jax.random.bits(key_images, (batch_size,), jnp.uint32)
        return {"image": render(label, image), "label": label.astype(jnp.int32)}

    return make_batch


def make_posed(
    angles: tuple[float, ...],
    lights: tuple[int, ...],
    num_identities: int,
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

    B / n distinct identities of `sets.multipie` with n images each. Poses and lights
    are indices into `angles` and `lights`. `paired` adds target_image, target_pose and
    target_light: the same identity in a random pose and in the light of the image.

    Raises:
      UserError: for a batch that is not divisible by n or by the mesh's shards.
    """
    each = images_per_identity
    check(num_identities, batch_size, each)
    face_set = sets.multipie(angles, lights)
    render = _renderer(face_set, batch_size, seed, size, quality, mesh)

    def make_batch(key: Array) -> dict[str, Array]:
        key_identities, key_pose, key_light, key_target = jax.random.split(key, 4)
        label = _distinct(key_identities, num_identities, batch_size, each)
        light = jax.random.randint(key_light, (batch_size,), 0, len(lights))
        batch = {"label": label.astype(jnp.int32)}
        keys = {"": key_pose, "target_": key_target} if paired else {"": key_pose}
        for prefix, key_pose in keys.items():
            pose = jax.random.randint(key_pose, (batch_size,), 0, len(angles))
            image = (pose * len(lights) + light).astype(jnp.uint32)
            batch[f"{prefix}image"] = render(label, image)
            batch |= {f"{prefix}pose": pose, f"{prefix}light": light}
        return batch

    return make_batch


def check(num_identities: int, batch_size: int, each: int) -> None:
    """Raises UserError unless a batch can have `each` images of distinct identities."""
    distinct, rest = divmod(batch_size, each) if each else (1, 0)
    if rest or each < 0 or not 1 <= distinct <= num_identities:
        raise UserError(
            f"a batch of {batch_size} with {each} images per identity, "
            f"{num_identities} identities; use a multiple of {each}, at most "
            f"{each * num_identities}"
        )


def _renderer(face_set, batch_size, seed, size, quality, mesh):
    """Returns a function: (labels, image numbers) -> images; UserError as in `make`."""
    mesh = mesh or sharding.make_mesh()
    sharding.local_rows(mesh, batch_size)

    def render(label: Array, image: Array) -> Array:
        rows = label.astype(jnp.uint32), image
        codes = sets.label_rows(face_set, jax.random.key(seed), *rows).codes
        return sets.render_rows(codes, mesh=mesh, size=size, quality=quality)[0]

    return render


def labels(key: Array, num_identities: int, batch_size: int, each: int) -> Array:
    """Returns the labels [B] of a batch with `each` images of an identity; 0: any."""
    if each:
        return _distinct(key, num_identities, batch_size, each)
    return jax.random.randint(key, (batch_size,), 0, num_identities)


def _distinct(key: Array, num_identities: int, batch_size: int, each: int) -> Array:
    """Returns batch_size / each distinct labels, each repeated."""
    label = jax.random.permutation(key, num_identities)[: batch_size // each]
    return jnp.repeat(label, each)
