"""Foreign data -> aligned-face TFRecords -> batches. NumPy, OpenCV, TensorFlow; no JAX.

Only `records`, `builders` and `stream` import TensorFlow.
"""

import os

# Read when TensorFlow is imported, which logs several lines otherwise. Neither changes
# the images: oneDNN accelerates layers, which are not used here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


class DataError(ValueError):
    """Data that cannot be used: names the file, the offending value and the remedy."""
