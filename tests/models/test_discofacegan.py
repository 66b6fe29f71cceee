"""DiscoFaceGAN against golden outputs of the published program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.convert import discofacegan as converter
from fr_jax.convert import discofacegan_layout as layout
from fr_jax.convert.readers import network_pickle, tensor_bundle
from fr_jax.models import discofacegan
from tests.support import discofacegan as files
from tests.support.paths import DATA, PARITY, read_npz


def _network(options, coefficients=None):
    """Returns module options and variables with random weights."""
    generator = network_pickle.PickledNetwork(_states(options))
    others = [network_pickle.PickledNetwork({"name": name}) for name in ("G", "D")]
    options, flat, _ = layout.generator((*others, generator))
    options["identities"] = 1
    flat["identity_coefficients"] = np.zeros((1, 160), np.float32)
    for factor in ("exp", "gamma", "rot"):
        prefix = DATA / f"weights/discofacegan/vae/{factor}/{files.CHECKPOINT}"
        flat |= converter._decoder(factor, tensor_bundle.read(prefix), prefix)
    mean = 0.1 * np.random.default_rng(12).standard_normal(options["dlatent_size"])
    flat["mean_identity"] = mean.astype(np.float32)
    return options, converter._checked(PARITY, options, flat)


def _states(options):
    """Returns the state that the reader of the pickle would return."""

    def stored(network):
        state = dict(network.__dict__)
        state["variables"] = [
            (name, network_pickle._Array(value) if np.ndim(value) else value)
            for name, value in state["variables"]
        ]
        state["components"] = {
            name: network_pickle.PickledNetwork(stored(one))
            for name, one in state["components"].items()
        }
        return state

    return stored(files.network(**files.state(options)))


@pytest.fixture(scope="module")
def golden():
    return read_npz(PARITY / "golden/disco_tiny_golden.npz")


@pytest.fixture(scope="module")
def tiny():
    return _network(files.TINY)


def _apply(tiny, *arguments, method, upsampling="phases", **options):
    model = models.create("discofacegan", **tiny[0], upsampling=upsampling, **options)
    return model.apply(tiny[1], *arguments, method=method)


@files.needs(PARITY)
def test_golden_w(tiny, golden):
    parts = golden["coeff"][:, :254], golden["coeff"][:, 254:]
    w = _apply(tiny, *parts, method="map")
    np.testing.assert_allclose(w, golden["w"], atol=2e-5)
    styles = _apply(tiny, *parts, method="styles")
    for layer in range(14):
        expected = golden["w_trunc" if layer < 8 else "w"]
        np.testing.assert_allclose(styles[:, layer], expected, atol=2e-5)
    assert np.abs(golden["w_trunc"] - golden["w"]).max() > 0.01
    untruncated = _apply(tiny, *parts, 1.0, method="styles")
    np.testing.assert_allclose(untruncated[:, 0], golden["w"], atol=2e-5)


@files.needs(PARITY)
@pytest.mark.parametrize(
    "upsampling", ["phases", pytest.param("plain", marks=pytest.mark.long)]
)
def test_golden_images(tiny, golden, upsampling):
    model = models.create("discofacegan", **tiny[0], upsampling=upsampling)

    @jax.jit
    def generate(variables, coefficients, noise, truncation=0.7):
        return model.apply(
            variables,
            coefficients,
            noise,
            truncation,
            method="generate",
            capture_intermediates=lambda module, _: isinstance(
                module, discofacegan.Layer
            ),
        )

    parts = golden["coeff"][:, :254], golden["coeff"][:, 254:]
    image, kept = generate(tiny[1], *parts)
    np.testing.assert_allclose(image, golden["image"], atol=1e-3)
    digests = []
    for number in range(14):
        (x,) = kept["intermediates"]["synthesis"][f"layer{number}"]["__call__"]
        digests.append([x.mean(), x.std(), x[0, -1, -1, 0], x[1, 1, 2, -1]])
    np.testing.assert_allclose(digests, golden["digest"], atol=1e-3)
    levels = np.asarray(discofacegan.pixels(image)).astype(int)
    difference = np.abs(levels - golden["image_u8"])
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.005
    swapped = generate(tiny[1], *(part[[1, 1]] for part in parts))[0]
    np.testing.assert_allclose(swapped[0], image[1], atol=1e-3)
    whole = generate(tiny[1], *parts, 1.0)[0]
    expected = golden["image_psi1_every4"]
    np.testing.assert_allclose(whole[:, ::4, ::4], expected, atol=1e-3)


@files.needs(PARITY)
@pytest.mark.long
def test_bfloat16_is_near(tiny, golden):
    model = models.create("discofacegan", **tiny[0], dtype="bfloat16")
    parts = golden["coeff"][:, :254], golden["coeff"][:, 254:]
    image = jax.jit(lambda *a: model.apply(*a, method="generate"))(tiny[1], *parts)
    assert image.dtype == jnp.float32
    rms = float(jnp.sqrt(jnp.mean(jnp.square(image - golden["image"]))))
    assert 0 < rms < 0.15 * golden["image"].std()


@files.needs(PARITY)
@pytest.mark.parametrize("factor", ["exp", "gamma", "rot"])
def test_golden_coefficients_of_the_published_decoders(tiny, factor):
    vae = read_npz(PARITY / "golden/disco_vae_golden.npz")
    first, last = next(c[1:] for c in discofacegan.CODES if c[0] == factor)
    codes = np.zeros((4, 179), np.float32)
    codes[:, first:last] = vae[f"z_{factor}"]
    coefficients = _apply(tiny, codes, method="coefficients")
    found = coefficients[:, discofacegan.COEFFICIENTS[factor]]
    np.testing.assert_allclose(found, vae[f"lambda_{factor}"], atol=5e-6)


def test_a_transposed_convolution_is_the_upsampling_with_a_rotated_kernel():
    x = jnp.array([[1.0, 2], [3, 4]])[None, :, :, None]
    kernel = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    plain = [[28, 54, 67, 48], [67, 111, 126, 84], [89, 141, 156, 102]]
    plain.append([48, 72, 79, 48])
    fused = [[12, 26, 33, 32], [33, 69, 84, 76], [51, 99, 114, 98]]
    fused.append([72, 128, 141, 112])
    for up in (discofacegan.upsample_plain, discofacegan.upsample_phases):
        np.testing.assert_array_equal(up(x, kernel)[0, :, :, 0], plain)
        np.testing.assert_array_equal(up(x, kernel[::-1, ::-1])[0, :, :, 0], fused)


def test_blur_and_normalisation():
    x = jnp.array([[1.0, 2], [3, 4]])[None, :, :, None]
    blurred = [[1.125, 1.3125], [1.5, 1.6875]]
    np.testing.assert_allclose(discofacegan.blur(x)[0, :, :, 0], blurred)
    x = jnp.array([[1.0, 2], [3, 6]])[None, :, :, None]
    expected = [-1.069045, -0.534522, 0, 1.603567]
    normal = discofacegan.normalised(x).ravel()
    np.testing.assert_allclose(normal, expected, atol=1e-6)


def test_pixels_are_truncated_not_rounded():
    images = jnp.array([-1.2, -1, 0, 1 / 127.5 * 0.99, 1, 1.5])
    expected = [0, 0, 127, 128, 255, 255]
    np.testing.assert_array_equal(discofacegan.pixels(images), expected)


def test_the_number_of_parameters_is_that_of_the_published_network():
    model = models.create("discofacegan")
    inputs = model.example_inputs(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in shapes.items()
    }
    assert count["mapping"] == 1_985_536
    assert count["synthesis"] == 24_152_419
    assert count["decoders_id"] == 673_440
    fields = {field.name for field in dataclasses.fields(model)}
    assert fields >= set(files.FULL)


@files.needs(PARITY)
@pytest.mark.long
def test_full_width():
    """The printed values of the published graph, and equality of both forms."""
    network = _network(files.FULL)
    coefficients = np.random.default_rng(11).standard_normal((2, 286)).astype("f4")
    parts = coefficients[:, :254], coefficients[:, 254:]
    w = _apply(network, *parts, method="map")
    np.testing.assert_allclose(
        w[0, :3], [-0.47726407, 2.13482238, -0.12459947], atol=2e-5
    )
    styles = _apply(network, *parts, method="styles")
    expected = [-0.344363, 1.6906111, -0.05182573]
    np.testing.assert_allclose(styles[0, 0, :3], expected, atol=2e-5)
    images = [
        np.asarray(
            jax.jit(lambda *a, m=model: m.apply(*a, method="generate"))(*arguments)
        )
        for form in ("plain", "phases")
        for model in [models.create("discofacegan", **network[0], upsampling=form)]
        for arguments in [(network[1], *parts)]
    ]
    np.testing.assert_allclose(*images, atol=1e-3)
    pixel = images[0][0, 100, 100]
    expected = [0.84832305, -0.16316552, -0.9059365]
    np.testing.assert_allclose(pixel, expected, atol=1e-3)
    assert images[0].mean() == pytest.approx(0.19110315, abs=1e-4)
    assert images[0].std() == pytest.approx(1.8348501, abs=1e-4)
