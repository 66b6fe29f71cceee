"""Foreign data -> aligned-face TFRecords -> batches. NumPy, OpenCV, TensorFlow; no JAX.

Only `records`, `builders` and `stream` import TensorFlow.
"""


class DataError(ValueError):
    """Data that cannot be used: names the file, the offending value and the remedy."""
