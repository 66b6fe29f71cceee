"""USynthFace's RandAugment at 112x112: on the host, on the device, and in Pillow.

One process each; host and Pillow process one image at a time.
"""

import itertools
import random

import numpy as np

from benchmarks import contest

IMAGES, SIZE, OPERATIONS, MAGNITUDE = 256, 112, 4, 16


def faces() -> np.ndarray:
    """Returns smooth, noisy images with histograms as full as those of photographs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = np.sin(rng.uniform(2, 9, (IMAGES, 1, 1, 3)) * (x + y)[None, ..., None])
    image = 128 + 80 * waves + rng.normal(0, 4, (IMAGES, SIZE, SIZE, 3))
    return image.clip(0, 255).astype(np.uint8)


def pillow():
    """Returns a function that follows the specification with Pillow."""
    from PIL import Image, ImageEnhance, ImageOps

    def affine(image, *matrix):
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST
        )

    def shift(image, b):
        return affine(image, 1, 0, -int(b * (150 / 331 * image.width) / 30), 0, 1, 0)

    def enhance(kind):
        return lambda image, b: kind(image).enhance(1 + 0.03 * b)

    signed = [
        lambda image, b: affine(image, 1, 0.01 * b, 0, 0, 1, 0),
        shift,
        lambda image, b: image.rotate(b, Image.Resampling.NEAREST),
        enhance(ImageEnhance.Brightness),
        enhance(ImageEnhance.Color),
        enhance(ImageEnhance.Contrast),
        enhance(ImageEnhance.Sharpness),
    ]
    unsigned = [
        lambda image, b: image,
        lambda image, b: ImageOps.posterize(image, 8 - round(b / 7.5)),
        lambda image, b: ImageOps.solarize(image, 255 - 8.5 * b),
        lambda image, b: ImageOps.autocontrast(image),
        lambda image, b: ImageOps.equalize(image),
        lambda image, b: ImageOps.grayscale(image).convert("RGB"),
    ]
    rng = random.Random(0)
    images = faces()

    def augment(image):
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for operation in rng.choices(signed + unsigned, k=OPERATIONS):
            number = rng.randint(1, MAGNITUDE)
            if operation in signed and rng.random() < 0.5:
                number = -number
            image = operation(image, number)
        return np.asarray(image)

    return lambda: [augment(Image.fromarray(image)) for image in images]


def host():
    from data_pipelines.vision import rand_augment

    rng = np.random.default_rng(0)
    options = {"num_ops": OPERATIONS, "magnitude": MAGNITUDE}
    images = faces()
    return lambda: [rand_augment.augment(image, rng, **options) for image in images]


def ours():
    """Returns a function for the device: 64 images at once, new random numbers."""
    import jax
    import jax.numpy as jnp

    from fr_jax import augment
    from fr_jax.backend import cpu

    cpu.keep_freed_memory()
    options = {"num_ops": OPERATIONS, "magnitude": MAGNITUDE}
    policy = (("flip", {}), ("rand_augment", options))

    def view(images, number):
        keys = jax.random.split(jax.random.key(number), len(images))
        return augment.augment(keys, images.astype(jnp.float32), policy)

    view = jax.jit(view, compiler_options=cpu.compiler_options())
    batches = jnp.split(jnp.asarray(faces()), IMAGES // 64)
    numbers = itertools.count()

    def run():
        jax.block_until_ready([view(batch, next(numbers)) for batch in batches])

    return run


def run(rounds: int) -> dict[str, float]:
    seconds = contest.contest("rand_augment", rounds, ["pillow", "host", "ours"])
    return contest.figures("rand_augment", seconds, IMAGES)
