"""Augmentation on the device: pure functions of one key per example."""

from fr_jax.augment.image import AUGMENTATIONS, augment, check, example_keys

__all__ = ["AUGMENTATIONS", "augment", "check", "example_keys"]
