"""How one array lies in PyTorch and in Flax, as a pair of einops patterns."""

import einops
import numpy as np

# Name: (theirs, ours). `h` and `w` are the sides of the map that a dense layer
# flattens, channels first there and last here.
PATTERNS = {
    "vector": ("...", "..."),
    "convolution": ("o i h w", "h w i o"),
    "transposed": ("i o h w", "h w i o"),  # and turned by 180 degrees
    "dense": ("o i", "i o"),
    "one_cell": ("o i 1 1", "i o"),
    "flattened": ("o (c h w)", "(h w c) o"),
    "unflattened": ("(c h w) i", "i (h w c)"),
    "unflattened_bias": ("(c h w)", "(h w c)"),
}


def from_torch(array: np.ndarray, layout: str, grid: tuple[int, int]) -> np.ndarray:
    """Returns the array as Flax has it; EinopsError for a shape that cannot be so.

    Args:
      layout: a key of `PATTERNS`.
      grid: height and width of the flattened map.
    """
    theirs, ours = PATTERNS[layout]
    if layout == "transposed":
        array = array[..., ::-1, ::-1]
    return einops.rearrange(array, f"{theirs} -> {ours}", **_sides(layout, grid))


def to_torch(array: np.ndarray, layout: str, grid: tuple[int, int]) -> np.ndarray:
    """Returns the array as PyTorch has it; undoes `from_torch`."""
    theirs, ours = PATTERNS[layout]
    array = einops.rearrange(array, f"{ours} -> {theirs}", **_sides(layout, grid))
    return array[..., ::-1, ::-1] if layout == "transposed" else array


def _sides(layout: str, grid: tuple[int, int]) -> dict[str, int]:
    flat = "flattened" in layout
    return {"h": grid[0], "w": grid[1]} if flat else {}
