from fr_jax.lazy import attributes

_ROOM = "fr_jax.systems.dr_gan"
__getattr__ = attributes(__name__, {"make": f"{_ROOM}.system", "load": f"{_ROOM}.data"})
