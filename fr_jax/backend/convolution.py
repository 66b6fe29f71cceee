"""Convolution of channels-last images, with the form that is fast where it runs.

On accelerators this is XLA's convolution. On a CPU, where XLA's is far from the speed
of a matrix product, 1x1 kernels become one product and wide 3x3 kernels sixteen, by
Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, Fast Algorithms for
Convolutional Neural Networks, CVPR 2016, section 4.1), and depthwise kernels a sum of
shifted images. Results agree to float32 rounding.
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

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
# Below this many channels, the transforms cost more than the products save.
_WINOGRAD_CHANNELS = 128

_target: contextvars.ContextVar[str] = contextvars.ContextVar("target", default="")


@contextlib.contextmanager
def traced_for(target: str) -> Iterator[None]:
    """Convolutions traced in here are not for this process's backend.

    `target` is 'any', a form for each platform, of which lowering picks one, or
    'plain', XLA's convolution everywhere, which converters to other formats know.
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
    padding: int | tuple[int, int],
    groups: int = 1,
) -> Array:
    """Returns images [B, H', W', K] of images [B, H, W, C], kernel [k, k, C/groups, K].

    `padding` zeros go on every side, or that many before and after each axis; there is
    no bias.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding

    def plain(x, kernel):
        return _general(x, kernel, stride, (before, after), groups=groups)

    def on_cpu(x, kernel):
        size, _, channels, features = kernel.shape
        exact = x.dtype == jnp.float32
        if groups == features and channels == 1 and exact:
            return _shifted_sum(x, kernel[None, :, :, 0], stride, (before, after))
        if groups == 1 and size == 1 and before == after == 0:
            seen = x
            for axis in (1, 2):
                seen = lax.slice_in_dim(seen, 0, None, stride, axis)
            return jnp.einsum("bhwc,ck->bhwk", seen, kernel[0, 0])
        wide = min(channels, features) >= _WINOGRAD_CHANNELS
        if (groups, size, stride, before, after) == (1, 3, 1, 1, 1) and wide and exact:
            return winograd(x, kernel)
        if groups == 1:
            return _in_order(x, kernel, stride, (before, after), 1, 1)
        return plain(x, kernel)

    return _by_platform(on_cpu, plain, x, kernel)


def _by_platform(on_cpu, elsewhere, *arrays) -> Any:
    if _target.get() == "any":
        return lax.platform_dependent(*arrays, cpu=on_cpu, default=elsewhere)
    here = jax.default_backend() == "cpu" and not _target.get()
    return (on_cpu if here else elsewhere)(*arrays)


def _general(x, kernel, stride, padding, x_step=1, kernel_step=1, groups=1):
    """XLA's convolution.

    Args:
      padding: of both axes, or a pair of pairs.
      x_step, kernel_step: distance of neighbours, zeros between them.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _per_axis(padding),
        lhs_dilation=(x_step, x_step),
        rhs_dilation=(kernel_step, kernel_step),
        dimension_numbers=_CHANNELS_LAST,
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _in_order(x, kernel, stride, padding, x_step, kernel_step) -> Any:
    """`_general` with the axes of its gradients in the same order.

    XLA:CPU has a fast form for that order alone. It brings others into it, but not
    within a branch or a loop (https://github.com/jax-ml/jax/issues/12868), where
    gradients of kernels then take thirty times as long.
    """
    return _general(x, kernel, stride, padding, x_step, kernel_step)


def _in_order_forward(x, kernel, *geometry):
    return _in_order(x, kernel, *geometry), (x, kernel)


def _in_order_backward(stride, padding, x_step, kernel_step, residuals, gradient):
    x, kernel = residuals
    to_x, to_kernel = [], []
    for axis, (before, _) in enumerate(_per_axis(padding)):
        side = (x.shape[axis + 1] - 1) * x_step
        window = (kernel.shape[axis] - 1) * kernel_step
        out = (gradient.shape[axis + 1] - 1) * stride
        to_x.append((window - before, side - out + before))
        to_kernel.append((before, window + out - side - before))
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    by_channel = jnp.transpose(x, (3, 1, 2, 0))
    weights = jnp.transpose(gradient, (1, 2, 0, 3))
    of_x = _in_order(gradient, turned, x_step, tuple(to_x), stride, kernel_step)
    of_kernel: Any = _in_order(
        by_channel, weights, kernel_step, tuple(to_kernel), x_step, stride
    )
    return of_x, jnp.transpose(of_kernel, (1, 2, 0, 3))


_in_order.defvjp(_in_order_forward, _in_order_backward)


def _per_axis(padding):
    return padding if isinstance(padding[0], tuple) else (padding, padding)


def _shifted_sum(x, kernel, stride, padding):
    """The depthwise convolution with a kernel [1, k, k, C]: a product a place in it."""
    size = kernel.shape[1]
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    if x.shape[1:3] == (size, size):
        return jnp.sum(x * kernel, axis=(1, 2), keepdims=True)
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = jnp.zeros((), x.dtype)
    for row in range(size):
        rows = _strided(x, row, height, stride, 1)
        for column in range(size):
            seen = _strided(rows, column, width, stride, 2)
            out += seen * kernel[:, row : row + 1, column : column + 1]
    return out


def transposed(x: Array, kernel: Array) -> Array:
    """Returns the transposed convolution [B, 2H+1, 2W+1, K] with stride 2, kernel 3.

    Every pixel of x [B, H, W, C] adds kernel [3, 3, C, K], turned by 180 degrees, times
    its value, at twice its place. The kernel is turned as it is for a convolution over
    x with zeros between its pixels, which is what this equals. On a CPU, where XLA has
    no fast form of that, it is done as four convolutions of x, one for even and odd
    rows and columns of the result, and its gradients as those of the convolution with
    stride 2 that it turns round.
    """
    return _by_platform(_transposed_by_parity, _transposed, x, kernel)


def _transposed(x, kernel):
    return _general(x, kernel, 1, (2, 2), x_step=2)


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
    turned = lax.rev(kernel, (0, 1))
    to_x = _in_order(gradient, turned.swapaxes(2, 3), 2, (0, 0), 1, 1)
    by_feature = jnp.transpose(gradient, (3, 1, 2, 0))
    weights = jnp.transpose(x, (1, 2, 0, 3))
    to_kernel: Any = _in_order(by_feature, weights, 1, (0, 0), 1, 2)
    return to_x, lax.rev(jnp.transpose(to_kernel, (1, 2, 3, 0)), (0, 1))


_transposed_by_parity.defvjp(_by_parity_forward, _by_parity_backward)


@jax.custom_vjp
def winograd(x: Array, kernel: Array) -> Array:
    """Returns the 3x3 convolution [B, H, W, K] of x [B, H, W, C], padded by one.

    y = A' [(G kernel G') * (B' x B)] A on 4x4 tiles that step by 2, where * is sixteen
    matrix products over the channels, one for each place in a tile.
    """
    return _forward(x, kernel)[0]


def _forward(x, kernel):
    # Each helper below transforms one axis, and puts the transform's four values first.
    weights = _kernel_side(_kernel_side(kernel, 0), 1).reshape(16, *kernel.shape[2:])
    products = jnp.einsum("tnc,tck->tnk", _tiles(x), weights)
    out = _output_side(_output_side(products.reshape(_grid(x)), 3), 1)
    return out[:, : x.shape[1], : x.shape[2]], (x, weights)


def _backward(residuals, gradient):
    # Without the barrier XLA would keep the forward pass's tiles, four times x.
    (x, weights), gradient = lax.optimization_barrier((residuals, gradient))
    _, height, width, _ = x.shape
    gradient = jnp.pad(gradient, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    products = _output_side_transposed(_output_side_transposed(gradient, 1), 3)
    products = products.reshape(16, -1, gradient.shape[-1])
    tiles = jnp.einsum("tnk,tck->tnc", products, weights).reshape(_grid(x))
    to_x = _input_side_transposed(_input_side_transposed(tiles, 3), 1)
    to_weights = jnp.einsum("tnc,tnk->tck", _tiles(x), products)
    to_weights = to_weights.reshape(4, 4, *weights.shape[1:])
    to_kernel = _kernel_side_transposed(
        _kernel_side_transposed(to_weights).swapaxes(0, 1)
    )
    return to_x[:, 1 : height + 1, 1 : width + 1], to_kernel


winograd.defvjp(_forward, _backward)


def _tiles(x):
    """The transformed 4x4 tiles of x, one row each: [16, B * tiles, C]."""
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
