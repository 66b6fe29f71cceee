"""Digests of pixels: equal for equal pixels, whatever their file format."""

import numpy as np

from data_pipelines import digests, images
from tests.support.faces import encoded, picture


def test_digest_is_of_the_pixels():
    image = picture()
    decoded = [images.decode(encoded(kind, image)) for kind in (".png", ".jpg")]
    assert digests.digest(decoded[0]) == digests.digest(image)
    others = [decoded[1], image[::-1], image[:, :-1], image.reshape(30, 20, 3)]
    values = {digests.digest(one) for one in (image, *others)}
    assert len(values) == 5
    assert all(0 < value < 2**64 for value in values)


def test_images_of_one_colour_have_none():
    flat = np.full((8, 8, 3), (1, 2, 3), np.uint8)
    assert digests.digest(flat) == digests.NONE
    flat[7, 7, 2] = 0
    assert digests.digest(flat) != digests.NONE


def test_slices_have_the_digests_of_their_images():
    stack = np.stack([picture(seed=n) for n in range(300)])
    found = digests.of_slices(stack)
    assert found.dtype == np.uint64
    assert found.tolist() == [digests.digest(image) for image in stack]
    assert digests.of_slices(stack[:0]).shape == (0,)
