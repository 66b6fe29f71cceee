"""Embedders: trained networks with preprocessing, checks and provenance."""

from fr_jax.embedder.embedder import (
    DESCRIPTION,
    Embedder,
    import_face_generator,
    import_weights,
    load_embedder,
)

__all__ = [
    "DESCRIPTION",
    "Embedder",
    "import_face_generator",
    "import_weights",
    "load_embedder",
]
