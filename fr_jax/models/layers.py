"""Layers that every backbone shares, with PyTorch's numerics where Flax's differ."""

import math
from collections.abc import Callable

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
Initializer = Callable[..., Array]
Norm = Callable[..., "BatchNorm"]


def uniform_fan_in(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels.

    `shape` is a Flax kernel shape (outputs last), so fan_in is the product of all
    other axes.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def conv(
    features: int,
    kernel: int,
    stride: int = 1,
    *,
    init: Initializer = uniform_fan_in,
    padding: int | None = None,
    groups: int = 1,
    use_bias: bool = False,
    dtype=jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """Returns a square convolution padded as PyTorch pads it, `kernel // 2` a side.

    Flax's 'SAME' pads an even map on one side only when the stride is 2.
    """
    pad = kernel // 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=init,
        dtype=dtype,
        name=name,
    )


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
      use_affine: learn a scale and a bias.
      frozen_scale: the scale is kept and loaded, but gets no gradient.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
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
            raise ValueError(
                f"a batch of {x.shape[0]} rows cannot be cut into {self.groups} equal "
                "BatchNorm groups; choose a batch size that bn_groups divides"
            )
        grouped = einops.rearrange(x, "(g b) ... c -> g b ... c", g=self.groups)
        axes = tuple(range(1, grouped.ndim - 1))
        count = grouped.size // (self.groups * features)
        wide = grouped.astype(jnp.float32)
        batch_mean = jnp.mean(wide, axes, keepdims=True)
        centred = wide - batch_mean
        batch_var = jnp.mean(jnp.square(centred), axes, keepdims=True)
        if not self.is_initializing():
            unbiased = batch_var * (count / max(count - 1, 1))
            keep = self.momentum
            for running, value in ((mean, batch_mean), (var, unbiased)):
                value = jnp.mean(value, axis=tuple(range(value.ndim - 1)))
                running.value = keep * running.value + (1 - keep) * value
        scale, bias = _spread(scale, grouped.ndim), _spread(bias, grouped.ndim)
        out = centred * (jax.lax.rsqrt(batch_var + self.epsilon) * scale) + bias
        return einops.rearrange(out, "g b ... c -> (g b) ... c").astype(x.dtype)


def _spread(vector: Array, ndim: int) -> Array:
    """A vector over the channels with `ndim` axes, to be broadcast on purpose."""
    return vector.reshape((1,) * (ndim - 1) + (-1,))


class Dense(nn.Module):
    """A float32 linear layer, kernel and bias drawn as PyTorch draws them."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], self.features)
        out = x @ self.param("kernel", uniform_fan_in, shape)
        if self.use_bias:

            def init(key, bias_shape):
                bound = shape[0] ** -0.5
                return jax.random.uniform(key, bias_shape, minval=-bound, maxval=bound)

            out += _spread(self.param("bias", init, (self.features,)), out.ndim)
        return out
