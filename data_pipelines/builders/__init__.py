"""Builders of TFRecord data sets, through TFDS."""
