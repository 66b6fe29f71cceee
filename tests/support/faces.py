"""Pictures, encoded images, records and packs of faces for tests."""

import cv2
import numpy as np

from data_pipelines.readers import Face


def picture(height=20, width=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(kind=".jpg", image=None, **flags):
    options = [value for pair in flags.items() for value in pair]
    bgr = (picture() if image is None else image)[..., ::-1]
    return cv2.imencode(kind, bgr, [int(v) for v in options])[1].tobytes()


def some_faces(identities=6, images=4, size=20):
    for label in range(identities):
        for number in range(images):
            image = picture(size, size, seed=100 * label + number)
            name = f"p{label}"
            yield Face(
                encoded(".png", image), label, name, f"{name}/{number}.png", age=label
            )


def pictures():
    """Noise, a gradient with few levels, one colour, dark, small, and oblong."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (112, 112, 3), np.uint8)
    y, x = np.mgrid[:112, :112]
    gradient = np.stack([x, y, x + y], axis=2).astype(np.uint8) // 8 * 8
    smooth = 128 + 60 * np.sin(np.stack([x / 9, y / 13, (x + y) / 17], axis=2))
    flat = np.full((112, 112, 3), (7, 130, 255), np.uint8)
    dark = (noise[:64, :64] // 16 + 40).astype(np.uint8)
    oblong = noise[:30, :47]
    images = [
        noise,
        gradient,
        smooth.astype(np.uint8),
        flat,
        dark,
        noise[:2, :5],
        oblong,
    ]
    return [np.ascontiguousarray(image) for image in images]
