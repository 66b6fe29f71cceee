"""From foreign data to TFRecords of aligned faces and batches; never imports JAX.

Only `records`, `builders` and `stream` import TensorFlow.
"""

import os

# TensorFlow reads these variables on import; otherwise it prints several log lines.
# Images do not change: oneDNN accelerates layers, which are not used here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


class DataError(ValueError):
    """Unusable data; the message names the file, the offending value and the remedy."""
