"""Convolutions as implemented for a CPU, compared with XLA's."""

import platform
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fr_jax.backend import convolution, cpu
from tests.support.paths import ROOT


def plain(x, kernel, stride, padding, groups=1):
    sides = (padding, padding) if isinstance(padding, int) else padding
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [sides] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < 2e-6


@pytest.mark.parametrize("height", [1, 2, 4, 7])
@pytest.mark.parametrize("width", [3, 6])
def test_winograd_and_its_gradients_equal_the_convolution(height, width):
    x, kernel, weights = arrays(
        (2, height, width, 5), (3, 3, 5, 4), (2, height, width, 4)
    )

    def through(function):
        out, pull = jax.vjp(function, x, kernel)
        return out, *pull(weights)

    actual = jax.jit(lambda: through(convolution.winograd))()
    expected = jax.jit(lambda: through(lambda x, k: plain(x, k, 1, 1)))()
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "groups", "channels"),
    [
        (1, 1, 0, 1, 6),
        (1, 2, 0, 1, 6),
        (3, 2, 1, 1, 6),
        (3, 1, 1, 6, 6),  # depthwise: a sum of shifted images
        (3, 2, 1, 6, 6),
        (3, 2, (0, 1), 6, 6),
        (7, 1, 0, 6, 6),
        (3, 1, 1, 1, 128),  # winograd
        (3, 2, 1, 1, 128),
        (7, 1, 0, 1, 6),
        (3, 2, (0, 1), 1, 6),
        (3, 1, (0, 1), 1, 128),
    ],
)
def test_every_form_equals_the_convolution(size, stride, padding, groups, channels):
    x, kernel = arrays((2, 7, 7, channels), (size, size, channels // groups, channels))
    options = {"stride": stride, "padding": padding, "groups": groups}
    actual = jax.jit(lambda: convolution.convolve(x, kernel, **options))()
    assert_close(actual, plain(x, kernel, stride, padding, groups))


@pytest.mark.parametrize("sides", [(1, 7), (7, 1), (1, 3), (3, 1)])
def test_kernel_that_is_not_square_equals_the_convolution(sides):
    x, kernel = arrays((2, 9, 8, 6), (*sides, 6, 5))
    padding = tuple((side // 2, side // 2) for side in sides)
    actual = convolution.convolve(x, kernel, stride=1, padding=padding)
    expected = lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert actual.shape == x.shape[:3] + (5,)
    assert_close(actual, expected)


@pytest.mark.parametrize("height", [1, 2, 5])
def test_transposed_convolution_and_its_gradients(height):
    """It equals the convolution of x with zeros between its pixels."""
    x, kernel, weights = arrays(
        (2, height, 3, 4), (3, 3, 4, 5), (2, 2 * height + 1, 7, 5)
    )

    def dilated(x, kernel):
        wide = lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)])
        return plain(wide, kernel, 1, 2)

    def through(function):
        out, pull = jax.vjp(function, x, kernel)
        return out, *pull(weights)

    actual = jax.jit(lambda: through(convolution.transposed))()
    expected = jax.jit(lambda: through(dilated))()
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("height, width", [(7, 6), (8, 8)])
@pytest.mark.parametrize(
    "size, stride, padding", [(3, 1, 1), (3, 2, 1), (3, 2, (0, 1)), (7, 2, 3)]
)
def test_first_and_second_gradients(size, stride, padding, height, width):
    x, kernel = arrays((2, height, width, 4), (size, size, 4, 5))

    def gradients(function):
        def cost(x, kernel):
            return jnp.sum(jnp.sin(function(x, kernel)))

        def slope(x, kernel):
            return jnp.sum(jnp.square(jax.grad(cost)(x, kernel)))

        return jax.grad(cost, (0, 1))(x, kernel), jax.grad(slope, (0, 1))(x, kernel)

    def convolve(x, kernel):
        return convolution.convolve(x, kernel, stride=stride, padding=padding)

    actual = jax.jit(lambda: gradients(convolve))()
    expected = jax.jit(lambda: gradients(lambda x, k: plain(x, k, stride, padding)))()
    leaves = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for one, other in zip(*leaves, strict=True):
        assert_close(one, other)


def test_gradients_within_a_branch_have_the_axis_order_that_is_fast():
    """In another order they take thirty times as long, without a warning."""
    x, kernel = arrays((2, 8, 8, 4), (3, 3, 4, 4))

    def slopes(apply):
        return jax.grad(lambda *xs: jnp.sum(jnp.sin(apply(*xs))), (0, 1))

    def step(chosen, x, kernel):
        both = (
            slopes(lambda x, k: convolution.convolve(x, k, stride=2, padding=1)),
            slopes(convolution.transposed),
        )
        return jax.lax.cond(chosen, *both, x, kernel)

    compiled = jax.jit(step).lower(True, x, kernel).compile().as_text()
    orders = re.findall(r"dim_labels=(\S+?)[,\s]", compiled)
    assert len(orders) >= 6
    assert set(orders) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_depthwise_convolution(stride):
    x, kernel, weights = arrays((2, 7, 6, 5), (3, 3, 1, 5), (2, 7, 6, 5))

    def pull(function):
        out, pull = jax.vjp(function, x, kernel)
        return pull(weights[:, : out.shape[1], : out.shape[2]])

    actual = jax.jit(
        lambda: pull(
            lambda x, k: convolution.convolve(x, k, stride=stride, padding=1, groups=5)
        )
    )()
    expected = jax.jit(lambda: pull(lambda x, k: plain(x, k, stride, 1, 5)))()
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("groups", [1, 128])
def test_convolution_traced_for_other_backends_is_equal(groups):
    x, kernel = arrays((2, 6, 6, 128), (3, 3, 128 // groups, 128))
    programs = {}
    for target in ("any", "plain"):

        def convolve(x, kernel, target=target):
            with convolution.traced_for(target):
                return convolution.convolve(
                    x, kernel, stride=1, padding=1, groups=groups
                )

        programs[target] = str(jax.make_jaxpr(convolve)(x, kernel))
        assert_close(jax.jit(convolve)(x, kernel), plain(x, kernel, 1, 1, groups))
    assert "platform_index" in programs["any"]
    assert programs["plain"].count("conv_general_dilated") == 1


def test_bfloat16_convolution_returns_bfloat16():
    x, kernel = arrays((1, 4, 4, 128), (3, 3, 128, 128))
    out = convolution.convolve(
        x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), stride=1, padding=1
    )
    assert out.dtype == jnp.bfloat16


def test_this_jaxlib_supports_the_options_for_cpus():
    """Without them steps take twice as long, without a warning."""
    assert cpu.compiler_options()
    assert cpu.quick_compilation()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept(keep):
    """With the setting, freed memory is allocated again without page faults.

    Runs in a separate process, since the setting affects the whole process.
    """
    code = f"""
import resource, numpy as np
from fr_jax.backend import cpu
assert not {keep} or cpu.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(100 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(sum(faults() for _ in range(5)) / 5 / first)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    again = float(done.stdout)
    assert again < 0.1 if keep else again > 0.5, again
