"""The face encoder of a generator, as an embedder."""

from fr_jax import models
from fr_jax.convert.state_dict import Converted
from fr_jax.errors import UserError
from fr_jax.models.dr_gan.generator import Encoder


def encoder_of(generator: Converted) -> Converted:
    """Returns the encoder of a DR-GAN generator as an embedder.

    `dialect` remains that of the generator.

    Raises:
      UserError: for anything but a DR-GAN generator.
    """
    if generator.architecture != "dr_gan_generator":
        raise UserError(
            f"a {generator.architecture} has no encoder; a dr_gan_generator has one"
        )
    fields = Encoder.__dataclass_fields__
    options = {name: v for name, v in generator.options.items() if name in fields}
    return generator._replace(
        model=models.create("dr_gan_encoder", **options),
        variables={name: p["encoder"] for name, p in generator.variables.items()},
        architecture="dr_gan_encoder",
        options=options,
        kind="embedding",
    )
