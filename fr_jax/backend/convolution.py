"""Convolution of channels-last images, implemented for speed on each platform.

On accelerators this is XLA's convolution. On a CPU, where XLA's is much slower than a
matrix product, 1x1 kernels become one product and wide 3x3 kernels sixteen, by
Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, Fast Algorithms for
Convolutional Neural Networks, CVPR 2016, section 4.1); depthwise kernels become a sum
of shifted images. Results agree to float32 rounding.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Below this many channels, the transforms cost more than the products save.
_WINOGRAD_CHANNELS = 128

_target: contextvars.ContextVar[str] = contextvars.ContextVar("target", default="")


@contextlib.contextmanager
def traced_for(target: str) -> Iterator[None]:
    """A context in which convolutions are traced for other backends.

    Args:
      target: 'any' traces both implementations, of which lowering selects one; 'plain'
        traces XLA's convolution, which converters to other formats support.
    """
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def convolve(
    x: Array,
    kernel: Array,
    *,
    stride: int,
    padding: int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]],
    groups: int = 1,
) -> Array:
    """Returns the convolution [B, H', W', K] of x [B, H, W, C], without a bias.

    Args:
      kernel: [height, width, C / groups, K].
      padding: number of zeros on every side, before and after each axis, or these of
        both axes.
    """
    sides: Any = (padding, padding) if isinstance(padding, int) else padding
    zeros = sides if isinstance(sides[0], tuple) else (sides, sides)
    plain = functools.partial(_general, stride=stride, padding=zeros, groups=groups)

    def on_cpu(x, kernel):
        height, width, channels, features = kernel.shape
        square = height == width and zeros[0] == zeros[1]
        size, padded = (height, zeros[0]) if square else (None, None)
        exact = x.dtype == jnp.float32
        if groups == features and channels == 1 and exact and square:
            return _shifted_sum(x, kernel[None, :, :, 0], stride, padded)
        if groups == 1 and size == 1 and padded == (0, 0):
            pixels = x
            for axis in (1, 2):
                pixels = lax.slice_in_dim(pixels, 0, None, stride, axis)
            return jnp.einsum("bhwc,ck->bhwk", pixels, kernel[0, 0])
        wide = min(channels, features) >= _WINOGRAD_CHANNELS
        if (groups, size, stride, padded) == (1, 3, 1, (1, 1)) and wide and exact:
            return winograd(x, kernel)
        if groups == 1:
            return _in_order(x, kernel, stride, zeros, 1, 1)
        return plain(x, kernel)

    return _by_platform(on_cpu, plain, x, kernel)


def _by_platform(on_cpu, elsewhere, *arrays) -> Any:
    if _target.get() == "any":
        return lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)
    uses_cpu = jax.default_backend() == "cpu" and not _target.get()
    return (on_cpu if uses_cpu else elsewhere)(*arrays)


def _general(x, kernel, stride, padding, x_step=1, kernel_step=1, groups=1):
    """Returns XLA's convolution.

    Args:
      padding: (before, after) of each axis.
      x_step, kernel_step: dilation factors.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        lhs_dilation=(x_step, x_step),
        rhs_dilation=(kernel_step, kernel_step),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _in_order(x, kernel, stride, padding, x_step, kernel_step) -> Any:
    """Returns `_general`, whose gradients are convolutions with the same axis order.

    XLA:CPU is fast for that order only. It converts others to it, but not within a
    branch or a loop (https://github.com/jax-ml/jax/issues/12868), where gradients of
    kernels then take thirty times as long.
    """
    return _general(x, kernel, stride, padding, x_step, kernel_step)


def _in_order_forward(x, kernel, *geometry):
    return _in_order(x, kernel, *geometry), (x, kernel)


def _in_order_backward(stride, padding, x_step, kernel_step, residuals, gradient):
    x, kernel = residuals
    to_x, to_kernel = [], []
    for axis, (before, _) in enumerate(padding):
        side = (x.shape[axis + 1] - 1) * x_step
        window = (kernel.shape[axis] - 1) * kernel_step
        out = (gradient.shape[axis + 1] - 1) * stride
        to_x.append((window - before, side - out + before))
        to_kernel.append((before, window + out - side - before))
    rotated = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    by_channel = jnp.transpose(x, (3, 1, 2, 0))
    weights = jnp.transpose(gradient, (1, 2, 0, 3))
    of_x = _in_order(gradient, rotated, x_step, tuple(to_x), stride, kernel_step)
    geometry = kernel_step, tuple(to_kernel), x_step, stride
    of_kernel: Any = _in_order(by_channel, weights, *geometry)
    return of_x, jnp.transpose(of_kernel, (1, 2, 0, 3))


_in_order.defvjp(_in_order_forward, _in_order_backward)


def _shifted_sum(x, kernel, stride, padding):
    """Returns the depthwise convolution with a kernel [1, k, k, C], tap by tap."""
    size = kernel.shape[1]
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    if x.shape[1:3] == (size, size):
        return jnp.sum(x * kernel, axis=(1, 2), keepdims=True)
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = jnp.zeros((), x.dtype)
    for row in range(size):
        rows = _strided(x, row, height, stride, 1)
        for column in range(size):
            pixels = _strided(rows, column, width, stride, 2)
            out += pixels * kernel[:, row : row + 1, column : column + 1]
    return out


def transposed(x: Array, kernel: Array) -> Array:
    """Returns the transposed convolution [B, 2H+1, 2W+1, K] with stride 2.

    It equals the convolution with kernel [3, 3, C, K] of x [B, H, W, C] after inserting
    zeros between the pixels of x and padding by two. On a CPU, where XLA's is slow, it
    is computed as four convolutions of x, for even and odd rows and columns of the
    result; its gradients are those of the convolution with stride 2 that it transposes.
    """
    sides = (2, 2), (2, 2)
    dilated = functools.partial(_general, stride=1, padding=sides, x_step=2)
    return _by_platform(_transposed_by_parity, dilated, x, kernel)


@jax.custom_vjp
def _transposed_by_parity(x, kernel) -> Array:
    # Row 2j gets taps 0 and 2 of rows j - 1 and j of x, row 2j + 1 tap 1 of row j.
    even, odd = (slice(None, None, 2), (1, 1)), (slice(1, 2), (0, 0))

    def part(rows, columns):
        paddings = rows[1], columns[1]
        return _in_order(x, kernel[rows[0], columns[0]], 1, paddings, 1, 1)

    def merge(evens, odds, axis):
        both = _interleave(evens, _pad(odds, axis, 0, 1), axis)
        return lax.slice_in_dim(both, 0, both.shape[axis] - 1, axis=axis)

    rows = [merge(part(row, even), part(row, odd), 2) for row in (even, odd)]
    return merge(rows[0], rows[1], 1)


def _by_parity_forward(x, kernel):
    return _transposed_by_parity(x, kernel), (x, kernel)


def _by_parity_backward(residuals, gradient):
    x, kernel = residuals
    rotated = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    no_padding = (0, 0), (0, 0)
    to_x = _in_order(gradient, rotated, 2, no_padding, 1, 1)
    by_feature = jnp.transpose(gradient, (3, 1, 2, 0))
    weights = jnp.transpose(x, (1, 2, 0, 3))
    to_kernel: Any = _in_order(by_feature, weights, 1, no_padding, 1, 2)
    return to_x, lax.rev(jnp.transpose(to_kernel, (1, 2, 3, 0)), (0, 1))


_transposed_by_parity.defvjp(_by_parity_forward, _by_parity_backward)


@jax.custom_vjp
def winograd(x: Array, kernel: Array) -> Array:
    """Returns the 3x3 convolution [B, H, W, K] of x [B, H, W, C], padded by one.

    y = A' [(G kernel G') * (B' x B)] A on 4x4 tiles with stride 2, where * is sixteen
    matrix products over the channels, one for each position in a tile.
    """
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    # Each function below transforms one axis; the axis of the transform is the first.
    weights = _kernel_side(_kernel_side(kernel, 0), 1).reshape(16, *kernel.shape[2:])
    products = jnp.einsum("tnc,tck->tnk", _tiles(x), weights)
    out = _output_side(_output_side(products.reshape(_grid(x)), 3), 1)
    return out[:, : x.shape[1], : x.shape[2]], (x, weights)


def _backward(residuals, gradient):
    # Without the barrier XLA keeps the tiles of the forward pass, four times x.
    (x, weights), gradient = lax.optimization_barrier((residuals, gradient))
    _, height, width, _ = x.shape
    gradient = jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    products = _output_side_transposed(_output_side_transposed(gradient, 1), 3)
    products = products.reshape(16, -1, gradient.shape[-1])
    tiles = jnp.einsum("tnk,tck->tnc", products, weights).reshape(_grid(x))
    to_x = _input_side_transposed(_input_side_transposed(tiles, 3), 1)
    to_weights = jnp.einsum("tnc,tnk->tck", _tiles(x), products)
    to_weights = to_weights.reshape(4, 4, *weights.shape[1:])
    columns = _kernel_side_transposed(to_weights).swapaxes(0, 1)
    to_kernel = _kernel_side_transposed(columns)
    return to_x[:, 1 : height + 1, 1 : width + 1], to_kernel


winograd.defvjp(_forward, _backward)


def _tiles(x):
    """Returns the transformed 4x4 tiles of x, [16, B * tiles, C]."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    return _input_side(_input_side(x, 1), 3).reshape(16, -1, x.shape[-1])


def _grid(x):
    return 4, 4, x.shape[0], -(-x.shape[1] // 2), -(-x.shape[2] // 2), -1


def _strided(x, start, count, stride, axis):
    return lax.slice_in_dim(x, start, start + stride * (count - 1) + 1, stride, axis)


def _interleave(even, odd, axis):
    pairs = jnp.stack([even, odd], axis + 1)
    return pairs.reshape(*even.shape[:axis], -1, *even.shape[axis + 1 :])


def _pad(x, axis, low, high):
    return jnp.pad(x, [(low, high) if i == axis else (0, 0) for i in range(x.ndim)])


def _input_side(x, axis):
    count = x.shape[axis] // 2 - 1
    a, b, c, d = (_strided(x, start, count, 2, axis) for start in range(4))
    return jnp.stack([a - c, b + c, c - b, b - d])


def _input_side_transposed(v, axis):
    even = _pad(v[0], axis, 0, 1) + _pad(v[1] + v[2] - v[0], axis, 1, 0)
    odd = _pad(v[1] - v[2] + v[3], axis, 0, 1) - _pad(v[3], axis, 1, 0)
    return _interleave(even, odd, axis)


def _output_side(m, axis):
    return _interleave(m[0] + m[1] + m[2], m[1] - m[2] - m[3], axis)


def _output_side_transposed(y, axis):
    count = y.shape[axis] // 2
    a, b = (_strided(y, start, count, 2, axis) for start in range(2))
    return jnp.stack([a, a + b, a - b, -b])


def _kernel_side(kernel, axis):
    a, b, c = (lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
    return jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c])


def _kernel_side_transposed(u):
    outer = (u[1] + u[2]) / 2
    return jnp.stack([u[0] + outer, (u[1] - u[2]) / 2, outer + u[3]])
