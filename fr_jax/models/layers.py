"""Layers that every backbone shares, with PyTorch's numerics where Flax's differ."""

import functools
import math
from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.backend.convolution import convolve, transposed
from fr_jax.errors import UserError

Array = jax.Array
Initializer = Callable[..., Array]
Norm = Callable[..., "BatchNorm | GroupNorm"]


def uniform_fan_in(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels.

    `shape` is a Flax kernel shape (outputs last), so fan_in is the product of all
    other axes.
    """
    return uniform_bias(math.prod(shape[:-1]))(key, shape, dtype)


def uniform_bias(fan_in: int) -> Initializer:
    """Returns the initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's of biases.

    `fan_in` is that of the kernel beside the bias.
    """
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A square convolution padded as PyTorch pads it, `kernel // 2` zeros a side.

    Flax's 'SAME' pads an even map on one side only when the stride is 2.

    Attributes:
      padding: zeros on every side, or before and after each axis.
      bias_init: PyTorch's own by default.
    """

    features: int
    kernel: int
    stride: int = 1
    init: Initializer = uniform_fan_in
    padding: int | tuple[int, int] | None = None
    groups: int = 1
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = False
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.init, shape)
        out = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.kernel // 2 if self.padding is None else self.padding,
            groups=self.groups,
        )
        if self.use_bias:
            init = self.bias_init or uniform_bias(math.prod(shape[:-1]))
            bias = self.param("bias", init, (self.features,))
            out += _spread(bias.astype(self.dtype), 4)
        return out


class TransposedConv(nn.Module):
    """A transposed 3x3 convolution, stride 2: [B, H, W, C] -> [B, 2H+1, 2W+1, K].

    It is PyTorch's ConvTranspose2d(C, K, 3, stride=2) with the kernel turned by 180
    degrees; padding and output padding there say which rows and columns to keep.
    """

    features: int
    init: Initializer = uniform_fan_in
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.init, shape)
        out = transposed(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            out += _spread(bias.astype(self.dtype), 4)
        return out


class PReLU(nn.Module):
    """max(0, x) + slope * min(0, x), one slope per channel (Flax's own has one)."""

    initial_slope: float = 0.25

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.constant(self.initial_slope)
        slope = self.param("slope", init, (x.shape[-1],))
        return jnp.where(x >= 0, x, x * _spread(slope.astype(x.dtype), x.ndim))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch computes it.

    Normalises with the biased variance of the batch and stores the unbiased one.

    Attributes:
      momentum: weight of the old running value (PyTorch's momentum is 1 - this).
      groups: the batch is cut into this many equal runs of rows, each normalised with
        its own statistics, as one PyTorch process per device does. 1 means the whole
        global batch, on however many devices it lies.
      first_group: the running values are those of the first group, as one process of
        PyTorch's keeps its own; else means over the groups.
      use_affine: learn a scale and a bias.
      frozen_scale: the scale is kept and loaded, but gets no gradient.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    first_group: bool = False
    use_affine: bool = True
    frozen_scale: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        var = self.variable("batch_stats", "var", jnp.ones, (features,))
        scale, bias = jnp.ones(features), jnp.zeros(features)
        if self.use_affine:
            scale = self.param("scale", nn.initializers.ones, (features,))
            bias = self.param("bias", nn.initializers.zeros, (features,))
        if self.frozen_scale:
            scale = jax.lax.stop_gradient(scale)
        if not train:
            factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
            offset = _spread(bias - mean.value * factor, x.ndim)
            return (x * _spread(factor, x.ndim) + offset).astype(x.dtype)

        if x.shape[0] % self.groups:
            raise UserError(
                f"a batch of {x.shape[0]} rows cannot be cut into {self.groups} equal "
                "BatchNorm groups; choose a batch size that bn_groups divides"
            )
        grouped = einops.rearrange(x, "(g b) ... c -> g b ... c", g=self.groups)
        grouped_norm: Any = jax.vmap(batch_norm, (0, None, None, None))
        normal, batch_mean, batch_var = grouped_norm(grouped, scale, bias, self.epsilon)
        if not self.is_initializing():
            count = x.size // (self.groups * features)
            unbiased = batch_var * (count / max(count - 1, 1))
            for running, value in ((mean, batch_mean), (var, unbiased)):
                # [groups, C] -> [C]
                value = value[0] if self.first_group else jnp.mean(value, axis=0)
                running.value = (
                    self.momentum * running.value + (1 - self.momentum) * value
                )
        return einops.rearrange(normal, "g b ... c -> (g b) ... c")


class GroupNorm(nn.Module):
    """Flax's, channels in groups of at most `size`, in the place of a BatchNorm.

    Wu and He, Group Normalization (ECCV 2018): each image by itself, so there are no
    running statistics. Scale and bias are called as those of a BatchNorm.
    """

    size: int = 16
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        del train
        group = math.gcd(x.shape[-1], self.size)
        norm = nn.GroupNorm(
            None, group, epsilon=self.epsilon, dtype=x.dtype, use_fast_variance=False
        )
        nn.share_scope(self, norm)
        return norm(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Returns x [..., C] normalised over all axes but C, and their mean and variance.

    The gradient is the closed form (Ioffe and Szegedy, Batch Normalization, ICML 2015,
    section 3), which keeps x and nothing else of its size; none flows into the mean and
    the variance. Reverse mode only. Sums are float32 whatever x is.
    """
    return _batch_norm_forward(x, scale, bias, epsilon)[0]


def _batch_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    mean = _sum(wide) / count
    var = _sum(jnp.square(wide - _spread(mean, x.ndim))) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = scale * inverse
    # Centred first: a mean far from zero would cost digits.
    centred = wide - _spread(mean, x.ndim)
    out = centred * _spread(factor, x.ndim) + _spread(bias, x.ndim)
    return (out.astype(x.dtype), mean, var), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, residuals, gradients):
    del epsilon
    # The barrier keeps XLA from merging these sums with other work: on a CPU a plain
    # sum over the leading axes runs at memory speed, a merged one ten times slower.
    (x, scale, mean, inverse), gradient = jax.lax.optimization_barrier(
        (residuals, gradients[0])
    )
    wide = gradient.astype(jnp.float32)
    centred = x.astype(jnp.float32) - _spread(mean, x.ndim)
    count = x.size // x.shape[-1]
    to_bias = _sum(wide)
    to_scale = inverse * _sum(wide * centred)
    factor = scale * inverse
    to_x = (
        wide * _spread(factor, x.ndim)
        - centred * _spread(factor * inverse * to_scale / count, x.ndim)
        - _spread(factor * to_bias / count, x.ndim)
    )
    return to_x.astype(gradient.dtype), to_scale, to_bias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


def _spread(vector: Array, ndim: int) -> Array:
    """A vector over the channels with `ndim` axes, to be broadcast on purpose."""
    return vector.reshape((1,) * (ndim - 1) + (-1,))


class Dense(nn.Module):
    """A float32 linear layer, by default drawn as PyTorch draws its kernel and bias."""

    features: int
    use_bias: bool = True
    init: Initializer = uniform_fan_in
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        out = x @ self.param("kernel", self.init, (x.shape[-1], self.features))
        if self.use_bias:
            init = self.bias_init or uniform_bias(x.shape[-1])
            out += _spread(self.param("bias", init, (self.features,)), out.ndim)
        return out


class Backbone(nn.Module):
    """What face embedders with BatchNorm have in common.

    Attributes:
      width: factor on the channels.
      dropout: rate before the last layer.
      bn_groups, bn_first_group: see `BatchNorm`.
      dtype: of the convolutions; the last layer is always float32.
      remat: recompute each block in the backward pass instead of keeping its maps.
    """

    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.0
    bn_groups: int = 1
    bn_first_group: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def norm(self, **fields: Any) -> Norm:
        """Returns the BatchNorm of all layers."""
        return functools.partial(
            BatchNorm, groups=self.bn_groups, first_group=self.bn_first_group, **fields
        )

    def block(self, kind: type[nn.Module], **fields: Any) -> Callable[..., Any]:
        """Returns a kind of block, called with (maps, train), and what all share."""
        kind = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
        return functools.partial(kind, dtype=self.dtype, **fields)


def flat(maps: Array) -> Array:
    """Returns maps [B, h, w, C] as float32 [B, h w C]."""
    return einops.rearrange(maps, "b h w c -> b (h w c)").astype(jnp.float32)


def max_pool(x: Array) -> Array:
    """Returns the greatest of every 2x2 pixels, [B, H // 2, W // 2, C]."""
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    x = x[:, :height, :width]
    return einops.reduce(x, "b (h 2) (w 2) c -> b h w c", "max")
