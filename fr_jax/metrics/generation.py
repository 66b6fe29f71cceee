"""Quality of generated images: distance to real images, preserved identity."""

from typing import NamedTuple

import numpy as np

from fr_jax.metrics import verification

Array = np.ndarray


def kernel_distance(
    real: Array, fake: Array, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Returns mean and deviation of the kernel inception distance over subsets.

    Binkowski et al., Demystifying MMD GANs (ICLR 2018): the unbiased squared maximum
    mean discrepancy with the kernel (x.y / F + 1)^3, of any features. It is 0 for equal
    distributions, and may be negative, since it is unbiased.

    Args:
      real, fake: features [N, F], [M, F].
      size: rows per subset, limited to N and M.

    Raises:
      ValueError: for fewer than two rows.
    """
    size = min(size, len(real), len(fake))
    if size < 2:
        raise ValueError(
            f"{len(real)} real and {len(fake)} generated images; at least 2 are needed"
        )
    rng = np.random.default_rng(seed)
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))
    distances = []
    for _ in range(subsets):
        x = real[rng.choice(len(real), size, replace=False)]
        y = fake[rng.choice(len(fake), size, replace=False)]
        within = sum(
            (kernel(z, z).sum() - np.trace(kernel(z, z))) / (size * (size - 1))
            for z in (x, y)
        )
        distances.append(within - 2 * kernel(x, y).mean())
    return float(np.mean(distances)), float(np.std(distances))


def frechet_distance(real: Array, fake: Array) -> float:
    """Returns the Frechet distance of Gaussians fitted to features, 0 if equal.

    Heusel et al., GANs Trained by a Two Time-Scale Update Rule (NeurIPS 2017): with
    means m, n and covariances S, T (over N - 1) it is

      norm(m - n)^2 + tr(S + T - 2 (S T)^(1/2))

    in squared units of the features. FID is that of features of the Inception network.
    It is biased upward for few images: only sets of equal numbers are comparable.

    Args:
      real, fake: features [N, F], [M, F], finite.

    Raises:
      ValueError: for fewer than two rows, and features that are not finite.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            f"{len(real)} real and {len(fake)} generated images; at least 2 are needed"
        )
    real, fake = (np.asarray(x, np.float64) for x in (real, fake))
    for name, rows in (("real", real), ("generated", fake)):
        if count := int(np.sum(~np.isfinite(rows).all(axis=1))):
            raise ValueError(f"features of {count} {name} images are not finite")
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (real, fake))
    # tr (S T)^(1/2) = tr (R T R)^(1/2) with R = S^(1/2): symmetric, so that covariances
    # without full rank, of fewer images than features, need no correction.
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    shift = np.sum((real.mean(axis=0) - fake.mean(axis=0)) ** 2)
    distance = shift + np.trace(first) + np.trace(second) - 2 * common
    return float(max(distance, 0.0))


def pose_errors(yaws: Array, targets: Array) -> Array:
    """Returns the absolute differences of angles [N] in degrees, in [0, 180].

    Args:
      yaws: estimated from generated images.
      targets: of the same images.

    Raises:
      ValueError: for angles that are not finite, other shapes and no angles.
    """
    yaws, targets = np.asarray(yaws, np.float64), np.asarray(targets, np.float64)
    if yaws.shape != targets.shape or not yaws.size:
        raise ValueError(f"{yaws.shape} angles for {targets.shape} targets")
    difference = np.abs(yaws - targets) % 360
    if count := int(np.sum(~np.isfinite(difference))):
        raise ValueError(f"{count} angles are not finite numbers")
    return np.minimum(difference, 360 - difference)


class Pairs(NamedTuple):
    """Pairs of images."""

    scores: Array  # cosines [P]
    same: Array  # bool [P], True for genuine pairs
    first: Array  # identity [P] of both images
    second: Array


def pairs_with_inputs(inputs: Array, labels: Array, fakes: Array) -> Pairs:
    """Returns the pairs of generated images and inputs, of features.

    A genuine pair is a generated image and its input, an impostor pair a generated
    image and the input of another identity.

    Args:
      inputs, labels: features [N, F] and identities [N].
      fakes: features [N, P, F] of the images generated from each input.
    """
    labels = np.asarray(labels)
    faces, rows = verification.l2_normalize(fakes), verification.l2_normalize(inputs)
    cosines = np.einsum("ipf,jf->ipj", faces, rows)
    genuine = np.einsum("ipi->ip", cosines).ravel()
    first, second = np.nonzero(labels[:, None] != labels)
    count = cosines.shape[1]
    impostor = cosines.transpose(1, 0, 2)[:, first, second].ravel()
    scores = np.concatenate([genuine, impostor])
    own = labels.repeat(count)
    return Pairs(
        scores,
        np.arange(len(scores)) < len(genuine),
        np.append(own, np.tile(labels[first], count)),
        np.append(own, np.tile(labels[second], count)),
    )


def pairs_of_images(features: Array, labels: Array) -> Pairs:
    """Returns all pairs of images, of features [N, F] and identities [N]."""
    rows, labels = verification.l2_normalize(features), np.asarray(labels)
    first, second = np.triu_indices(len(rows), 1)
    of_first, of_second = labels[first], labels[second]
    scores = (rows @ rows.T)[first, second]
    return Pairs(scores, of_first == of_second, of_first, of_second)


def kernel(x: Array, y: Array) -> Array:
    """Returns (x.y / F + 1)^3 of rows [N, F] and [M, F], [N, M]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return (x @ y.T / x.shape[1] + 1) ** 3
