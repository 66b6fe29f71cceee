"""DiscoFaceGAN at full width: images per second against TensorFlow, memory.

Random weights; TensorFlow runs the same layers from the same numbers, as one function.
37 GFLOP an image by phases of upsampling, 56 with plain convolutions.
"""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks import contest
from fr_jax import models
from fr_jax.models import discofacegan

ROWS = 4
_GFLOP = {"phases": 37.0, "plain": 56.0}


def network() -> tuple[Any, tuple[np.ndarray, ...]]:
    """Returns variables, and coefficients and noise of a batch."""
    model = models.create("discofacegan")
    shapes: Any = jax.eval_shape(
        model.init, jax.random.key(0), *model.example_inputs(1)
    )
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (
            random.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]) or 1)
        ).astype("f4"),
        shapes,
    )
    batch = random.standard_normal((ROWS, 286)).astype("f4")
    return variables, (batch[:, :254], batch[:, 254:])


def _program(upsampling: str = "phases", dtype: str = "float32"):
    model: Any = models.create("discofacegan", upsampling=upsampling, dtype=dtype)
    variables, batch = network()

    def generate(variables, *batch):
        return discofacegan.pixels(model.apply(variables, *batch, method="generate"))

    return jax.jit(generate), jax.device_put(variables), batch


def _ours(**options: str):
    program, variables, batch = _program(**options)
    return lambda: np.asarray(program(variables, *batch))


ours = functools.partial(_ours)
ours_plain = functools.partial(_ours, upsampling="plain")
ours_bfloat16 = functools.partial(_ours, dtype="bfloat16")


def tensorflow():
    """Returns a run of the same layers in TensorFlow, compiled as one function."""
    import tensorflow as tf

    variables, batch = network()
    params = jax.tree.map(tf.constant, variables["params"])
    blur = np.array([1, 2, 1], "f4")
    blur = np.outer(blur, blur)[:, :, None, None] / 16

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def mapped(x):
        for number in range(discofacegan.MAPPING_LAYERS):
            x = tf.nn.leaky_relu(dense(x, params["mapping"][f"dense{number}"]), 0.2)
        return x

    @tf.function
    def generate(coefficients, noise):
        w = mapped(tf.concat([coefficients, noise], 1))
        identity_only = tf.concat([coefficients[:, :160], tf.zeros((ROWS, 126))], 1)
        truncated = w + 0.3 * (params["mean_identity"] - mapped(identity_only))
        layers = params["synthesis"]
        x = tf.repeat(layers["const"][None], ROWS, axis=0)
        for number in range(discofacegan.LAYERS):
            layer = layers[f"layer{number}"]
            if number:
                if number > 1 and number % 2 == 0:
                    x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
                x = tf.nn.conv2d(x, layer["kernel"], 1, "SAME")
                if number > 1 and number % 2 == 0:
                    kernel = tf.repeat(tf.constant(blur), x.shape[-1], axis=2)
                    x = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
            x += layer["noise"][..., None] * layer["noise_weight"] + layer["bias"]
            x = tf.nn.leaky_relu(x, 0.2)
            x -= tf.reduce_mean(x, [1, 2], keepdims=True)
            x *= tf.math.rsqrt(tf.reduce_mean(x * x, [1, 2], keepdims=True) + 1e-8)
            own = truncated if number < discofacegan.TRUNCATED_LAYERS else w
            scale, shift = tf.split(dense(own, layer["style"]), 2, axis=1)
            x = x * (scale[:, None, None] + 1) + shift[:, None, None]
        x = dense(x, layers["rgb"])
        return tf.cast(tf.clip_by_value((x + 1) * 127.5, 0, 255), tf.uint8)

    return lambda: generate(*batch).numpy()


def run(rounds: int) -> dict[str, float]:
    difference = np.abs(ours()().astype(int) - tensorflow()().astype(int))
    names = ("ours", "ours_plain", "ours_bfloat16", "tensorflow")
    seconds = contest.contest("face_generator", rounds, names)
    results = contest.figures("face_generator", seconds, ROWS)
    results["face_generator/levels_from_tensorflow"] = float(difference.max())
    for upsampling, operations in _GFLOP.items():
        name = "ours" if upsampling == "phases" else "ours_plain"
        rate = results[f"face_generator/{name}_images_per_second"]
        results[f"face_generator/{name}_gflop_per_second"] = operations * rate
        program, variables, batch = _program(upsampling)
        memory = program.lower(variables, *batch).compile().memory_analysis()
        mib = memory.temp_size_in_bytes / ROWS / 2**20
        results[f"face_generator/{name}_mib_an_image"] = mib
    return results | _encoding(rounds)


def _encoding(rounds: int) -> dict[str, float]:
    """Returns aligned faces that one core encodes per second."""
    import time

    from fr_jax.faces import files

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (14, 14, 3)).repeat(8, 0).repeat(8, 1)
    image = image.astype("u1")
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(100):
            files.jpeg(image)
        rates.append(100 / (time.perf_counter() - start))
    return {"face_generator/encoded_images_per_second": float(np.median(rates))}
