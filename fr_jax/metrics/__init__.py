"""Metrics of face recognition: NumPy arrays in, floats out."""
