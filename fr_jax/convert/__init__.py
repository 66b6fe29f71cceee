"""Published PyTorch networks as fr_jax variables, and back."""

from fr_jax.convert.state_dict import Converted, from_state_dict, to_state_dict

__all__ = ["Converted", "from_state_dict", "to_state_dict"]
