"""USynthFace's RandAugment on the host, identical to Pillow in every pixel.

Boutros et al. (FG 2023), a RandAugment (Cubuk et al. 2020) that samples the magnitude
of every operation. Pixels are rounded after each operation, as Pillow rounds them:
blends are truncated from float32, geometry has a resolution of 1/65536 of a pixel.
"""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

_ONE = 1 << 16  # in fixed point
_LEVELS = np.arange(256)
# n / 13, rounded: the weights of Sharpness's filter are 1, and 5 in the centre.
_THIRTEENTHS = ((2 * np.arange(13 * 255 + 1) + 13) // 26).astype(np.uint8)


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_ops: int = 4,
    magnitude: int = 16,
    flip: float = 0.5,
) -> np.ndarray:
    """Returns an image, possibly mirrored, after `num_ops` random operations.

    Operations are uniform over `OPERATIONS`, bins over 1 .. `magnitude`, and signs over
    1 and -1.

    Args:
      image: uint8 RGB [H, W, 3].
      flip: probability of mirroring, which precedes the operations.
    """
    if rng.random() < flip:
        image = cv2.flip(image, 1)
    kinds = rng.integers(len(OPERATIONS), size=num_ops)
    bins = rng.integers(1, magnitude + 1, size=num_ops)
    signs = 1 - 2 * rng.integers(2, size=num_ops)
    for kind, number, sign in zip(kinds, bins.tolist(), signs.tolist()):
        image = apply(OPERATIONS[kind], image, number, sign)
    return image


def examples(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_ops: int = 4,
    magnitude: int = 16,
    chains: int = 10,
) -> list[tuple[str, np.ndarray]]:
    """Returns 20 + `chains` titles and images for a contact sheet of augmentations.

    The original first, then every operation at the largest magnitude, with both signs
    if it has them, then `chains` results of `augment`.
    """
    shown = [("before", image)]
    for name in OPERATIONS[1:]:
        signs = (("-", -1), ("+", 1)) if name in SIGNED else (("", 1),)
        for mark, sign in signs:
            graded = name in (*SIGNED, "Posterize", "Solarize")
            title = f"{name} {mark}{magnitude}" if graded else name
            shown.append((title, apply(name, image, magnitude, sign)))
    for _ in range(chains):
        random = augment(image, rng, num_ops=num_ops, magnitude=magnitude)
        shown.append((f"{num_ops} at random", random))
    return shown


def apply(name: str, image: np.ndarray, number: int, sign: int = 1) -> np.ndarray:
    """Returns uint8 RGB [H, W, 3] after one operation at bin `number`, 1 .. 16.

    Args:
      sign: 1 or -1; only operations in `SIGNED` use it.
    """
    return _FUNCTIONS[name](image, number, sign)


def _translate(image, number, sign):
    pixels = sign * int(number * (150 / 331 * image.shape[1]) / 30)
    return _affine(image, 1.0, 0, -pixels, 0, 1.0, 0)


def _rotate(image, number, sign):
    height, width = image.shape[:2]
    angle = -math.radians(sign * number)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    shift_x, shift_y = x - cosine * x - sine * y, y + sine * x - cosine * y
    return _affine(image, cosine, sine, shift_x, -sine, cosine, shift_y)


def _affine(image, *matrix):
    """Returns the image at matrix [2, 3] @ (x, y, 1): nearest pixel, black outside."""
    sources, fractions = _sources(image.shape[:2], matrix), np.empty(0, np.uint16)
    options = {"interpolation": cv2.INTER_NEAREST, "borderValue": (0, 0, 0)}
    return cv2.remap(image, sources, fractions, **options)


@functools.lru_cache(maxsize=256)
def _sources(shape, matrix):
    """Returns the source (x, y) of each pixel, int16 [H, W, 2]."""
    a, b, c, d, e, f = matrix
    y, x = np.indices(shape)
    sources = [
        (_fixed(c + a / 2 + b / 2) + x * _fixed(a) + y * _fixed(b)) >> 16,
        (_fixed(f + d / 2 + e / 2) + x * _fixed(d) + y * _fixed(e)) >> 16,
    ]
    return np.stack(sources, axis=-1).clip(-1, 32766).astype(np.int16)


def _fixed(value: float) -> int:
    return math.floor(value * _ONE + 0.5)


def _blend(towards, image, number, sign):
    """Returns towards + factor * (image - towards), truncated as in Pillow."""
    factor = np.float32(1 + sign * 0.03 * number)
    towards = np.asarray(towards, np.int16)
    change = (image.astype(np.int16) - towards).astype(np.float32)
    mixed = towards.astype(np.float32) + factor * change
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _luma(image):
    """Returns uint8 [H, W], Rec. 601 in Pillow's integers, exact in float32."""
    weights = np.array([19595, 38470, 7471], np.float32)
    luma = (image.astype(np.float32) @ weights).astype(np.int32)
    return (luma + 0x8000 >> 16).astype(np.uint8)


def _contrast(image, number, sign):
    mean = int(_luma(image).mean() + 0.5)
    return cv2.LUT(image, _blend(mean, _LEVELS, number, sign))


def _sharpness(image, number, sign):
    sums = cv2.boxFilter(image, cv2.CV_16U, (3, 3), normalize=False)
    filtered = _THIRTEENTHS[sums + 4 * image.astype(np.uint16)]
    smooth, inner = image.copy(), (slice(1, -1), slice(1, -1))
    smooth[inner] = filtered[inner]
    return _blend(smooth, image, number, sign)


def _by_channel(image, table):
    """Returns the image after a look-up table [256] per channel: `table(channel)`."""
    tables = np.stack([table(image[..., n]) for n in range(3)], axis=-1)
    return cv2.LUT(image, tables.astype(np.uint8)[None])


def _stretched(channel):
    """Returns the table that maps a channel's range to 0 .. 255."""
    low, high = int(channel.min()), int(channel.max())
    if high == low:
        return _LEVELS
    scale = 255.0 / (high - low)
    return np.clip((_LEVELS * scale - low * scale).astype(int), 0, 255)


def _equalized(channel):
    """Returns the table that makes a channel's histogram uniform."""
    counts = np.bincount(channel.ravel(), minlength=256)
    used = counts[counts > 0]
    step = (used.sum() - used[-1]) // 255
    if not step:
        return _LEVELS
    below = np.cumsum(counts) - counts
    return np.minimum((step // 2 + below) // step, 255)


# Functions of image, number and sign.
_FUNCTIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "Identity": lambda image, *_: image,
    "ShearX": lambda image, n, sign: _affine(image, 1.0, 0.01 * sign * n, 0, 0, 1.0, 0),
    "TranslateX": _translate,
    "Rotate": _rotate,
    "Brightness": lambda image, *bin_: cv2.LUT(image, _blend(0, _LEVELS, *bin_)),
    "Color": lambda image, *bin_: _blend(_luma(image)[..., None], image, *bin_),
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": lambda image, n, _: image & np.uint8(256 - 2 ** round(n / 7.5)),
    "Solarize": lambda image, n, _: np.where(image < 255 - 8.5 * n, image, 255 - image),
    "AutoContrast": lambda image, *_: _by_channel(image, _stretched),
    "Equalize": lambda image, *_: _by_channel(image, _equalized),
    "Grayscale": lambda image, *_: np.repeat(_luma(image)[..., None], 3, axis=2),
}
OPERATIONS = tuple(_FUNCTIONS)
SIGNED = OPERATIONS[1:8]
