"""Face-recognition research as pure functions: systems, one loop, embedders."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import fr_jax` loads neither JAX nor Flax.
    if name == "load_embedder":
        from fr_jax.embedder import load_embedder

        return load_embedder
    raise AttributeError(f"module 'fr_jax' has no attribute {name!r}")
