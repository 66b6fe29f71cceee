"""Face-recognition backbones: aligned faces in, raw embeddings out."""
