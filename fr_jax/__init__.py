"""Face-recognition research as pure functions: systems, one loop, embedders."""

from fr_jax.lazy import attributes

__version__ = "0.2.0"
_MODULES = {
    "ArrayStream": "fr_jax.training.streams",
    "Embedder": "fr_jax.embedder",
    "GeneratedStream": "fr_jax.training.streams",
    "Guard": "fr_jax.training.guard",
    "InputSpec": "fr_jax.models.preprocess",
    "Network": "fr_jax.system",
    "System": "fr_jax.system",
    "TrainingStopped": "fr_jax.errors",
    "UserError": "fr_jax.errors",
    "import_face_generator": "fr_jax.embedder",
    "import_weights": "fr_jax.embedder",
    "load_embedder": "fr_jax.embedder",
    "make_mesh": "fr_jax.backend.sharding",
    "train": "fr_jax.training.loop",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__ = attributes(__name__, _MODULES)
