"""Published networks <-> Flax variables; weight files -> tensors."""

from fr_jax.convert.dialect import Dialect
from fr_jax.convert.encoder import encoder_of
from fr_jax.convert.readers import WeightFile, read_weights
from fr_jax.convert.state_dict import (
    DIALECTS,
    Converted,
    from_state_dict,
    to_state_dict,
)
from fr_jax.convert.weights import from_weights

__all__ = [
    "DIALECTS",
    "Converted",
    "Dialect",
    "WeightFile",
    "encoder_of",
    "from_state_dict",
    "from_weights",
    "read_weights",
    "to_state_dict",
]
