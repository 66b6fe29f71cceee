"""The schema of one aligned face in a TFRecord, with its encoder and decoder.

Unknown values are NaN, -1 or ''; missing landmarks take no space. This module imports
TensorFlow and hides the accelerators from it, which are reserved for JAX.
"""

import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines.readers import Face

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

_STORED = {int: np.int32, float: np.float32, str: str}
SCALARS: dict[str, Any] = {
    name: _STORED[kind]
    for name, kind in Face.__annotations__.items()
    if kind in _STORED
}
_LANDMARKS = ("landmarks5", "landmarks68")


def features(size: int) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of faces of `size` x `size` pixels."""
    tensor = functools.partial(tfds.features.Tensor, dtype=np.float32)
    scalars: dict[str, Any] = {
        name: tfds.features.Text() if kind is str else tfds.features.Scalar(kind)
        for name, kind in SCALARS.items()
    }
    image = tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg")
    landmarks = {name: tensor(shape=(None, 2)) for name in _LANDMARKS}
    return tfds.features.FeaturesDict(
        {"image": image, "box": tensor(shape=(4,)), **scalars, **landmarks}
    )


def encode(face: Face) -> dict[str, Any]:
    """Returns a face as a TFDS example, with the bytes of the image unchanged."""
    return face._asdict() | {"box": np.asarray(face.box, np.float32)}


def image(serialized: bytes) -> bytes:
    """Returns the encoded image of one serialized record."""
    example = tf.train.Example.FromString(serialized).features.feature
    return example["image"].bytes_list.value[0]


def decode(serialized: bytes) -> Face:
    """Returns one serialized record as a Face."""
    example = tf.train.Example.FromString(serialized).features.feature
    values: dict[str, Any] = {"image": example["image"].bytes_list.value[0]}
    for name, kind in SCALARS.items():
        feature = example[name]
        if kind is str:
            values[name] = feature.bytes_list.value[0].decode()
        else:
            stored = feature.float_list if kind is np.float32 else feature.int64_list
            values[name] = stored.value[0]
    values["box"] = tuple(example["box"].float_list.value)
    for name in _LANDMARKS:
        points = np.array(example[name].float_list.value, np.float32)
        values[name] = points.reshape(-1, 2)
    return Face(**values)


def parse_images(serialized: Any) -> Any:
    """Returns the encoded images [B] of serialized records [B], as a graph."""
    columns = {"image": tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(serialized, columns)["image"]


def decode_pixels(encoded: Any, size: int) -> Any:
    """Returns uint8 RGB [size, size, 3] of one encoded JPEG or PNG, as a graph.

    TensorFlow's default DCT differs from libjpeg's accurate one by up to 9/255.
    """
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, (size, size, 3))
