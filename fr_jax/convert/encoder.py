"""The face recogniser inside a generator."""

import inspect

from fr_jax import models
from fr_jax.convert.state_dict import Converted
from fr_jax.errors import UserError

_ARCHITECTURE = "dr_gan_encoder"


def encoder_of(generator: Converted) -> Converted:
    """Returns the encoder of a DR-GAN generator, an embedder of its own.

    Its dialect is still the generator's, whose names are those of the whole.

    Raises:
      UserError: for anything but a DR-GAN generator.
    """
    if generator.architecture != "dr_gan_generator":
        raise UserError(
            f"a {generator.architecture} has no encoder; a dr_gan_generator has one"
        )
    encoder, _ = models.ARCHITECTURES[_ARCHITECTURE]
    fields = inspect.signature(encoder).parameters
    options = {name: v for name, v in generator.options.items() if name in fields}
    return generator._replace(
        model=models.create(_ARCHITECTURE, **options),
        variables={name: p["encoder"] for name, p in generator.variables.items()},
        architecture=_ARCHITECTURE,
        options=options,
        kind="embedding",
    )
