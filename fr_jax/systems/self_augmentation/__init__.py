from fr_jax.lazy import attributes

__getattr__ = attributes(__name__, {"make": ".system", "load": ".data"})
