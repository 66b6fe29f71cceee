"""Accuracies of DR-GAN's discriminator, and metrics on unseen identities."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from fr_jax.losses.margin import unit
from fr_jax.losses.reconstruction import paired
from fr_jax.models.preprocess import prepare
from fr_jax.systems.dr_gan.networks import Networks
from fr_jax.systems.dr_gan.objective import Images, Losses, Objective, masked_mean
from fr_jax.systems.dr_gan.targets import Targets, labels_of, valid_labels

_TOLERANCE = 7.5  # degrees, of a correct yaw


def accuracies(images: Images) -> dict[str, tuple[Array, Array]]:
    """Returns {name: (accuracy, True if any label is known)} of identity and pose."""
    out = {}
    for name in ("identity", "pose"):
        label, columns = images.labels[name], images.logits[name]
        if jnp.issubdtype(label.dtype, jnp.floating):
            correct = jnp.abs(columns[:, 0] - label) < jnp.deg2rad(_TOLERANCE)
        else:
            correct = jnp.argmax(columns, axis=1) == label
        counted = valid_labels(label) & images.valid
        out[name] = masked_mean(1.0 * correct, counted), jnp.any(counted)
    return out


def discriminator_accuracy(
    objective: Objective, real: Images, fake: Images
) -> tuple[Losses, Array]:
    """Returns the discriminator's accuracies as metrics, and their mean."""
    scores = accuracies(real)
    of_real = jnp.mean(objective.is_real(real.logits))
    of_fake = masked_mean(1.0 - objective.is_real(fake.logits), fake.valid)
    metrics = {f"discriminator/{name}_accuracy": s for name, (s, _) in scores.items()}
    metrics["discriminator/real_accuracy"] = (of_real + of_fake) / 2
    counted = [*scores.values(), (of_real, True), (of_fake, True)]
    accuracy: Any = sum(share * has_labels for share, has_labels in counted)
    return metrics, accuracy / sum(1.0 * has_labels for _, has_labels in counted)


def spread(fake: Array, real: Array) -> Array:
    """Returns the standard deviation of synthesised images over that of real ones."""

    def deviation(images):
        return jnp.sqrt(jnp.mean(jnp.var(images, axis=0)))

    return deviation(fake) / (deviation(real) + 1e-6)


def on_unseen(networks: Networks, targets: Targets, objective: Objective) -> Callable:
    """Returns the `eval_step` of unseen identities.

    Metrics: feature_cosine, between the features of an image and of its synthesised
    image; impostor_cosine, between synthesised images of different identities, near 1
    in a collapse; spread; paired_loss; pose_accuracy of the discriminator.
    """

    def eval_step(state, batch, key):
        real = labels_of(batch, targets)
        for name in ("image", "target_image"):
            if name in batch:
                real[name] = prepare(batch[name], networks.spec)
        net = state.generator[:2]
        fake, _, features = networks.synthesise(net, real, key, train=False)
        encoded = unit(networks.encode(net, fake.image)[0])
        first = encoded[:: targets.per_identity]
        of_first = unit(features)[:: targets.images_per_identity]
        label = batch["label"][:: targets.images_per_identity]
        impostor = label[:, None] != label[None]
        metrics = {
            "feature_cosine": jnp.mean(jnp.sum(first * of_first, axis=1)),
            "impostor_cosine": masked_mean(first @ first.T, impostor),
            "spread": spread(fake.image, real["image"]),
        }
        if fake.truth is not None:
            truth, has_truth = fake.truth
            values = paired(fake.image, truth, objective.pixel_loss)
            metrics["paired_loss"] = fake.mean(values, has_truth & fake.valid)
        if objective.discriminator_loss is not None:
            net = networks.normalised(state.discriminator[:2])
            logits, _ = networks.discriminate(net, fake.image, key, train=False)
            scores = accuracies(fake._replace(logits=logits))
            metrics["pose_accuracy"] = scores["pose"][0]
        return metrics

    return eval_step
