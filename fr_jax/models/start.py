"""Pretrained networks as starts of others: refused before any data are opened."""

from collections.abc import Mapping
from typing import Any

import jax

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec

# Options that change no shape.
_NO_SHAPES = (
    "bn_groups",
    "bn_first_group",
    "decoder",
    "dropout",
    "dtype",
    "vit_dropout",
)


def check_start(
    network: Any,
    backbone: str,
    options: Mapping[str, Any],
    image_size: int,
    setting: str = "backbone_options",
) -> None:
    """Raises a UserError unless a network's variables fit a backbone.

    The message has the setting to change.

    Args:
      network: a `Network` that is given as 'init'; its variables are not needed.
      backbone, options: arguments of `models.create`, as the settings
        `config.system.backbone` and `backbone_options`.
      setting: name of the setting that has the options.
    """
    if network.architecture != backbone:
        raise UserError(
            f"--init-from: its network is {network.architecture!r}, this run trains "
            f"{backbone!r}; set --config.system.backbone={network.architecture}"
        )
    spec = InputSpec(size=image_size)

    def shapes(chosen: Mapping[str, Any]) -> Any:
        module = models.create(backbone, **chosen)
        inputs = models.example_inputs(module, spec)
        variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        return jax.tree.map(lambda leaf: leaf.shape, variables)

    expected = shapes(options)
    if shapes(network.options) == expected:
        return
    theirs, ours = _tuples(network.options), _tuples(options)
    module, preset = models.ARCHITECTURES[backbone]
    fields = module.__dataclass_fields__
    defaults = {name: preset.get(name, fields[name].default) for name in ours}
    differing = {
        name: theirs[name] if name in theirs else defaults[name]
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name) and name not in _NO_SHAPES
    }
    settings = ", ".join(
        f"--config.system.{setting}.{name}={value}" for name, value in differing.items()
    )
    raise UserError(
        f"--init-from: its {backbone} has other options than this run's: set "
        f"{settings or f'--config.system.image_size to its size, not {image_size}'}"
    )


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with tuples for the lists of an embedder's JSON."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
