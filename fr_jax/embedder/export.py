"""Export of embedders to formats for deployment, each checked after reloading.

Every format maps uint8 RGB faces [N, 112, 112, 3], any N, to unit embeddings [N, D].
Preprocessing is part of the graph; with `flip_sum` so is the mirror image, whose
embedding is added.

    jax         model.jax, a jax.export program for CPU, CUDA and TPU
    savedmodel  a TensorFlow SavedModel, for TensorFlow with XLA (its usual build)
    tflite      model.tflite, for LiteRT
    onnx        model.onnx, in a separate environment: the extra "onnx"
"""

import contextlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from fr_jax.backend.convolution import traced_for
from fr_jax.embedder import DESCRIPTION, Embedder, calibration, canary
from fr_jax.embedder.inputs import FACE_SIDE
from fr_jax.errors import CheckFailed, UserError, check_names
from fr_jax.losses.margin import unit

Graph = Callable[[Any], Any]
Graphs = Callable[[str], Graph]  # by platform

_SHAPE = (FACE_SIDE, FACE_SIDE, 3)
_PLATFORMS = ("cpu", "cuda", "tpu")
_COUNTS = (1, 3)  # batch sizes of the check
# LiteRT's converter gets this fixed batch size, since for an unknown size it broadcasts
# every scale and bias to a whole map. It divides no other axis, so that its occurrences
# can be replaced by 'any size' in the result.
_STAND_IN = 8191


def export(
    embedder: Embedder, kind: str, path: str | os.PathLike, *, flip_sum: bool = False
) -> float:
    """Writes an embedder to a new folder; returns the minimum cosine of the check.

    The folder has the program, the embedder's `embedder.json` with `flip_sum`, and its
    `calibration.json` if that threshold is for embeddings as the program's.

    Args:
      kind: 'jax', 'savedmodel', 'tflite' or 'onnx'.
      flip_sum: embed a face as the sum of the embeddings of image and mirror image,
        before normalisation.

    Raises:
      UserError: for an unknown kind, a missing package and an existing path.
      CheckFailed: if the reloaded program gives other embeddings; nothing is kept.
    """
    check_names("format", [kind], FORMATS)
    target = Path(path)
    if target.exists():
        raise UserError(f"{target} exists; choose another folder or remove it")
    faces = canary.faces(FACE_SIDE, max(_COUNTS))
    expected = embedder.embed(faces, flip=flip_sum)
    write, load = FORMATS[kind]
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write(_graphs(embedder, flip_sum), part)
        described = embedder.describe() | {"flip_sum": flip_sum}
        (part / DESCRIPTION).write_text(json.dumps(described, indent=1))
        if (threshold := embedder.calibration) and threshold.flip_sum == flip_sum:
            (part / calibration.FILE).write_bytes(threshold.content(""))
        run = load(part)
        cosine = min(canary.min_cosine(run(faces[:n]), expected[:n]) for n in _COUNTS)
        if not cosine >= canary.MIN_COSINE:
            raise CheckFailed(
                f"{kind}: the exported network embeds with cosine {cosine:.4f} to the "
                f"embedder, less than {canary.MIN_COSINE}; nothing was kept"
            )
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return cosine


def _graphs(embedder: Embedder, flip_sum: bool) -> Graphs:
    """Returns platform -> function uint8 [N, 112, 112, 3] -> unit embeddings [N, D].

    The platform selects the form of convolutions; see `traced_for`.
    """

    def of_platform(platform: str) -> Graph:
        def raw(images):
            with traced_for(platform):
                outputs = embedder.apply(embedder.variables, {"image": images})
            return outputs["embedding"]

        def embed(images):
            if not flip_sum:
                return unit(raw(images))
            # Applied twice, since not every format has a batch of unknown size times 2.
            return unit(raw(images) + raw(images[:, :, ::-1]))

        return embed

    return of_platform


def _write_jax(graphs: Graphs, folder: Path) -> None:
    (count,) = jax_export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((count, *_SHAPE), jnp.uint8)
    graph = jax.jit(graphs("any"))
    program = jax_export.export(graph, platforms=_PLATFORMS)(shape)
    (folder / "model.jax").write_bytes(program.serialize())


def _load_jax(folder: Path) -> Graph:
    program = jax_export.deserialize(bytearray((folder / "model.jax").read_bytes()))
    return lambda images: np.asarray(program.call(images))


def _load_savedmodel(folder: Path) -> Graph:
    import tensorflow as tf

    loaded: Any = tf.saved_model.load(str(folder))
    return lambda images: loaded(images).numpy()


def _write_savedmodel(
    graphs: Graphs,
    folder: Path,
    platform: str = "any",
    count: int | None = None,
    platforms: tuple[str, ...] = _PLATFORMS,
) -> None:
    """Writes a SavedModel for `count` images, by default any number."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    tf.config.set_visible_devices([], "GPU")  # JAX uses it
    shape = f"{count or 'n'}, {', '.join(map(str, _SHAPE))}"
    function = jax2tf.convert(
        graphs(platform),
        polymorphic_shapes=[shape],
        with_gradient=False,
        native_serialization_platforms=platforms,
    )
    specification = tf.TensorSpec((count, *_SHAPE), tf.uint8, name="images")
    module: Any = tf.Module()
    module.__call__ = tf.function(
        function, autograph=False, input_signature=[specification]
    )
    signatures = {"serving_default": module.__call__}
    with _without_remarks():
        tf.saved_model.save(module, str(folder), signatures=signatures)


def _write_tflite(graphs: Graphs, folder: Path) -> None:
    import tensorflow as tf
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    saved = folder / "savedmodel"
    _write_savedmodel(graphs, saved, "plain", _STAND_IN, ("cpu",))
    with _without_remarks():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
        model: Any = flatbuffer_utils.read_model_from_bytearray(converter.convert())
    shutil.rmtree(saved)
    (graph,) = model.subgraphs
    for tensor in graph.tensors:
        if tensor.shape is not None and any(tensor.shape % _STAND_IN == 0):
            free = tensor.shape % _STAND_IN == 0
            tensor.shapeSignature = np.where(free, -1, tensor.shape)
            tensor.shape = np.where(free, tensor.shape // _STAND_IN, tensor.shape)
    operators = schema.BuiltinOperator
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code in (operators.RESHAPE, operators.SLICE):
            # The last input is the shape; the options of RESHAPE repeat it.
            buffer = model.buffers[graph.tensors[operator.inputs[-1]].buffer]
            shape = np.frombuffer(bytes(buffer.data), np.int32)
            shape = np.where(shape % _STAND_IN == 0, -1, shape).astype(np.int32)
            buffer.data = np.frombuffer(shape.tobytes(), np.uint8)
            operator.builtinOptions = None
    content = flatbuffer_utils.convert_object_to_bytearray(model)
    (folder / "model.tflite").write_bytes(content)


def _load_tflite(folder: Path) -> Graph:
    try:
        import ai_edge_litert.interpreter as lite  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        from tensorflow import lite

    with _without_remarks(), _without_native_output():
        interpreter = lite.Interpreter(str(folder / "model.tflite"))
        interpreter.allocate_tensors()  # its first call logs
    runner = interpreter.get_signature_runner("serving_default")
    return lambda images: next(iter(runner(images=images).values()))


def _write_onnx(graphs: Graphs, folder: Path) -> None:
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]

        # Needed by the check.
        import onnxruntime  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs {error.name}, which is incompatible with the packages for "
            "training: python -m venv onnx; onnx/bin/pip install '.[onnx]'; "
            "onnx/bin/fr-jax export ..."
        ) from None
    with _without_remarks():
        jax2onnx.to_onnx(
            graphs("plain"),
            inputs=[jax.ShapeDtypeStruct(("n", *_SHAPE), jnp.uint8)],
            return_mode="file",
            output_path=str(folder / "model.onnx"),
        )


def _load_onnx(folder: Path) -> Graph:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (entry,) = session.get_inputs()
    return lambda images: session.run(None, {entry.name: images})[0]


@contextlib.contextmanager
def _without_remarks():
    """Suppresses log messages and warnings of TensorFlow and onnx_ir."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _without_native_output():
    """Discards the output of native code to standard error."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


FORMATS = {
    "jax": (_write_jax, _load_jax),
    "savedmodel": (_write_savedmodel, _load_savedmodel),
    "tflite": (_write_tflite, _load_tflite),
    "onnx": (_write_onnx, _load_onnx),
}
