from fr_jax.lazy import attributes

__getattr__ = attributes(__name__, {"make": "fr_jax.systems.usynthface.system"})
