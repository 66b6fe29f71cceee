"""Detection, alignment and host augmentation of images."""
