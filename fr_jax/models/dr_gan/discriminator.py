"""DR-GAN's discriminator: who is it, in what pose, and is it real?

See `fr_jax.models.dr_gan` for the papers. Its trunk is the encoder's.
"""

import functools

import flax.linen as nn
import jax

from fr_jax.errors import check_names
from fr_jax.losses.margin import unit
from fr_jax.models import layers
from fr_jax.models.dr_gan import generator as dr_gan

Array = jax.Array
NORMS = ("batch", "group", "none")


class Discriminator(dr_gan.Part):
    """Images [B, H, W, C] in [-1, 1] -> {head: logits [B, n]}.

    Attributes:
      heads: (name, n) in the order of the last layer's columns: 'identity', 'real' (1),
        'pose' and so on. The CVPR form, in which a fake is one identity more, is the
        softmax over 'identity' and 'real' together.
      branch_heads: every head has its own two last convolutions (the authors' program).
      cosine_identity: 'identity' gives the cosines between feature and class weights,
        for a margin loss.
      norm: 'batch'; 'group', each image by itself; 'none', as spectral normalisation
        wants it: give biases then. BatchNorm brings real and made images, which pass
        one after the other, to one mean before they are pooled: such a discriminator
        takes long to tell them apart.
      extra_channel: the last convolution has a channel more, which is not used.
      dropout: rate on the features; branches spare that of 'identity'.
      The others are those of `dr_gan.EncoderFields` and `dr_gan.Part`.
    """

    heads: tuple[tuple[str, int], ...] = (("identity", 200), ("real", 1), ("pose", 9))
    final_elu: bool = True
    extra_channel: bool = False
    branch_heads: bool = False
    cosine_identity: bool = False
    norm: str = "batch"

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        check_names("norm", [self.norm], NORMS)
        unit = self.unit(normalised=self.norm != "none")
        if self.norm == "group":
            unit = functools.partial(unit, norm=layers.GroupNorm)
        trunk = functools.partial(
            dr_gan.Trunk,
            unit,
            width=self.width,
            extra=int(self.extra_channel),
            final_elu=self.final_elu,
        )
        dense = functools.partial(
            layers.Dense, init=dr_gan.INIT, bias_init=nn.initializers.zeros
        )
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        depth = round(dr_gan.FEATURES * self.width)
        if not self.branch_heads:
            _, last = trunk(name="trunk")(images, train)
            feature = dropout(dr_gan.pool(last)[:, :depth])
            cosines, heads = {}, dict(self.heads)
            if self.cosine_identity:
                cosines["identity"] = self._cosines(feature, heads.pop("identity"))
            columns = dense(sum(heads.values()), name="fc")(feature)
            logits, start = {}, 0
            for name, size in heads.items():
                logits[name] = columns[:, start : start + size]
                start += size
            return logits | cosines
        _, shared = trunk(plan=dr_gan.TRUNK[:-2], name="trunk")(images, train)
        logits = {}
        for name, size in self.heads:
            _, last = trunk(plan=dr_gan.TRUNK[-2:], name=f"tail_{name}")(shared, train)
            feature = dr_gan.pool(last)[:, :depth]
            if name == "identity" and self.cosine_identity:
                logits[name] = self._cosines(feature, size)
                continue
            feature = feature if name == "identity" else dropout(feature)
            logits[name] = dense(size, name=f"fc_{name}")(feature)
        return logits

    def _cosines(self, feature: Array, size: int) -> Array:
        kernel = self.param("fc_identity", dr_gan.INIT, (feature.shape[1], size))
        return unit(feature, 1) @ unit(kernel, 0)
