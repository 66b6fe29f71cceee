"""How good made images are: near to real ones as a set, and the right person each."""

import numpy as np

from fr_jax.metrics import verification

Array = np.ndarray


def kernel_distance(
    real: Array, made: Array, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Returns mean and deviation of the kernel inception distance over subsets.

    Binkowski et al., Demystifying MMD GANs (ICLR 2018): the unbiased squared maximum
    mean discrepancy under (x.y / F + 1)^3. Any features will do; 0 is no difference,
    and it may come out negative.

    Args:
      real, made: features [N, F], [M, F]; subsets are at most as large as the smaller.
    """
    size = min(size, len(real), len(made))
    if size < 2:
        raise ValueError(f"{len(real)} real and {len(made)} made images; at least 2")
    rng = np.random.default_rng(seed)
    real, made = (np.asarray(x, np.float64) for x in (real, made))
    found = []
    for _ in range(subsets):
        x = real[rng.choice(len(real), size, replace=False)]
        y = made[rng.choice(len(made), size, replace=False)]
        within = sum(
            (_kernel(z, z).sum() - np.trace(_kernel(z, z))) / (size * (size - 1))
            for z in (x, y)
        )
        found.append(within - 2 * _kernel(x, y).mean())
    return float(np.mean(found)), float(np.std(found))


def identity_preservation(
    inputs: Array, labels: Array, made: Array
) -> dict[str, float]:
    """Returns how a recogniser takes made images for their people.

    Genuine is a made image with the input that it was made of, an impostor with the
    inputs of others: mean cosines of both, and the area under the ROC.

    Args:
      inputs, labels: features [N, F] and people [N]; made: features [N, P, F].
    """
    faces, rows = verification.l2_normalize(made), verification.l2_normalize(inputs)
    cosines = np.einsum("ipf,jf->ipj", faces, rows)
    others = np.asarray(labels)[:, None] != np.asarray(labels)[None]
    genuine = np.einsum("ipi->ip", cosines).ravel()
    impostor = cosines.transpose(1, 0, 2)[:, others].ravel()
    scores = np.concatenate([genuine, impostor])
    same = np.arange(len(scores)) < len(genuine)
    return {
        "cosine": float(genuine.mean()),
        "cosine_impostor": float(impostor.mean()),
        "auc": verification.area_under_roc(scores, same),
    }


def pairwise_auc(features: Array, labels: Array) -> float:
    """Returns the area under the ROC of cosines between all rows.

    Args:
      features, labels: [N, F] and people [N], some with several rows.
    """
    rows, labels = verification.l2_normalize(features), np.asarray(labels)
    first, second = np.triu_indices(len(rows), 1)
    same = labels[first] == labels[second]
    return verification.area_under_roc((rows @ rows.T)[first, second], same)


def _kernel(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + 1) ** 3
