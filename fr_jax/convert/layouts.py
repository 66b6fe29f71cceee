"""Array layouts of PyTorch and Flax, as pairs of einops patterns."""

import einops
import numpy as np

# Layout: (PyTorch, Flax). `h` and `w` are the sides of the map that a dense layer
# flattens: channels come first in PyTorch and last in Flax.
PATTERNS = {
    "vector": ("...", "..."),
    "convolution": ("o i h w", "h w i o"),
    "transposed": ("i o h w", "h w i o"),  # and rotated by 180 degrees
    "dense": ("o i", "i o"),
    "one_cell": ("o i 1 1", "i o"),
    "flattened": ("o (c h w)", "(h w c) o"),
    "unflattened": ("(c h w) i", "i (h w c)"),
    "unflattened_bias": ("(c h w)", "(h w c)"),
}


def from_torch(array: np.ndarray, layout: str, grid: tuple[int, int]) -> np.ndarray:
    """Returns a PyTorch array in Flax's layout.

    Args:
      layout: a key of `PATTERNS`.
      grid: height and width of the flattened map.

    Raises:
      EinopsError: for a shape that does not fit the layout.
    """
    torch, flax = PATTERNS[layout]
    if layout == "transposed":
        array = array[..., ::-1, ::-1]
    return einops.rearrange(array, f"{torch} -> {flax}", **_sides(layout, grid))


def to_torch(array: np.ndarray, layout: str, grid: tuple[int, int]) -> np.ndarray:
    """Returns a Flax array in PyTorch's layout; the inverse of `from_torch`."""
    torch, flax = PATTERNS[layout]
    array = einops.rearrange(array, f"{flax} -> {torch}", **_sides(layout, grid))
    return array[..., ::-1, ::-1] if layout == "transposed" else array


def _sides(layout: str, grid: tuple[int, int]) -> dict[str, int]:
    return dict(zip("hw", grid)) if "flattened" in layout else {}
