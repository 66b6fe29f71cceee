"""The networks of DR-GAN."""
