"""Layers shared by the networks, with PyTorch's numerics where Flax differs."""

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
    """Returns a kernel from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default.

    The last axis of `shape` has the outputs; fan_in is the product of the others.
    """
    return uniform_bias(math.prod(shape[:-1]))(key, shape, dtype)


def uniform_bias(fan_in: int) -> Initializer:
    """Returns the initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for biases.

    PyTorch's default. `fan_in` is that of the layer's kernel.
    """
    bound = fan_in**-0.5
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


class Conv(nn.Module):
    """A convolution with PyTorch's padding: `kernel // 2` zeros on each side.

    With stride 2 on an even map, Flax's 'SAME' pads one side only.

    Attributes:
      kernel: side, or height and width.
      padding: number of zeros on every side, or before and after each axis.
      bias_init: by default `uniform_bias`.
    """

    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    init: Initializer = uniform_fan_in
    padding: int | tuple[int, int] | None = None
    groups: int = 1
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = False
    bias_init: Initializer | None = None

    def geometry(self) -> tuple[int, int, tuple[int, int, int, int]]:
        """Returns height and width, and zeros at top, left, bottom and right."""
        kernel = self.kernel
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = self.padding
        if padding is None:
            rows, columns = height // 2, width // 2
            return height, width, (rows, columns, rows, columns)
        low, high = (padding, padding) if isinstance(padding, int) else padding
        return height, width, (low, low, high, high)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, (top, left, bottom, right) = self.geometry()
        shape = (height, width, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.init, shape)
        out = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=((top, bottom), (left, right)),
            groups=self.groups,
        )
        if self.use_bias:
            init = self.bias_init or uniform_bias(math.prod(shape[:-1]))
            out += _bias(self, init, out)
        return out


class TransposedConv(nn.Module):
    """A transposed 3x3 convolution, stride 2: [B, H, W, C] -> [B, 2H+1, 2W+1, K].

    Equals PyTorch's ConvTranspose2d(C, K, 3, stride=2) with the kernel rotated by 180
    degrees. PyTorch's padding and output padding select the rows and columns to keep.
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
            out += _bias(self, nn.initializers.zeros, out)
        return out


class PReLU(nn.Module):
    """max(0, x) + slope * min(0, x), one slope per channel (Flax's PReLU has one)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.constant(0.25)
        slope = self.param("slope", init, (x.shape[-1],))
        return jnp.where(x >= 0, x, x * _spread(slope.astype(x.dtype), x.ndim))


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, equal to PyTorch's.

    Normalises with the biased variance of the batch and stores the unbiased variance.

    Attributes:
      momentum: weight of the old running value (1 - PyTorch's momentum).
      groups: number of equal, contiguous parts of the batch, each normalised with its
        own statistics, like PyTorch with a process per device. 1: the global batch,
        independent of the number of devices.
      first_group: running values follow the first group, like the checkpoint of
        PyTorch's first process; by default the mean over the groups.
      use_affine: learn a scale and a bias.
      frozen_scale: the scale gets no gradient.
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
    """Flax's GroupNorm with groups of at most `size` channels, called like BatchNorm.

    Wu and He, Group Normalization (ECCV 2018): statistics per image, without running
    values. The parameters have the names of a BatchNorm.
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
    """Returns x [..., C] normalised over all axes but C, and mean and variance [C].

    The gradient is the closed form (Ioffe and Szegedy, Batch Normalization, ICML 2015,
    section 3): x is the only residual of its size. Mean and variance have no gradient.
    Reverse mode only. Sums are float32 for every type of x.
    """
    return _batch_norm_forward(x, scale, bias, epsilon)[0]


def _batch_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    mean = _sum(wide) / count
    var = _sum(jnp.square(wide - _spread(mean, x.ndim))) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = scale * inverse
    # Centred first: with a mean far from zero, x * factor would lose precision.
    centred = wide - _spread(mean, x.ndim)
    out = centred * _spread(factor, x.ndim) + _spread(bias, x.ndim)
    return (out.astype(x.dtype), mean, var), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, residuals, gradients):
    del epsilon
    # The barrier prevents XLA from fusing these sums with other operations: on a CPU, a
    # plain sum over the leading axes runs at memory speed, a fused one 10 times slower.
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
    """Returns a vector [C] as [1, ..., 1, C] with `ndim` axes."""
    return vector.reshape((1,) * (ndim - 1) + (-1,))


def _bias(module: nn.Module, init: Initializer, out: Array) -> Array:
    """Returns the parameter `bias` of a module for its output, [1, ..., 1, C]."""
    bias = module.param("bias", init, out.shape[-1:])
    return _spread(bias.astype(out.dtype), out.ndim)


class Dense(nn.Module):
    """A float32 linear layer, by default with PyTorch's initialisation."""

    features: int
    use_bias: bool = True
    init: Initializer = uniform_fan_in
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        out = x @ self.param("kernel", self.init, (x.shape[-1], self.features))
        if self.use_bias:
            out += _bias(self, self.bias_init or uniform_bias(x.shape[-1]), out)
        return out


class Backbone(nn.Module):
    """Base class of face embedders with BatchNorm.

    Attributes:
      width: factor on the number of channels.
      dropout: rate before the last layer.
      bn_groups, bn_first_group: `groups` and `first_group` of every BatchNorm.
      dtype: type of the convolutions; the last layer is always float32.
      remat: recompute each block in the backward pass instead of storing its maps.
    """

    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.0
    bn_groups: int = 1
    bn_first_group: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def norm(self, **fields: Any) -> Norm:
        """Returns BatchNorm with the groups of this network."""
        return functools.partial(
            BatchNorm, groups=self.bn_groups, first_group=self.bn_first_group, **fields
        )

    def block(self, kind: type[nn.Module], **fields: Any) -> Callable[..., Any]:
        """Returns a block class with this network's dtype; (maps, train) -> maps."""
        kind = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
        return functools.partial(kind, dtype=self.dtype, **fields)

    def last_layer(self, maps: Array, train: bool, axes=(), **fields: Any) -> Array:
        """Returns [B, embedding_size] float32 of maps [B, h, w, C]: dropout and `fc`.

        Args:
          axes: axes along which a dropout mask is constant.
          fields: of `Dense`.
        """
        maps = nn.Dropout(self.dropout, axes, deterministic=not train)(maps)
        return Dense(self.embedding_size, name="fc", **fields)(flat(maps))


def flat(maps: Array) -> Array:
    """Returns maps [B, h, w, C] as float32 [B, h w C]."""
    return einops.rearrange(maps, "b h w c -> b (h w c)").astype(jnp.float32)


def max_pool(x: Array) -> Array:
    """Returns the maxima of non-overlapping 2x2 windows, [B, H // 2, W // 2, C]."""
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    x = x[:, :height, :width]
    return einops.reduce(x, "b (h 2) (w 2) c -> b h w c", "max")
