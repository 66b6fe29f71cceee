"""The renderer: codes in, images and landmarks out."""
