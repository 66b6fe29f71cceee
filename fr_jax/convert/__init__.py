"""Published PyTorch networks as fr_jax variables, and back."""

from fr_jax.convert.dialect import Dialect
from fr_jax.convert.state_dict import (
    DIALECTS,
    Converted,
    from_state_dict,
    to_state_dict,
)

__all__ = ["DIALECTS", "Converted", "Dialect", "from_state_dict", "to_state_dict"]
