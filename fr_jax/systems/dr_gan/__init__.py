from fr_jax.lazy import attributes

_OBJECTIVE = (
    *("Objective", "tpami", "cvpr", "generator_only"),
    *("with_reconstruction", "with_identity", "with_r1"),
)
_NAMES = {"make": ".system", "load": ".data", "Targets": ".targets"}
_NAMES |= {"Rotator": ".rotator", **dict.fromkeys(_OBJECTIVE, ".objective")}
__getattr__ = attributes(__name__, _NAMES)
