"""DR-GAN's discriminator: classifies identity and pose, and real or fake.

See `fr_jax.models.dr_gan.generator` for the papers. Its trunk is the encoder's.
"""

import functools
import itertools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fr_jax.errors import check_names
from fr_jax.losses.margin import unit
from fr_jax.models import layers
from fr_jax.models.dr_gan import generator as dr_gan

NORMS = ("batch", "group", "none")


class Discriminator(dr_gan.Part):
    """Images [B, H, W, C] in [-1, 1] -> {head: logits [B, n]}.

    Attributes:
      heads: (name, n) in the order of the last layer's columns: 'identity', 'real' (1),
        'pose' and so on. The CVPR form, with fakes as an additional class, is the
        softmax over 'identity' and 'real' together.
      branch_heads: every head has its own two last convolutions (the authors' program).
      cosine_identity: 'identity' gives the cosines between feature and class weights,
        for a margin loss.
      norm: 'batch'; 'group', statistics per image; 'none', for spectral normalisation
        (then set conv_bias). With BatchNorm, real and fake images, which pass in
        separate batches, have the same mean before pooling, so that such a
        discriminator learns slowly to distinguish them.
      extra_channel: the last convolution has an additional, unused channel.
      dropout: rate on the features, except that of 'identity' with branch_heads.
      Others: see `dr_gan.EncoderFields` and `dr_gan.Part`.
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
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        depth = round(dr_gan.FEATURES * self.width)
        if not self.branch_heads:
            _, last = trunk(name="trunk")(images, train)
            feature = dropout(dr_gan.pool(last)[:, :depth])
            cosines, heads = {}, dict(self.heads)
            if self.cosine_identity:
                cosines["identity"] = self._cosines(feature, heads.pop("identity"))
            columns = dr_gan.dense(sum(heads.values()), name="fc")(feature)
            ends = list(itertools.accumulate(heads.values()))
            return dict(zip(heads, jnp.split(columns, ends[:-1], axis=1))) | cosines
        _, shared = trunk(plan=dr_gan.TRUNK[:-2], name="trunk")(images, train)
        logits = {}
        for name, size in self.heads:
            _, last = trunk(plan=dr_gan.TRUNK[-2:], name=f"tail_{name}")(shared, train)
            feature = dr_gan.pool(last)[:, :depth]
            if name == "identity" and self.cosine_identity:
                logits[name] = self._cosines(feature, size)
                continue
            feature = feature if name == "identity" else dropout(feature)
            logits[name] = dr_gan.dense(size, name=f"fc_{name}")(feature)
        return logits

    def _cosines(self, feature: Array, size: int) -> Array:
        kernel = self.param("fc_identity", dr_gan.INIT, (feature.shape[1], size))
        return unit(feature, 1) @ unit(kernel, 0)
