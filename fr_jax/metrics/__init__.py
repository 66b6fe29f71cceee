"""Metrics of face recognition: NumPy arrays in, floats out."""


class Undefined(ValueError):
    """A metric does not exist for these data, such as a FAR without impostor pairs."""
