"""An imported published network, against PyTorch and onnxruntime.

The weights are foamliu's MobileFaceNet, as a state dict and as its authors' ONNX file,
in `weights/` of the folder FR_JAX_TEST_DATA (or ../shared/data). An image takes 0.468
GFLOP, 93 % of it in 1x1 convolutions, so the speed of a matrix product is an upper
bound. From uint8 images to unit embeddings on two threads; the ONNX file takes one
image at a time, the others eight.
"""

import os
from pathlib import Path

import numpy as np

from benchmarks import contest
from benchmarks.embedding import BATCH, IMAGES, faces

THREADS = 2
GFLOP = 0.468
_DATA = Path(__file__).parents[2] / "shared/data"
WEIGHTS = Path(os.environ.get("FR_JAX_TEST_DATA", _DATA)) / "weights"


def ours():
    from fr_jax import load_embedder
    from fr_jax.backend import cpu

    cpu.keep_freed_memory()
    embedder = load_embedder(WEIGHTS / "mobilefacenet.pt")
    images = faces()
    return lambda: embedder.embed(images)


def pytorch():
    import torch

    from benchmarks.torch_iresnet import embed
    from benchmarks.torch_mobilefacenet import MobileFaceNet

    torch.set_num_threads(THREADS)
    model = MobileFaceNet()
    state = torch.load(WEIGHTS / "mobilefacenet.pt", "cpu", weights_only=True)
    model.load_state_dict(state)
    return embed(model, faces(), BATCH, scale=128.0)


def onnxruntime():
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        WEIGHTS / "MobileFaceNet.onnx", options, providers=["CPUExecutionProvider"]
    )
    (argument,) = session.get_inputs()
    images = faces()

    def run():
        scaled = ((images.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2)
        rows = [session.run(None, {argument.name: image[None]})[0] for image in scaled]
        rows = np.concatenate(rows)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return run


def product():
    """Returns a function: a matrix product with the operations of all images."""
    import jax
    import jax.numpy as jnp

    from fr_jax.backend import cpu

    cpu.keep_freed_memory()
    rows, side = 8192, 1024
    columns = round(IMAGES * GFLOP * 1e9 / (2 * rows * side))
    a, b = jnp.ones((rows, side)), jnp.ones((side, columns))
    multiply = jax.jit(jnp.matmul, compiler_options=cpu.compiler_options())
    return lambda: multiply(a, b).block_until_ready()


def run(rounds: int) -> dict[str, float]:
    if not WEIGHTS.exists():
        print(f"imported: no weights in {WEIGHTS}; set FR_JAX_TEST_DATA")
        return {}
    names = [*contest.AGAINST_PYTORCH, "onnxruntime", "product"]
    seconds = contest.contest("imported", 3 * rounds, names)
    bound = IMAGES / float(np.median(seconds.pop("product")))
    return contest.figures("imported", seconds, IMAGES) | {
        "imported/bound_images_per_second": bound,
        "imported/product_gflop_per_second": bound * GFLOP,
    }
