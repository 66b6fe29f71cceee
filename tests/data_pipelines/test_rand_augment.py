"""RandAugment on the host equals Pillow for every operation, bin and sign."""

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from data_pipelines.vision import rand_augment as randaugment
from tests.support.faces import pictures

BINS = range(1, 17)


def by_pillow(name, image, number, sign):
    picture = Image.fromarray(image)
    width = picture.size[0]
    factor = 1 + sign * 0.03 * number

    def affine(*matrix):
        return picture.transform(
            picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST
        )

    operations = {
        "Identity": lambda: picture,
        "ShearX": lambda: affine(1, sign * 0.01 * number, 0, 0, 1, 0),
        "TranslateX": lambda: affine(
            1, 0, -sign * int(number * (150 / 331 * width) / 30), 0, 1, 0
        ),
        "Rotate": lambda: picture.rotate(sign * number, Image.Resampling.NEAREST),
        "Brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "Color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "Sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "Posterize": lambda: ImageOps.posterize(picture, 8 - round(number / 7.5)),
        "Solarize": lambda: ImageOps.solarize(picture, 255 - 8.5 * number),
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Grayscale": lambda: ImageOps.grayscale(picture).convert("RGB"),
    }
    return np.asarray(operations[name]())


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_every_bin_equals_pillow_in_every_pixel(name):
    signs = (1, -1) if name in randaugment.SIGNED else (1,)
    changed = 0
    for image in pictures():
        # Small images also for bins above those of the paper.
        for number in BINS if image.size > 20_000 else range(1, 31):
            for sign in signs:
                result = randaugment.apply(name, image, number, sign)
                expected = by_pillow(name, image, number, sign)
                assert result.dtype == np.uint8
                np.testing.assert_array_equal(
                    result, expected, err_msg=f"{name} {number} {sign} {image.shape}"
                )
                changed += (result != image).any()
    assert (changed > 0) == (name != "Identity")


def test_parameters_are_those_of_the_paper():
    pixels = [1, 3, 5, 6, 8, 10, 11, 13, 15, 16, 18, 20, 21, 23, 25, 27]
    white = np.full((112, 112, 3), 255, np.uint8)
    for number, shift in zip(BINS, pixels):
        moved = randaugment.apply("TranslateX", white, number, 1)
        assert (moved[:, :shift] == 0).all() and (moved[:, shift:] == 255).all()
        back = randaugment.apply("TranslateX", white, number, -1)
        assert (back == moved[:, ::-1]).all()
    levels = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (1, 1, 3))
    bits = [
        math.log2(len(np.unique(randaugment.apply("Posterize", levels, number))))
        for number in BINS
    ]
    assert bits == [8] * 3 + [7] * 8 + [6] * 5
    inverted = randaugment.apply("Solarize", levels, 16)[..., 0].ravel()
    assert inverted.argmax() == 119 and inverted[119] == 136  # the threshold


def test_operations_bins_and_signs_are_uniform(monkeypatch):
    sampled = []

    def record(name, image, number, sign):
        sampled.append((name, number, sign))
        return image

    monkeypatch.setattr(randaugment, "apply", record)
    image = np.zeros((4, 4, 3), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        randaugment.augment(image, rng)
    assert len(sampled) == 12_000
    for column, expected in ((0, 13), (1, 16), (2, 2)):
        values, counts = np.unique([row[column] for row in sampled], return_counts=True)
        assert len(values) == expected
        assert np.abs(counts * expected / 12_000 - 1).max() < 0.15
    numbers = {number for _, number, _ in sampled}
    assert numbers == set(BINS)


def test_half_of_the_images_are_mirrored_and_a_seed_fixes_the_result():
    image = pictures()[0]
    mirrored = sum(
        (randaugment.augment(image, np.random.default_rng(n), num_ops=0) != image).any()
        for n in range(400)
    )
    assert 160 < mirrored < 240
    one, two, other = (
        randaugment.augment(image, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (one == two).all()
    assert (one != other).any()
    assert one.shape == image.shape and one.flags["C_CONTIGUOUS"]
