"""The schema of one aligned face in a TFRecord: encoded and decoded here alone.

Absent values are NaN, -1 or ''; absent landmarks take no room on disk. Importing this
module imports TensorFlow, which it keeps off the accelerator: that is JAX's.
"""

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
_LANDMARKS = {"landmarks5": 5, "landmarks68": 68}


def features(size: int) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of faces of `size` x `size` pixels."""
    scalars: dict[str, Any] = {
        name: tfds.features.Text() if kind is str else tfds.features.Scalar(kind)
        for name, kind in SCALARS.items()
    }
    landmarks = {
        name: tfds.features.Tensor(shape=(None, 2), dtype=np.float32)
        for name in _LANDMARKS
    }
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            **scalars,
            **landmarks,
        }
    )


def encode(face: Face) -> dict[str, Any]:
    """Returns a face as TFDS stores it; the image's bytes go in as they came."""
    example = face._asdict()
    example["box"] = np.asarray(face.box, np.float32)
    return example


def image(serialized: bytes) -> bytes:
    """Returns the encoded image of one record, and nothing else of it."""
    example = tf.train.Example.FromString(serialized).features.feature
    return example["image"].bytes_list.value[0]


def decode(serialized: bytes) -> Face:
    """Returns one record as a Face, every absent value as its default."""
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
    """Returns the encoded images [B] of serialized records [B], in the graph."""
    wanted = {"image": tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_example(serialized, wanted)["image"]


def decode_image(encoded: Any, size: int) -> Any:
    """Returns uint8 RGB [size, size, 3] of one encoded JPEG or PNG, in the graph.

    TensorFlow's default DCT differs from libjpeg's accurate one by up to 9/255.
    """
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(image, (size, size, 3))
