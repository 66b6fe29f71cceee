"""Face-recognition research as pure functions: systems, one loop, embedders."""

from fr_jax.lazy import attributes

__version__ = "0.1.0"
__getattr__ = attributes(
    __name__, dict.fromkeys(("load_embedder", "import_weights"), "fr_jax.embedder")
)
