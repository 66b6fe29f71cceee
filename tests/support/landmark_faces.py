"""Pictures with 68 points that a small network learns to place; no renderer."""

import numpy as np


def template() -> np.ndarray:
    """Returns 68 points within a square from -1 to 1, not symmetric."""
    turn = np.arange(68) * 2.4
    radius = np.sqrt(np.linspace(0.05, 1, 68))
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    points[36], points[45] = (-0.5, -0.3), (0.5, -0.2)
    return points.astype(np.float32)


def arrays(count: int = 16, side: int = 48, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns `image`, `label` and `landmarks68`: a bright spot amid the points."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.4, 0.6, (count, 1, 2)) * side
    points = centre + 0.25 * side * template()[None]
    y, x = np.mgrid[:side, :side]
    square = (x - centre[..., :1]) ** 2 + (y - centre[..., 1:]) ** 2
    spot = 200 * np.exp(-square / (0.02 * side**2)) + rng.uniform(0, 50, square.shape)
    return {
        "image": np.repeat(spot[..., None], 3, axis=3).astype(np.uint8),
        "label": np.arange(count, dtype=np.int32),
        "landmarks68": points.astype(np.float32),
    }
