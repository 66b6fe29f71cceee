"""USynthFace's RandAugment on the host, pixel for pixel as Pillow does it.

Boutros et al. (FG 2023), a RandAugment (Cubuk et al. 2020) whose magnitude is drawn
anew for every operation. Pixels are rounded after each one. Pillow's own rounding is
followed: blends are cut off in float32, geometry counts in 1/65536 of a pixel.
"""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

_ONE = 1 << 16  # of fixed point
_LEVELS = np.arange(256)
# n / 13, rounded: the filter of Sharpness weighs 1, in the middle 5.
_THIRTEENTHS = ((2 * np.arange(13 * 255 + 1) + 13) // 26).astype(np.uint8)


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_ops: int = 4,
    magnitude: int = 16,
    flip: float = 0.5,
) -> np.ndarray:
    """Returns an image, perhaps mirrored, after `num_ops` operations in turn.

    Each is drawn uniformly from `OPERATIONS`, its bin from 1 .. `magnitude`, and the
    sign of those that have one.

    Args:
      image: uint8 RGB [H, W, 3].
      flip: probability of the mirror, before everything else.
    """
    if rng.random() < flip:
        image = cv2.flip(image, 1)
    kinds = rng.integers(len(OPERATIONS), size=num_ops)
    bins = rng.integers(1, magnitude + 1, size=num_ops)
    signs = 1 - 2 * rng.integers(2, size=num_ops)
    for kind, number, sign in zip(kinds, bins, signs):
        image = apply(OPERATIONS[kind], image, int(number), int(sign))
    return image


def examples(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_ops: int = 4,
    magnitude: int = 16,
    chains: int = 10,
) -> list[tuple[str, np.ndarray]]:
    """Returns 20 + `chains` titles and images: what may happen to a face, for a sheet.

    Identity first, then every operation at the largest magnitude, with both signs if it
    has them, and what `augment` makes of the face.
    """
    shown = [("before", image)]
    for name in OPERATIONS[1:]:
        if name in SIGNED:
            for sign, mark in ((-1, "-"), (1, "+")):
                made = apply(name, image, magnitude, sign)
                shown.append((f"{name} {mark}{magnitude}", made))
        else:
            level = f" {magnitude}" if name in ("Posterize", "Solarize") else ""
            shown.append((name + level, apply(name, image, magnitude)))
    options = {"num_ops": num_ops, "magnitude": magnitude}
    shown += [
        (f"{num_ops} at random", augment(image, rng, **options)) for _ in range(chains)
    ]
    return shown


def apply(name: str, image: np.ndarray, number: int, sign: int = 1) -> np.ndarray:
    """Returns uint8 RGB [H, W, 3] after one operation at bin `number`, 1 .. 16.

    Args:
      sign: 1 or -1; operations that are not in `SIGNED` have none.
    """
    return _FUNCTIONS[name](image, number, sign)


def _identity(image, number, sign):
    return image


def _shear(image, number, sign):
    return _moved(image, _map(image.shape, (1.0, 0.01 * sign * number, 0, 0, 1.0, 0)))


def _translate(image, number, sign):
    width = image.shape[1]
    pixels = sign * int(number * (150 / 331 * width) / 30)
    out = np.zeros_like(image)
    if pixels > 0:
        out[:, pixels:] = image[:, :-pixels]
    else:
        out[:, : width + pixels] = image[:, -pixels:]
    return out


def _rotate(image, number, sign):
    height, width = image.shape[:2]
    angle = -math.radians(sign * number)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    matrix = (
        *(cosine, sine, x - cosine * x - sine * y),
        *(-sine, cosine, y + sine * x - cosine * y),
    )
    return _moved(image, _map(image.shape, matrix))


@functools.lru_cache(maxsize=256)
def _map(shape, matrix):
    """Where each pixel [H, W] comes from, int16 (x, y): nearest, in fixed point."""
    a, b, c, d, e, f = matrix
    y, x = np.indices(shape[:2])
    places = [
        (_fixed(c + a / 2 + b / 2) + x * _fixed(a) + y * _fixed(b)) >> 16,
        (_fixed(f + d / 2 + e / 2) + x * _fixed(d) + y * _fixed(e)) >> 16,
    ]
    return np.stack(places, axis=-1).clip(-1, 32766).astype(np.int16)


def _fixed(value: float) -> int:
    return math.floor(value * _ONE + 0.5)


def _moved(image, places):
    fractions = np.empty(0, np.uint16)
    return cv2.remap(image, places, fractions, cv2.INTER_NEAREST, borderValue=(0, 0, 0))


def _factor(number, sign):
    return np.float32(1 + sign * 0.03 * number)


def _blend(towards, image, factor):
    """towards + factor * (image - towards), cut off as Pillow cuts it."""
    towards = np.asarray(towards, np.int16)
    change = (image.astype(np.int16) - towards).astype(np.float32)
    mixed = towards.astype(np.float32) + factor * change
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _luma(image):
    """uint8 [H, W] of Rec. 601, in Pillow's integers; exact below 2**24 in float32."""
    weights = np.array([19595, 38470, 7471], np.float32)
    luma = (image.astype(np.float32) @ weights).astype(np.int32)
    return (luma + 0x8000 >> 16).astype(np.uint8)


def _brightness(image, number, sign):
    return cv2.LUT(image, _blend(0, _LEVELS, _factor(number, sign)))


def _colour(image, number, sign):
    return _blend(_luma(image)[..., None], image, _factor(number, sign))


def _contrast(image, number, sign):
    mean = int(_luma(image).mean() + 0.5)
    return cv2.LUT(image, _blend(mean, _LEVELS, _factor(number, sign)))


def _sharpness(image, number, sign):
    if min(image.shape[:2]) < 3:
        smooth = image
    else:
        around = cv2.boxFilter(image, cv2.CV_16U, (3, 3), normalize=False)
        smooth = _THIRTEENTHS[around + 4 * image.astype(np.uint16)]
        for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1)):
            smooth[edge] = image[edge]
    return _blend(smooth, image, _factor(number, sign))


def _posterize(image, number, sign):
    return image & np.uint8(256 - 2 ** round(number / 7.5))


def _solarize(image, number, sign):
    return np.where(image < 255 - 8.5 * number, image, 255 - image)


def _by_channel(image, table):
    """The image through a table [256] of each channel, that `table(channel)` gives."""
    tables = np.stack([table(image[..., n]) for n in range(3)], axis=-1)
    return cv2.LUT(image, tables.astype(np.uint8)[None])


def _auto_contrast(image, number, sign):
    def stretched(channel):
        low, high = int(channel.min()), int(channel.max())
        if high == low:
            return _LEVELS
        scale = 255.0 / (high - low)
        return np.clip((_LEVELS * scale - low * scale).astype(int), 0, 255)

    return _by_channel(image, stretched)


def _equalize(image, number, sign):
    def equalized(channel):
        counts = np.bincount(channel.ravel(), minlength=256)
        used = counts[counts > 0]
        step = (used.sum() - used[-1]) // 255
        if not step:
            return _LEVELS
        below = np.cumsum(counts) - counts
        return np.minimum((step // 2 + below) // step, 255)

    return _by_channel(image, equalized)


def _greyscale(image, number, sign):
    return np.repeat(_luma(image)[..., None], 3, axis=2)


_FUNCTIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "Identity": _identity,
    "ShearX": _shear,
    "TranslateX": _translate,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Color": _colour,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Grayscale": _greyscale,
}
OPERATIONS = tuple(_FUNCTIONS)
SIGNED = OPERATIONS[1:8]
