"""Face-recognition research as pure functions: systems, one loop, embedders."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import fr_jax` loads neither JAX nor Flax.
    if name in ("load_embedder", "import_weights"):
        from fr_jax import embedder

        return getattr(embedder, name)
    raise AttributeError(f"module 'fr_jax' has no attribute {name!r}")
