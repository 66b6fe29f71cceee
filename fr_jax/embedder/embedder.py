"""Embedders: trained networks with preprocessing, checks and provenance.

A folder with `embedder.json` (architecture, input specification, provenance, digest of
the weights) and `weights.npz` (variables; digests of the training images; and a canary:
fixed inputs with the outputs at the time of saving). Loading checks both, and refuses a
network whose outputs differ from those on the machine that saved it. A calibrated
embedder has its threshold in `calibration.json`.
"""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from fr_jax import convert, models
from fr_jax.convert import discofacegan
from fr_jax.embedder import calibration, canary
from fr_jax.embedder.batched import BatchedEmbed
from fr_jax.embedder.calibration import Calibration
from fr_jax.embedder.description import (
    DESCRIPTION,
    DIGESTS,
    FORMAT,
    WEIGHTS,
    read_network,
)
from fr_jax.embedder.inputs import batched
from fr_jax.errors import UserError, check_names
from fr_jax.metrics.verification import l2_normalize
from fr_jax.models.preprocess import prepare
from fr_jax.system import Network, PyTree

_COLOURS = ("BGR", "RGB")


class Embedder:
    """A network from aligned uint8 RGB faces to embeddings.

    Attributes:
      network: architecture, options, variables and input specification.
      provenance: data sets, their licences, identities and steps; for an imported
        network its file, digest, dialect and licence.
      digests: of the pixels of training images, uint64 [N], ascending, N at most a
        million; None if unknown. See `fr_jax.provenance`.
      calibration: the threshold of `fr-jax evaluate --calibrate`, or None.
      weights_sha256: digest of the stored weights; '' unless loaded from a folder.
    """

    def __init__(
        self,
        network: Network,
        provenance: dict[str, Any] | None = None,
        *,
        batch_size: int | None = None,
        digests: np.ndarray | None = None,
    ):
        self.network = network
        self.provenance = provenance or {}
        self.digests = digests
        self.calibration: Calibration | None = None
        self.weights_sha256 = ""
        if batch_size is None:  # a CPU is fastest if a batch fits into its caches
            batch_size = 8 if jax.default_backend() == "cpu" else 256
        self.batch_size = batch_size
        self._model = models.create(network.architecture, **network.options)
        self._batched = BatchedEmbed(self.apply, batch_size)
        self.variables = jax.tree.map(jnp.asarray, network.variables)

    def apply(self, variables: PyTree, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns {'embedding': raw [B, D]} for {'image': uint8 RGB [B, H, W, 3]}."""
        images = prepare(batch["image"], self.network.input_spec)
        return {"embedding": self._model.apply(variables, images)}

    def embed_raw(
        self, images: Any, *, flip: bool = False, progress: str = ""
    ) -> dict[str, np.ndarray]:
        """Returns {'embedding': raw [N, D]} for evaluators, with `flip` 'mirrored' too.

        See `embedder.batched.BatchedEmbed`.
        """
        self._check_kind()
        return self._batched(self.variables, images, flip=flip, progress=progress)

    def embed(
        self,
        images: Any,
        *,
        normalize: bool = True,
        flip: bool = False,
        unaligned: bool = False,
    ) -> np.ndarray:
        """Returns embeddings float32 [N, D] of aligned faces.

        Args:
          images: uint8 RGB [N, H, W, 3]; or paths of image files of aligned
            faces; or any iterable of paths, faces [H, W, 3] and batches of them.
          normalize: scale each embedding to length 1.
          flip: add the embedding of the mirrored face, before normalisation.
          unaligned: accept files of any one size.

        Raises:
          UserError: for arrays that are not uint8 RGB, a file that is no aligned face,
            no faces, and a network that has no embeddings.
        """
        options = {"normalize": normalize, "flip": flip, "unaligned": unaligned}
        batches = self.embed_each(images, **options)
        return np.concatenate(list(batches))

    def embed_each(
        self,
        images: Any,
        *,
        normalize: bool = True,
        flip: bool = False,
        unaligned: bool = False,
    ) -> Iterator[np.ndarray]:
        """Yields the result of `embed` batch by batch."""
        self._check_kind()
        size = self._batched.batch_size
        sides = None if unaligned else (self.network.input_spec.size,)
        batches = batched(images, size, sides=sides)
        for outputs in self._batched.each(self.variables, batches, flip=flip):
            embeddings = outputs["embedding"]
            if flip:
                embeddings = embeddings + outputs["mirrored"]
            if normalize:
                embeddings = l2_normalize(embeddings).astype(np.float32)
            yield embeddings

    def points(self, images: Any) -> np.ndarray:
        """Returns 68 landmarks float32 [N, 68, 2], (x, y) in pixels of the crops.

        Pixel centres are at whole numbers; iBUG's order.

        Args:
          images: square crops of 1.3 times a face box, uint8 RGB [N, H, W, 3]; or paths
            of image files of such crops, or any iterable of either.

        Raises:
          UserError: for images as in `embed`, and a network of another kind.
        """
        self._check_kind("landmarks")
        sides: list[tuple[int, ...]] = []

        def crops():
            for batch in batched(images, self._batched.batch_size, sides=None):
                sides.append(batch.shape[1:3])
                yield batch

        outputs = self._batched.each(self.variables, crops())
        shares = np.concatenate([part["embedding"] for part in outputs])
        height, width = sides[0]  # of all crops
        points = (shares.reshape(len(shares), -1, 2) + 0.5) * (width, height) - 0.5
        return points.astype(np.float32)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the embedder with its canary to a folder, completely or not at all.

        An existing embedder is replaced, with its calibration; other files in the
        folder stay.
        """
        folder = epath.Path(path)
        named = {**self.network.variables, "canary": self._canary()}
        if self.digests is not None:
            named[DIGESTS] = self.digests
        arrays: dict[str, Any] = flax.traverse_util.flatten_dict(named, sep="/")
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        weights = buffer.getvalue()
        if jax.process_index():  # all processes compute the canary, the first writes
            return
        digest = hashlib.sha256(weights).hexdigest()
        described = self.describe() | {"weights_sha256": digest}
        contents = {WEIGHTS: weights}
        contents[DESCRIPTION] = json.dumps(described, indent=1).encode()
        if self.calibration:
            contents[calibration.FILE] = self.calibration.content(digest)
        # Written to temporary files, then renamed: readers see complete files only.
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / f"{name}.part").write_bytes(content)
        for name in contents:
            (folder / f"{name}.part").replace(folder / name)
        if not self.calibration:  # that of an earlier embedder
            (folder / calibration.FILE).unlink(missing_ok=True)

    def export(
        self, kind: str, path: str | os.PathLike, *, flip_sum: bool = False
    ) -> float:
        """Writes a program of another framework; see `export.export`."""
        from fr_jax.embedder import export

        return export.export(self, kind, path, flip_sum=flip_sum)

    def state_dict(self, dialect: str) -> Mapping[str, np.ndarray]:
        """Returns the weights with the names of a dialect in `convert.DIALECTS`."""
        return convert.to_state_dict(self.network.variables, dialect)

    def describe(self) -> dict[str, Any]:
        """Returns everything except the weights, as JSON values."""
        return {
            "format": FORMAT,
            "kind": self.network.kind,
            "architecture": self.network.architecture,
            "package": type(self._model).__module__,
            "options": self.network.options,
            "input_spec": self.network.input_spec._asdict(),
            "provenance": self.provenance,
        }

    def _check_kind(self, kind: str = "embedding") -> None:
        if self.network.kind != kind:
            outputs = "landmarks" if kind == "landmarks" else "embeddings"
            raise UserError(
                f"a network of kind {self.network.kind!r} "
                f"({self.network.architecture}) gives no {outputs}"
            )

    def _canary(self, inputs: dict[str, np.ndarray] | None = None) -> canary.Arrays:
        """Returns the inputs by name, and their outputs as `canary.OUTPUT`."""
        spec = self.network.input_spec
        if self.network.kind == "embedding":
            inputs = inputs or {"images": canary.faces(spec.size)}
            outputs = self.embed(inputs["images"], normalize=False)
        else:
            shapes = models.example_inputs(self._model, spec, canary.ROWS)
            inputs = inputs or canary.noise(shapes)
            apply = jax.jit(self._model.apply)
            outputs = canary.rows(apply(self.variables, *inputs.values()))
        return inputs | {canary.OUTPUT: outputs}


def import_weights(
    path: str | os.PathLike,
    *,
    dialect: str | None = None,
    colour: str | None = None,
    part: str | None = None,
    prefix: str | None = None,
    encoder: bool = False,
    batch_size: int | None = None,
) -> Embedder:
    """Returns an embedder with the network of a published weight file.

    Args:
      dialect: a key of `convert.DIALECTS`; by default recognised.
      colour: 'RGB' or 'BGR', if it differs from the order of the dialect, or if
        repositories with these tensor names differ in it.
      part, prefix: select one of several networks; see `convert.read_weights` and
        `convert.from_state_dict`.
      encoder: take the encoder of a DR-GAN generator.

    Raises:
      UserError: for an invalid file, tensors of an unknown network, and a colour order
        that only the user knows.
    """
    file = convert.read_weights(os.fspath(path), part)
    try:
        source = convert.from_weights(file, dialect, prefix=prefix)
        source = convert.encoder_of(source) if encoder else source
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    spec = source.input_spec
    if colour is not None:
        check_names("colour order", [colour], _COLOURS)
        if spec.colour not in _COLOURS:
            raise UserError(f"{path}: a network of grey images has no colour order")
        spec = spec._replace(colour=colour)
    elif source.conventions:
        known = ", ".join(
            f"{one.colour} in {one.repository}" for one in source.conventions
        )
        raise UserError(
            f"{path}: the colour order of {source.dialect} files differs ({known}); "
            "choose one: fr-jax import --colour RGB or BGR, colour= in Python"
        )
    scheme = convert.DIALECTS[source.dialect]
    provenance = {
        "file": os.path.basename(path),
        "sha256": file.sha256,
        "format": file.format,
        "part": file.part,
        "dialect": source.dialect,
        "repository": scheme.source,
        "terms": scheme.terms,
        "unused": list(source.unused),
        "other_parts": list(file.other_parts),
        "colour_known": source.colour_known or colour is not None,
        "alternatives": [] if dialect else list(source.alternatives),
    }
    network = Network(
        source.architecture, source.options, source.variables, spec, source.kind
    )
    return Embedder(network, provenance, batch_size=batch_size)


def import_face_generator(
    path: str | os.PathLike,
    vae: str | os.PathLike,
    *,
    mean_identity: str | os.PathLike | None = None,
    identity_coefficients: str | os.PathLike | None = None,
) -> Embedder:
    """Returns DiscoFaceGAN's generator, of kind 'generator'.

    For arguments and errors see `fr_jax.convert.discofacegan.read`.
    """
    optional = (
        None if file is None else pathlib.Path(file)
        for file in (mean_identity, identity_coefficients)
    )
    names = ("mean_identity", "identity_coefficients")
    paths = pathlib.Path(path), pathlib.Path(vae)
    source = discofacegan.read(*paths, **dict(zip(names, optional)))
    provenance = {
        "file": os.path.basename(path),
        "sha256": source.sha256["generator"],
        "files": source.sha256,
        "format": "network-pickle",
        "repository": "microsoft/DiscoFaceGAN",
        "licence": discofacegan.LICENCE,
        "note": "; ".join(source.notes),
    }
    return Embedder(source.network, provenance)


def load_embedder(
    path: str | os.PathLike, *, batch_size: int | None = None, check: bool = True
) -> Embedder:
    """Returns the embedder in a folder or of a published weight file.

    Args:
      batch_size: rows of the compiled batch; by default 8 on a CPU, else 256.
      check: run the canary of a folder, at the cost of one batch.

    Raises:
      UserError: for a folder without an embedder, altered weights and a canary with
        different outputs; for weight files see `import_weights`.
    """
    folder = epath.Path(path)
    if folder.is_file():
        return import_weights(path, batch_size=batch_size)
    if not (folder / DESCRIPTION).exists():
        raise UserError(
            f"{path}: no embedder here (no {DESCRIPTION}); training writes one to "
            "WORKDIR/embedder, and fr-jax import converts a weight file to one"
        )
    try:
        saved = read_network(folder)
        expected = saved.canary.pop(canary.OUTPUT)
        known = {"batch_size": batch_size, "digests": saved.digests}
        embedder = Embedder(saved.network, saved.provenance, **known)
        embedder.weights_sha256 = saved.weights_sha256
        embedder.calibration = _calibration(folder, saved.weights_sha256)
        outputs = embedder._canary(saved.canary)[canary.OUTPUT] if check else expected
    except UserError as error:
        reason = str(error).removeprefix(f"{folder / WEIGHTS}: ")
        raise UserError(f"{path}: {reason}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged embedder ({reason:.300})") from error
    cosine = canary.min_cosine(outputs, expected)
    if check and not cosine >= canary.MIN_COSINE:
        raise UserError(
            f"{path}: canary failed: the outputs for its test inputs have cosine "
            f"{cosine:.4f} to those at the time of saving"
        )
    return embedder


def _calibration(folder: epath.Path, weights_sha256: str) -> Calibration | None:
    """Returns the calibration in a folder; logs why an invalid one is left out."""
    try:
        return calibration.read(folder, weights_sha256)
    except UserError as error:
        logging.warning("%s", error)
        return None
