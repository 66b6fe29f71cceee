"""The schema of one aligned face in a TFRecord, with its encoder and decoder.

Unknown values are NaN, -1 or ''; missing landmarks take no space. This module imports
TensorFlow and hides the accelerators from it, which are reserved for JAX.
"""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines import DataError, images, names
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
_NAMES = ("identity", "source", "video")  # bytes in records, see `names.py`


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
    values: dict[str, Any] = face._asdict() | {"box": np.asarray(face.box, np.float32)}
    for name in _NAMES:
        values[name] = os.fsencode(names.unwritten(values[name]))
    return values


def stored_image(data: bytes) -> tuple[bytes, np.ndarray]:
    """Returns the bytes of an image as a record holds them, and its pixels.

    JPEG and PNG as they came, if training decodes them to the pixels of
    `images.decode`. All others are stored as PNG: other formats, CMYK, and images that
    an EXIF orientation turns.

    Raises:
      DataError: for an image that does not decode.
    """
    pixels = images.decode(data)
    header = images.probe(data)
    if header.format in ("jpeg", "png") and header.orientation == 1:
        try:
            trained = decode_pixels(data, header.width).numpy()
        except tf.errors.OpError as error:
            raise DataError(_reason(error)) from None
        if np.array_equal(trained, pixels):
            return data, pixels
    return images.encode_png(pixels), pixels


def check_image(serialized: bytes, size: int) -> None:
    """Raises a DataError if training cannot decode the image of a record."""
    try:
        decode_pixels(image(serialized), size)
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(_reason(error)) from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).partition("}} ")[2].split()) or str(error)
    return f"an image that TensorFlow does not decode: {text:.120}"


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
            text = feature.bytes_list.value[0]
            named = name in _NAMES
            values[name] = (
                names.written(text) if named else text.decode(errors="replace")
            )
        else:
            stored = feature.float_list if kind is np.float32 else feature.int64_list
            if stored.value:  # records of earlier versions lack some
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
