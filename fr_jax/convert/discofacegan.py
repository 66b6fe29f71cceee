"""The published files of DiscoFaceGAN -> Flax variables.

A pickle of the generator, TensorFlow checkpoints of the four decoders, and a text file
with the mean of w over identities.
"""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.format import MAGIC_PREFIX, open_memmap

from fr_jax import models
from fr_jax.convert import discofacegan_layout as layout
from fr_jax.convert.readers import network_pickle, tensor_bundle
from fr_jax.convert.readers.refusal import Refusal
from fr_jax.errors import UserError
from fr_jax.models import discofacegan, preprocess
from fr_jax.system import Network

ARCHITECTURE = "discofacegan"
LICENCE = (
    "research only, non-commercial, not to be redistributed: DiscoFaceGAN's network "
    "and training images are CC BY-NC"
)
# SHA-256 of the published data files.
_DECODERS = {
    "exp": "240c8c0fca8aceeea61df01837d7d664822f26786b32eb5810ea05cbe8d033a4",
    "gamma": "ebe87b1eea3415ba90e802bfedaf99119a4546b0ae9107e7530798d097e3acbd",
    "rot": "fa7ea51bbab61b5049c6dc660ee418ff70c21a49b6ce27df605b7d4867724893",
}
# Of the decoder of identities: size and Git blob, since its SHA-256 is not known.
_IDENTITY_SIZE = 16_950_168
_IDENTITY_BLOB = "ed75555787bed5a9b9f5a59ceb0a2cd5a3cf7052"
_MAX_TEXT, _MAX_ARRAY = 4 << 20, 1 << 30  # bytes of a text file and of a .npy
_MEAN_DRAWS = 50_000


class FaceGenerator(NamedTuple):
    """The network, with what was found out about its files.

    Attributes:
      sha256: digests of the files by role: 'generator', 'decoder_<factor>',
        'mean_identity', 'identity_coefficients'.
      notes: sentences on files that are not the published ones.
    """

    network: Network
    sha256: dict[str, str]
    notes: tuple[str, ...]


def read(
    path: Path,
    vae: Path,
    *,
    mean_identity: Path | None = None,
    identity_coefficients: Path | None = None,
) -> FaceGenerator:
    """Returns the generator of the published files.

    Args:
      path: pickle of (G, D, Gs); Gs is used.
      vae: folder with id, exp, gamma and rot, each with a TensorFlow checkpoint.
      mean_identity: text (up to 4 MiB) or .npy, [D] or equal rows [14, D]; by default
        computed from 50,000 draws, as published.
      identity_coefficients: .npy [N, 160], in place of the decoder of identities.

    Raises:
      UserError: for missing, damaged and other files; nothing in them is run.
    """
    _check_file(path, network_pickle.MAX_BYTES)
    data = np.memmap(path, np.uint8, "r").data
    try:
        options, flat, notes = layout.generator(network_pickle.read(path, data))
    except Refusal as refusal:
        at = "" if refusal.offset is None else f"byte {refusal.offset:,}: "
        raise UserError(f"{path}: {at}{refusal}; {refusal.remedy}") from None
    digests = {"generator": hashlib.sha256(data).hexdigest()}
    if identity_coefficients:
        rows = _array(identity_coefficients)
        if rows.ndim != 2 or rows.shape[1] != 160 or not len(rows):
            raise UserError(
                f"{identity_coefficients}: identity coefficients are [N, 160], got "
                f"{list(rows.shape)}"
            )
        flat["identity_coefficients"] = rows
        digests["identity_coefficients"] = _sha256(identity_coefficients)
        options["identities"] = len(rows)
    for factor, *_ in discofacegan.CODES:
        if factor == "id" and identity_coefficients:
            continue
        prefix = _checkpoint(vae, factor)
        try:
            tensors = tensor_bundle.read(prefix, _decoder_names(factor).values())
        except Refusal as refusal:
            raise UserError(f"{prefix.parent}: {refusal}; {refusal.remedy}") from None
        flat |= _decoder(factor, tensors, prefix)
        data_file = tensor_bundle.data_file(prefix)
        digest = digests[f"decoder_{factor}"] = _sha256(data_file)
        if not _published(factor, data_file, digest):
            notes += (f"{data_file} is not the published decoder of {factor}",)
    if mean_identity:
        flat["mean_identity"] = _mean(mean_identity, options["dlatent_size"])
        digests["mean_identity"] = _sha256(mean_identity)
    else:
        flat["mean_identity"] = np.zeros(options["dlatent_size"], np.float32)
    variables = _checked(path, options, flat)
    if not mean_identity:
        mean = mean_of_identities(options, variables)
        variables["params"]["mean_identity"] = mean
        notes += (f"the mean identity was computed from {_MEAN_DRAWS:,} draws",)
    spec = preprocess.InputSpec(size=discofacegan.SIDE, template="discofacegan256")
    network = Network(ARCHITECTURE, options, variables, spec, "generator")
    return FaceGenerator(network, digests, notes)


def mean_of_identities(
    options: Mapping[str, Any], variables: Any, draws: int = _MEAN_DRAWS
) -> np.ndarray:
    """Returns the mean of w over identities, float32 [D], by the published recipe.

    Legacy NumPy's seed 1; for each draw codes [1, 179] and noise [1, 32]; w of the
    identity's coefficients and the noise, other coefficients 0. Stored identity
    coefficients are used in turn.
    """
    model: Any = models.create(ARCHITECTURE, **options)
    columns = discofacegan.COEFFICIENTS["id"]

    def total(bound, codes, noise, rows):
        coefficients = bound.coefficients(codes, rows)
        identity_only = jnp.zeros_like(coefficients)
        identity_only = identity_only.at[:, columns].set(coefficients[:, columns])
        return jnp.sum(bound.map(identity_only, noise), axis=0)

    total = jax.jit(nn.apply(total, model))
    normal = np.random.RandomState(1).standard_normal((draws, 179 + 32))
    sums, size = np.zeros(model.dlatent_size), min(draws, 1000)
    for start in range(0, draws, size):
        part = normal[start : start + size].astype(np.float32)
        rows = np.arange(start, start + len(part)) % max(model.identities, 1)
        sums += np.asarray(total(variables, part[:, :179], part[:, 179:], rows), float)
    return (sums / draws).astype(np.float32)


def _decoder(
    factor: str, tensors: Mapping[str, np.ndarray], prefix: Path
) -> dict[str, np.ndarray]:
    """Returns the variables of a decoder by path."""
    flat = {}
    for path, name in _decoder_names(factor).items():
        if name not in tensors:
            raise UserError(f"{prefix}: no tensor {name}; is it another decoder?")
        flat[path] = np.asarray(tensors[name], np.float32)
    return flat


def _decoder_names(factor: str) -> dict[str, str]:
    """Returns the names of a decoder's tensors by path in the variables."""
    layers = ("fc0", "fc1", "fc2", "x_hat")
    leaves = [f"{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")]
    return {
        f"decoders_{factor}/{leaf}": f"{factor}/stage1/decoder/{leaf}"
        for leaf in leaves
    }


def _checkpoint(vae: Path, factor: str) -> Path:
    """Returns the prefix of the only checkpoint in the folder of a decoder."""
    folder = vae / factor
    found = sorted(folder.glob("*.index")) if folder.is_dir() else []
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder}: several checkpoints ({names}); keep one")
    name = found[0].name.removesuffix(".index") if found else "stage1_epoch_395.ckpt"
    data = folder / f"{name}.data-00000-of-00001"
    if found and data.is_file():
        return folder / name
    missing = data if found else folder / f"{name}.index"
    text = f"{missing}: no such file; the decoder of {factor} is two files in {folder}"
    if factor == "id":
        text += (
            f". The data file has {_IDENTITY_SIZE:,} bytes and the Git blob "
            f"{_IDENTITY_BLOB}; mirrors lack it. Without it, give "
            "--identity-coefficients FILE"
        )
    raise UserError(text)


def _published(factor: str, path: Path, digest: str) -> bool:
    if factor != "id":
        return digest == _DECODERS[factor]
    if path.stat().st_size != _IDENTITY_SIZE:
        return False
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return blob.hexdigest() == _IDENTITY_BLOB


def _mean(path: Path, length: int) -> np.ndarray:
    """Returns the mean identity, float32 [D]."""
    mean = _array(path)
    if mean.ndim == 2 and len(mean) and (mean == mean[0]).all():
        mean = mean[0]
    if mean.shape != (length,):
        raise UserError(
            f"{path}: the mean identity is {length} numbers, or "
            f"{discofacegan.LAYERS} equal rows of them, got {list(mean.shape)}"
        )
    return mean


def _array(path: Path) -> np.ndarray:
    """Returns the finite float32 array in a .npy or text file."""
    start = _check_file(path, _MAX_ARRAY)
    try:
        with warnings.catch_warnings(action="ignore"):
            array = _npy(path) if start.startswith(MAGIC_PREFIX) else _numbers(path)
            array = np.array(array, np.float32)
        if not np.isfinite(array).all():
            raise ValueError("numbers that are not finite")
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split()):.200}") from None
    return array


def _npy(path: Path) -> np.ndarray:
    """Returns the memory-mapped array of a .npy file, which holds all its values."""
    try:
        array = open_memmap(path, mode="r")
    except Exception as error:  # includes TokenError and MemoryError of Python's parser
        raise ValueError(f"no array that can be read: {error}") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"an array of {array.dtype}, not of numbers")
    return array


def _numbers(path: Path) -> np.ndarray:
    """Returns the numbers in a text file."""
    if path.suffix == ".npy":
        raise ValueError("no .npy file; save it with np.save")
    if (length := path.stat().st_size) > _MAX_TEXT:
        raise ValueError(f"{length:,} bytes of text; save it as .npy with np.save")
    # Of a path, loadtxt would decompress .gz, .bz2 and .xz without bounds.
    with path.open(encoding="utf-8") as file:
        return np.loadtxt(file)


def _checked(path: Path, options: Mapping[str, Any], flat: Mapping[str, Any]) -> Any:
    """Returns the variables as a tree; UserError for arrays of other shapes."""
    shapes = layout.shapes(**options)
    problems = []
    for name, shape in shapes.items():
        array = flat[name]
        if array.shape != shape:
            problems.append(f"{name} has shape {array.shape}, not {shape}")
        elif not np.isfinite(array).all():
            problems.append(f"{name} has non-finite values")
    if problems:
        raise UserError(f"{path}: {layout.listed(problems)}")
    ordered = {name: np.ascontiguousarray(flat[name]) for name in shapes}
    return {"params": flax.traverse_util.unflatten_dict(ordered, sep="/")}


def _check_file(path: Path, limit: int) -> bytes:
    """Returns the first bytes of a file; UserError for a damaged or larger one."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(200)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if reason := network_pickle.looks_downloaded(start):
        raise UserError(f"{path}: {reason} ({size:,} bytes); fetch the file again")
    if not start:
        raise UserError(f"{path}: the file is empty; fetch it again")
    if size > limit:
        raise UserError(f"{path}: {size:,} bytes; up to {limit:,} are read")
    return start


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
