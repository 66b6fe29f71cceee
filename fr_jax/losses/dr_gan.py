"""DR-GAN's terms: who, in what pose and light, and is it real? One loss an example.

Tran, Yin, Liu: Disentangled Representation Learning GAN for Pose-Invariant Face
Recognition (CVPR 2017), where a fake is one identity more, and Representation Learning
by Rotating Your Faces (TPAMI 2018), where it has a head of its own. `logits` are those
of `models.dr_gan_discriminator`: {head: [R, n]}. A label of -1 is not known: such rows
come with a `known` of False, and `masked_mean` leaves them out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.losses import adversarial as gan
from fr_jax.losses import margin

Array = jax.Array

FORMS = ("tpami", "cvpr")
PAIRED = {"l1": jnp.abs, "l2": jnp.square}


class Term(NamedTuple):
    """A loss of each row, [R], and which rows have one."""

    values: Array
    known: Array


def masked_mean(values: Array, known: Array) -> Array:
    """Returns the mean of the values that are known, 0 where none is."""
    known = known.astype(values.dtype)
    return jnp.sum(values * known) / jnp.maximum(jnp.sum(known), 1)


def recognition(
    logits: Mapping[str, Array],
    labels: Mapping[str, Array],
    *,
    form: str = "tpami",
    am_softmax: Mapping[str, float] | None = None,
) -> dict[str, Term]:
    """Returns the term of each label that there is: identity, pose, illumination.

    Cross-entropies; squared errors, halved, where a pose is one number (radians). In
    the CVPR form identities compete with the class of fakes.

    Args:
      labels: int [R], -1 where not known; a continuous pose float, NaN where not known.
      am_softmax: margin and scale; the identity logits are cosines then (Wang et al.,
        Additive Margin Softmax, 2018).
    """
    terms = {}
    for name, label in labels.items():
        columns = logits[name]
        if jnp.issubdtype(label.dtype, jnp.floating):
            known = jnp.isfinite(label)
            error = columns[:, 0] - jnp.where(known, label, 0.0)
            terms[name] = Term(0.5 * jnp.square(error), known)
            continue
        if name == "identity" and form == "cvpr":
            columns = _with_fake(logits)
        elif name == "identity" and am_softmax is not None:
            columns = margin.cosface(columns, label, **am_softmax)
        terms[name] = Term(margin.cross_entropy(columns, label), label >= 0)
    return terms


def judged_real(
    logits: Mapping[str, Array],
    identity: Array,
    *,
    form: str = "tpami",
    kind: str = "cross_entropy",
    target: float = 1.0,
) -> Array:
    """Returns what real images cost the discriminator [R].

    In the CVPR form somebody who is recognised is not in the class of fakes, so that
    costs 0; where nobody knows who it is, -log(1 - p_fake).

    Args:
      identity: int [R], -1 where not known.
    """
    if form == "cvpr":
        return _not_fake(logits, identity)
    return gan.GAN_LOSSES[kind][0](logits["real"][:, 0], target=target)


def judged_fake(
    logits: Mapping[str, Array], *, form: str = "tpami", kind: str = "cross_entropy"
) -> Array:
    """Returns what fakes cost the discriminator [R]."""
    if form == "cvpr":
        columns = _with_fake(logits)
        fake = jnp.full(len(columns), columns.shape[1] - 1)
        return margin.cross_entropy(columns, fake)
    return gan.GAN_LOSSES[kind][1](logits["real"][:, 0])


def fooled(
    logits: Mapping[str, Array],
    identity: Array,
    *,
    form: str = "tpami",
    kind: str = "cross_entropy",
) -> Array:
    """Returns what fakes cost the generator for not being real [R].

    In the CVPR form as in `judged_real`.

    Args:
      identity: int [R], whom they should show; -1: nobody in particular.
    """
    if form == "cvpr":
        return _not_fake(logits, identity)
    return gan.GAN_LOSSES[kind][2](logits["real"][:, 0])


def taken_for_real(logits: Mapping[str, Array], *, form: str = "tpami") -> Array:
    """Returns which images [R] the discriminator takes for real."""
    if form == "cvpr":
        return jnp.max(logits["identity"], axis=1) > logits["real"][:, 0]
    return logits["real"][:, 0] > 0


def accuracies(
    logits: Mapping[str, Array],
    labels: Mapping[str, Array],
    valid: Array | bool = True,
    *,
    within: float = 7.5,
) -> dict[str, tuple[Array, Array]]:
    """Returns how often identity and pose are right: (share, whether any is known).

    Args:
      valid: bool [R], rows that count where their label is known.
      within: degrees by which a yaw may be wrong and still be right.
    """
    found = {}
    for name in ("identity", "pose"):
        label, columns = labels[name], logits[name]
        if jnp.issubdtype(label.dtype, jnp.floating):
            right = jnp.abs(columns[:, 0] - label) < jnp.deg2rad(within)
            there = jnp.isfinite(label) & valid
        else:
            right = jnp.argmax(columns, axis=1) == label
            there = (label >= 0) & valid
        found[name] = masked_mean(1.0 * right, there), jnp.any(there)
    return found


def interpolated(features: Array) -> Array:
    """Returns (f_i + f_(i+1)) / 2 of features [P, F] of people.

    TPAMI, section 3.5: what is decoded between two people must look real too.
    """
    return (features + jnp.roll(features, -1, axis=0)) / 2


def identity_preserving(embeddings: Array, of: Array) -> Array:
    """Returns 1 - cosine [R] of images' embeddings and those they were made of."""
    return 1 - jnp.sum(margin.unit(embeddings) * margin.unit(of), axis=1)


def paired(images: Array, truth: Array, kind: str = "l1") -> Array:
    """Returns the mean difference [R] to the true images [R, H, W, C].

    Args:
      kind: 'l1', absolute; 'l2', squared, which the paper compares the game with.
    """
    return jnp.mean(PAIRED[kind](images - truth), axis=(1, 2, 3))


def perceptual(maps: Sequence[Array], of_truth: Sequence[Array]) -> Array:
    """Returns how unlike the true images a recogniser finds images, [R].

    The feature reconstruction loss of Johnson, Alahi, Fei-Fei, Perceptual Losses for
    Real-Time Style Transfer and Super-Resolution (ECCV 2016), section 3.2, here of
    absolute differences, each layer's divided by the mean absolute deviation of the
    true maps from their channels' means over images and places: a map that says nothing
    costs 1 on average. The mean over layers.

    Args:
      maps, of_truth: [R, h, w, C] of each layer.
    """
    total = jnp.zeros(len(maps[0]))
    for layer, true in zip(maps, of_truth, strict=True):
        spread = jnp.mean(jnp.abs(true - jnp.mean(true, axis=(0, 1, 2), keepdims=True)))
        total += jnp.mean(jnp.abs(layer - true), axis=(1, 2, 3)) / (spread + 1e-6)
    return total / len(maps)


def _not_fake(logits: Mapping[str, Array], identity: Array) -> Array:
    """-log(1 - p_fake) where nobody is known, else 0."""
    everything = jax.nn.logsumexp(_with_fake(logits), axis=1)
    people = jax.nn.logsumexp(logits["identity"], axis=1)
    return jnp.where(identity < 0, everything - people, 0.0)


def _with_fake(logits: Mapping[str, Array]) -> Array:
    return jnp.concatenate([logits["identity"], logits["real"]], axis=1)
