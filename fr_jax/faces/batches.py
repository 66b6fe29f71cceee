"""Training batches straight from codes: drawn on the device, never stored.

    make_batch = batches.make(sets.default(), 10_000, 256, size=112)
    stream = GeneratedStream(make_batch, 256, seed=0)

No picture comes twice. Use this where drawing keeps up with training, as on an
accelerator. Where it does not, as on a CPU, draw once: `sets.arrays` into an
`ArrayStream` if the set fits into memory, else `fr-jax faces render --format records`
and a record stream.
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
    people: int,
    batch_size: int,
    *,
    seed: int = 0,
    images_per_identity: int = 0,
    size: int = 112,
    quality: str = "fast",
    mesh: Mesh | None = None,
) -> Callable[[Array], dict[str, Array]]:
    """Returns a pure function: key -> image uint8 [B, S, S, 3], label int32 [B].

    The same numbers on any number of devices; each draws its own rows.

    Args:
      people: how many, numbered from 0; `seed` says which.
      images_per_identity: K for batches of B / K distinct people with K images each; 0
        draws every row's person anew.

    Raises:
      UserError: for a batch that cannot be cut so, or not into the mesh's shards.
    """
    mesh = mesh or sharding.make_mesh()
    sharding.local_rows(mesh, batch_size)
    distinct = batch_size // images_per_identity if images_per_identity else 0
    if people < 1 or images_per_identity < 0 or distinct > people:
        raise UserError(
            f"a batch of {batch_size} with {images_per_identity} images of each person "
            f"out of {people} people; more people or a smaller batch are needed"
        )
    if distinct * images_per_identity not in (0, batch_size):
        raise UserError(
            f"a batch of {batch_size} cannot be {images_per_identity} images each; use "
            f"a multiple of {images_per_identity}"
        )

    def make_batch(key: Array) -> dict[str, Array]:
        key_people, key_images = jax.random.split(key)
        if distinct:
            label = jax.random.permutation(key_people, people)[:distinct]
            label = jnp.repeat(label, images_per_identity)
        else:
            label = jax.random.randint(key_people, (batch_size,), 0, people)
        if face_set.images:
            image = jax.random.randint(key_images, (batch_size,), 0, face_set.images)
        else:
            image = jax.random.bits(key_images, (batch_size,), jnp.uint32)
        known = sets.label_rows(
            face_set, jax.random.key(seed), label.astype(jnp.uint32), image
        )
        picture, *_ = sets.draw_rows(known.codes, mesh=mesh, size=size, quality=quality)
        return {"image": picture, "label": label.astype(jnp.int32)}

    return make_batch
