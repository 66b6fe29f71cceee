from fr_jax.lazy import attributes

_ROOM = "fr_jax.systems.dr_gan"
_OBJECTIVE = (
    *("Objective", "tpami", "cvpr", "generator_only"),
    *("with_reconstruction", "with_identity", "with_r1"),
)
_NAMES = {"make": "system", "load": "data", "Targets": "targets", "Rotator": "rotator"}
_NAMES |= dict.fromkeys(_OBJECTIVE, "objective")
__getattr__ = attributes(
    __name__, {name: f"{_ROOM}.{module}" for name, module in _NAMES.items()}
)
