"""DR-GAN's objectives: losses of the discriminator and the generator.

Tran, Yin, Liu: Disentangled Representation Learning GAN for Pose-Invariant Face
Recognition (CVPR 2017), where fakes are an additional identity class (`cvpr`), and
Representation Learning by Rotating Your Faces (TPAMI 2018), where real or fake has a
head of its own (`tpami`). A custom objective is a pair of functions of real and
synthesised images:

    def discriminator_loss(real, fake): ...   # -> {name: scalar}
    def generator_loss(real, fake, recognise): ...

    dr_gan.make(..., objective=Objective(discriminator_loss, generator_loss))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import check_range
from fr_jax.losses import reconstruction
from fr_jax.losses.adversarial import AdversarialLoss, adversarial_loss, r1
from fr_jax.losses.margin import cosface, cross_entropy, unit
from fr_jax.systems.dr_gan.targets import valid_labels

Array = jax.Array
Losses = dict[str, Array]


class Images(NamedTuple):
    """Real or synthesised images of a step, with labels, logits and ground truth.

    Attributes:
      image: [R, H, W, C] in [-1, 1].
      labels: identity, pose, illumination [R]; -1, or NaN of a yaw, where unknown.
      valid: bool [R], rows that count.
      mean: (values [R], mask [R]) -> the mean over masked rows.
      logits: {head: [R, n]} of the discriminator, {} if it is not used.
      truth: ground truth [R, H, W, C] of synthesised images and its valid mask [R];
        None if batches have none.
      sources: embeddings [P n, D] of the real images -> target embeddings [R, D] of
        synthesised images, and their valid mask [R].
    """

    image: Array
    labels: dict[str, Array]
    valid: Array
    mean: Callable[[Array, Array], Array]
    logits: Mapping[str, Array] = {}
    truth: tuple[Array, Array] | None = None
    sources: Callable[[Array], tuple[Array, Array]] | None = None


class Objective(NamedTuple):
    """Losses of both networks; each minimises the sum of weight * loss.

    Attributes:
      discriminator_loss: (real, fake) -> {name: scalar}; None trains the generator
        alone.
      generator_loss: (real, fake, recognise) -> {name: scalar}; `recognise` is the
        frozen recogniser, images -> (embeddings [R, D], feature maps), or None.
      weights: weights of all losses, by name; 1 by default.
      is_real: logits -> bool [R], True where the discriminator classifies as real.
      penalty: (score, images, updates) -> scalar, added to the discriminator's losses
        as 'r1'; `score` maps images to the logits [R] of 'real'.
      diff_augmentation: kinds of `augment.diff_augment` on the discriminator's input.
      recogniser: output of the frozen recogniser that the losses use: 'none',
        'embedding' or 'maps'.
      paired: the losses use ground truth.
      pixel_loss: of the metric `paired_loss`; see `losses.reconstruction.paired`.
      interpolate: also synthesise between identities (TPAMI, section 3.5).
      cosine_identity: the discriminator's identity head gives cosines.
      fused_sum: losses of synthesised images are the mean over single ones plus that
        over fused ones, not the mean over all (kayamin).
      discriminate_fused: fused images are fakes in the discriminator's steps.
      statistics_in_generator_step: the discriminator's running statistics move in the
        generator's steps too (kayamin).
    """

    discriminator_loss: Callable[[Images, Images], Losses] | None
    generator_loss: Callable[..., Losses]
    weights: Mapping[str, float] = {}
    is_real: Callable[[Mapping[str, Array]], Array] = lambda logits: (
        logits["real"][:, 0] > 0
    )
    penalty: Callable[..., Array] | None = None
    diff_augmentation: Sequence[str] = ()
    recogniser: str = "none"
    paired: bool = False
    pixel_loss: str | Callable[[Array], Array] = "l1"
    interpolate: bool = False
    cosine_identity: bool = False
    fused_sum: bool = False
    discriminate_fused: bool = True
    statistics_in_generator_step: bool = False

    def weighted(self, losses: Losses, network: str) -> tuple[Array, Losses]:
        """Returns the weighted sum, and the metrics of a network: sum and losses."""
        parts = [self.weights.get(name, 1.0) * loss for name, loss in losses.items()]
        total: Any = sum(parts)
        metrics = {f"{network}/{name}_loss": loss for name, loss in losses.items()}
        return total, metrics | {f"{network}/loss": total}


def tpami(
    *,
    adversarial: str | AdversarialLoss = "cross_entropy",
    real_target: float = 1.0,
    am_softmax: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Objective:
    """Returns the objective of TPAMI 2018, equations 1 to 6.

    Args:
      adversarial: a key of `losses.adversarial.ADVERSARIAL`, or a custom loss.
      real_target: below 1 smooths the target of real images.
      am_softmax: margin and scale of an identity head of cosines (Wang et al., Additive
        Margin Softmax, 2018).
      weights: weights of identity, gan, pose and illumination.
    """
    check_range("real_target", real_target, 1e-6, 1)
    loss = adversarial_loss(adversarial)

    def discriminator_loss(real, fake):
        on_real = loss.real(real.logits["real"][:, 0], target=real_target)
        on_fake = loss.fake(fake.logits["real"][:, 0])
        gan = jnp.mean(on_real) + fake.mean(on_fake, fake.valid)
        return classification(real, am_softmax=am_softmax) | {"gan": gan}

    def generator_loss(real, fake, recognise):
        on_fake = loss.generator(fake.logits["real"][:, 0])
        gan = fake.mean(on_fake, fake.valid)
        return classification(fake, am_softmax=am_softmax) | {"gan": gan}

    return Objective(
        discriminator_loss,
        generator_loss,
        dict(weights or {}),
        cosine_identity=am_softmax is not None,
    )


def cvpr(*, weights: Mapping[str, float] | None = None) -> Objective:
    """Returns the objective of CVPR 2017, equations 1 and 2: fakes are one more class.

    The identity loss of a real image already includes that it is not fake. Deviation
    from the paper, which does not cover them: images of unknown identity have the loss
    -log(1 - p_fake).
    """

    def discriminator_loss(real, fake):
        columns = _with_fake(fake.logits)
        fake_class = jnp.full(len(columns), columns.shape[1] - 1)
        on_fake = cross_entropy(columns, fake_class)
        gan = jnp.mean(_not_fake(real)) + fake.mean(on_fake, fake.valid)
        return classification(real, fake_class=True) | {"gan": gan}

    def generator_loss(real, fake, recognise):
        gan = fake.mean(_not_fake(fake), fake.valid)
        return classification(fake, fake_class=True) | {"gan": gan}

    def is_real(logits):
        return jnp.max(logits["identity"], axis=1) > logits["real"][:, 0]

    weights = dict(weights or {})
    return Objective(discriminator_loss, generator_loss, weights, is_real)


def generator_only() -> Objective:
    """Returns an objective without discriminator and losses, for the wrappers below."""
    return Objective(None, lambda real, fake, recognise: {})


def with_reconstruction(
    objective: Objective, weight: float, loss: str | Callable[[Array], Array] = "l1"
) -> Objective:
    """Returns the objective with `paired`, the pixel loss against the ground truth.

    Args:
      loss: see `losses.reconstruction.paired`.
    """

    def generator_loss(real, fake, recognise):
        truth, has_truth = fake.truth
        values = reconstruction.paired(fake.image, truth, loss)
        mean = fake.mean(values, has_truth & fake.valid)
        return objective.generator_loss(real, fake, recognise) | {"paired": mean}

    return objective._replace(
        generator_loss=generator_loss,
        weights={**objective.weights, "paired": weight},
        paired=True,
        pixel_loss=loss,
    )


def with_identity(
    objective: Objective, weight: float = 0.0, perceptual: float = 0.0
) -> Objective:
    """Returns the objective with losses of the frozen recogniser 'identity'.

    Args:
      weight: weight of `identity_preserving`, 1 - cosine to the embedding of the source
        images; 0 omits the loss.
      perceptual: weight of `perceptual`, the distance between feature maps of fake and
        ground truth; 0 omits the loss.
    """

    def generator_loss(real, fake, recognise):
        losses = objective.generator_loss(real, fake, recognise)
        embeddings, maps = recognise(fake.image)
        if weight:
            sources, has_source = fake.sources(unit(recognise(real.image)[0]))
            values = reconstruction.identity_preserving(
                embeddings, jax.lax.stop_gradient(sources)
            )
            losses["identity_preserving"] = fake.mean(values, has_source & fake.valid)
        if perceptual:
            truth, has_truth = fake.truth
            values = reconstruction.perceptual(maps, recognise(truth)[1])
            losses["perceptual"] = fake.mean(values, has_truth & fake.valid)
        return losses

    weights = {"identity_preserving": weight, "perceptual": perceptual}
    return objective._replace(
        generator_loss=generator_loss,
        weights={**objective.weights, **weights},
        recogniser="maps" if perceptual else "embedding",
        paired=objective.paired or bool(perceptual),
    )


def with_r1(objective: Objective, weight: float, every: int = 16) -> Objective:
    """Returns the objective with the R1 penalty in every `every`-th discriminator step.

    The penalty is multiplied by `every` (lazy regularisation: Karras et al., StyleGAN2,
    CVPR 2020, section 3.1).
    """
    check_range("the R1 weight", weight, 0)
    check_range("the R1 interval", every, 1)

    def penalty(score, images, updates):
        def due(images):
            return 0.5 * weight * every * jnp.mean(r1(score, images))

        return jax.lax.cond(updates % every == 0, due, lambda _: jnp.float32(0), images)

    return objective._replace(penalty=penalty)


def classification(
    images: Images,
    *,
    am_softmax: Mapping[str, float] | None = None,
    fake_class: bool = False,
) -> Losses:
    """Returns the mean loss of each label: identity, pose, illumination.

    Cross-entropies; half the squared error for a continuous pose (radians). Unknown
    labels have no loss.

    Args:
      am_softmax: margin and scale; the identity logits are then cosines.
      fake_class: the softmax over identities includes the class of fakes.
    """
    losses = {}
    for name, label in images.labels.items():
        columns = images.logits[name]
        if name == "identity" and fake_class:
            columns = _with_fake(images.logits)
        elif name == "identity" and am_softmax is not None:
            columns = cosface(columns, label, **am_softmax)
        if jnp.issubdtype(label.dtype, jnp.floating):
            error = columns[:, 0] - jnp.where(valid_labels(label), label, 0.0)
            values = 0.5 * jnp.square(error)
        else:
            values = cross_entropy(columns, label)
        losses[name] = images.mean(values, valid_labels(label) & images.valid)
    return losses


def masked_mean(values: Array, mask: Array) -> Array:
    """Returns the mean of the values under a mask; 0 for an empty mask."""
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _not_fake(images: Images) -> Array:
    """Returns -log(1 - p_fake) [R] for images of unknown identity, 0 for the others."""
    all_classes = jax.nn.logsumexp(_with_fake(images.logits), axis=1)
    identities = jax.nn.logsumexp(images.logits["identity"], axis=1)
    return jnp.where(images.labels["identity"] < 0, all_classes - identities, 0.0)


def _with_fake(logits: Mapping[str, Array]) -> Array:
    """Returns logits [R, identities + 1]; the class of fakes is the last."""
    return jnp.concatenate([logits["identity"], logits["real"]], axis=1)
