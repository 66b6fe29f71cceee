"""The product of training: a network with all that its correct use requires."""

from fr_jax.embedder.embedder import (
    DESCRIPTION,
    Embedder,
    import_weights,
    load_embedder,
)

__all__ = ["DESCRIPTION", "Embedder", "import_weights", "load_embedder"]
