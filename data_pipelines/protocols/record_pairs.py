"""Verification pairs of the images of labelled records."""

import numpy as np

from data_pipelines import DataError

MAX_GENUINE = 50_000


def draw(label: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of images, int [P, 2], and whether they are genuine, bool [P].

    All genuine pairs, or `MAX_GENUINE` random ones if there are more, and equally many
    random impostor pairs, or all if there are fewer. No pair occurs twice. Genuine and
    impostor pairs are spread evenly, so that contiguous folds have both kinds.

    Args:
      label: [N], -1 for images without a label, which are left out.

    Raises:
      DataError: without a pair of either kind.
    """
    rng = np.random.default_rng(seed)
    images = np.flatnonzero(label >= 0)
    images = images[np.argsort(label[images], kind="stable")]  # by identity
    sizes = np.unique(label[images], return_counts=True)[1].astype(np.int64)
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    if len(sizes) < 2 or not ends[-1]:
        raise DataError(
            f"{len(images):,} labelled images of {len(sizes):,} identities have no "
            "pairs of both kinds: two identities are needed, one with two images"
        )
    genuine = _genuine(_chosen(rng, ends[-1], MAX_GENUINE), sizes, ends)
    impostor = _impostor(rng, sizes, len(genuine))
    pairs = images[np.concatenate([rng.permutation(p) for p in (genuine, impostor)])]
    same = np.arange(len(pairs)) < len(genuine)
    share = [np.arange(len(p)) / len(p) for p in (genuine, impostor)]
    order = np.argsort(np.concatenate(share), kind="stable")
    return pairs[order], same[order]


def _chosen(rng: np.random.Generator, total: int, most: int) -> np.ndarray:
    """Returns at most `most` different numbers below `total`, ascending."""
    if total <= 2 * most:
        return np.sort(rng.permutation(total)[:most])
    numbers = np.zeros(0, np.int64)
    while len(numbers) < most:
        more = rng.integers(total, size=most)
        numbers = np.unique(np.concatenate([numbers, more]))
    return np.sort(rng.permutation(numbers)[:most])


def _triangle(numbers: np.ndarray) -> np.ndarray:
    """Returns the pairs (a, b), a < b, with numbers b (b - 1) / 2 + a, int [n, 2]."""
    second = ((1 + np.sqrt(1 + 8.0 * numbers)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > numbers  # rounding of the root
    return np.stack([numbers - second * (second - 1) // 2, second], axis=1)


def _genuine(numbers: np.ndarray, sizes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the genuine pairs with these numbers, identity by identity."""
    identity = np.searchsorted(ends, numbers, side="right")
    first = (np.cumsum(sizes) - sizes)[identity]
    within = numbers - np.concatenate([[0], ends])[identity]
    return first[:, None] + _triangle(within)


def _impostor(rng: np.random.Generator, sizes: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` different pairs of images of different identities."""
    count, identity = int(sizes.sum()), np.repeat(np.arange(len(sizes)), sizes)
    total = count * (count - 1) // 2

    def of_two(numbers):
        pairs = _triangle(numbers)
        return pairs[identity[pairs[:, 0]] != identity[pairs[:, 1]]]

    available = total - int(np.sum(sizes * (sizes - 1) // 2))
    if available <= 2 * most:
        first, after = np.arange(count), np.cumsum(sizes)
        parts = (
            np.stack(np.meshgrid(first[end - size : end], first[end:]), axis=-1)
            for size, end in zip(sizes, after)
        )
        pairs = np.concatenate([part.reshape(-1, 2) for part in parts])
        return rng.permutation(pairs)[:most]
    share = available / total
    while True:
        pairs = of_two(_chosen(rng, total, int(1.5 * most / share) + 99))
        if len(pairs) >= most:
            return rng.permutation(pairs)[:most]
