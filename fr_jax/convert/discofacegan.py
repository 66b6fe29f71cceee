"""The published files of DiscoFaceGAN -> Flax variables.

A pickle of the generator, TensorFlow checkpoints of the four decoders, and a text file
with the mean of w over identities.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.convert.readers import network_pickle, tensor_bundle
from fr_jax.convert.readers.network_pickle import PickledNetwork, arrays_of
from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.errors import UserError
from fr_jax.models import discofacegan
from fr_jax.system import Network

ARCHITECTURE = "discofacegan"
LICENCE = (
    "research only, non-commercial, not to be redistributed: DiscoFaceGAN's network "
    "and training images are CC BY-NC"
)
# Arguments of the published network with one supported value; others are options.
_FIXED = {
    "num_channels": 3,
    "resolution": discofacegan.SIDE,
    "label_size": 0,
    "latent_size": discofacegan.NUM_COEFFICIENTS + discofacegan.NUM_NOISE,
    "dlatent_broadcast": discofacegan.LAYERS,
}
_OPTIONS = {  # name: range
    "fmap_base": (128, 1 << 15),
    "fmap_max": (1, 1 << 11),
    "dlatent_size": (1, 1 << 11),
    "mapping_fmaps": (1, 1 << 11),
}
# SHA-256 of the source text in the published file, and of the published data files.
_SOURCE = "88b4f34bf21d4d2a5d17b6dd460d3acc84c5874b8981eb79faa567c48e08e330"
_DECODERS = {
    "exp": "240c8c0fca8aceeea61df01837d7d664822f26786b32eb5810ea05cbe8d033a4",
    "gamma": "ebe87b1eea3415ba90e802bfedaf99119a4546b0ae9107e7530798d097e3acbd",
    "rot": "fa7ea51bbab61b5049c6dc660ee418ff70c21a49b6ce27df605b7d4867724893",
}
# Of the decoder of identities: size and Git blob, since its SHA-256 is not known.
_IDENTITY_SIZE = 16_950_168
_IDENTITY_BLOB = "ed75555787bed5a9b9f5a59ceb0a2cd5a3cf7052"
_MAX_MEAN, _MAX_COEFFICIENTS = 4 << 20, 1 << 30
_SHOWN = 6  # problems that an error lists
_MEAN_DRAWS = 50_000


class FaceGenerator(NamedTuple):
    """The network, with what was found out about its files.

    Attributes:
      sha256: digests of the files by name.
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
      mean_identity: text or .npy, [D] or equal rows [14, D]; by default computed from
        50,000 draws, as published.
      identity_coefficients: .npy [N, 160], in place of the decoder of identities.

    Raises:
      UserError: for missing, damaged and other files; nothing in them is run.
    """
    data = _mapped(path)
    digests = {path.name: hashlib.sha256(data).hexdigest()}
    try:
        options, flat, notes = _generator(network_pickle.read(path, data))
    except Refusal as refusal:
        at = "" if refusal.offset is None else f"byte {refusal.offset:,}: "
        raise UserError(f"{path}: {at}{refusal}; {refusal.remedy}") from None
    if identity_coefficients:
        rows = _array(identity_coefficients, _MAX_COEFFICIENTS)
        if rows.ndim != 2 or rows.shape[1] != 160 or not len(rows):
            raise UserError(
                f"{identity_coefficients}: identity coefficients are [N, 160], got "
                f"{list(rows.shape)}"
            )
        flat["identity_coefficients"] = rows
        options["identities"] = len(rows)
    for factor, *_ in discofacegan.CODES:
        if factor == "id" and identity_coefficients:
            continue
        prefix = _checkpoint(vae, factor)
        try:
            tensors = tensor_bundle.read(prefix)
        except Refusal as refusal:
            raise UserError(f"{prefix.parent}: {refusal}; {refusal.remedy}") from None
        flat |= _decoder(factor, tensors, prefix)
        data_file = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
        digest = hashlib.sha256(data_file.read_bytes()).hexdigest()
        digests[f"{factor}/{data_file.name}"] = digest
        if not _published(factor, data_file, digest):
            notes += (f"{data_file} is not the published decoder of {factor}",)
    if mean_identity:
        flat["mean_identity"] = _mean(mean_identity, options["dlatent_size"])
        digests[mean_identity.name] = hashlib.sha256(
            mean_identity.read_bytes()
        ).hexdigest()
    else:
        flat["mean_identity"] = np.zeros(options["dlatent_size"], np.float32)
    variables = _checked(path, options, flat)
    if not mean_identity:
        mean = mean_of_identities(options, variables)
        variables["params"]["mean_identity"] = mean
        notes += (f"the mean identity was computed from {_MEAN_DRAWS:,} draws",)
    spec = models.preprocess.InputSpec(
        size=discofacegan.SIDE, template="discofacegan256"
    )
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
    known = discofacegan.COEFFICIENTS["id"]

    def total(bound, codes, noise, rows):
        coefficients = bound.coefficients(codes, rows)
        alone = jnp.zeros_like(coefficients).at[:, known].set(coefficients[:, known])
        return jnp.sum(bound.map(alone, noise), axis=0)

    total = jax.jit(nn.apply(total, model))
    normal = np.random.RandomState(1).standard_normal((draws, 179 + 32))
    sums, size = np.zeros(model.dlatent_size), min(draws, 1000)
    for start in range(0, draws, size):
        part = normal[start : start + size].astype(np.float32)
        rows = np.arange(start, start + len(part)) % max(model.identities, 1)
        sums += np.asarray(total(variables, part[:, :179], part[:, 179:], rows), float)
    return (sums / draws).astype(np.float32)


def _generator(
    networks: tuple[PickledNetwork, ...],
) -> tuple[dict[str, Any], dict[str, np.ndarray], tuple[str, ...]]:
    """Returns options, variables by path and notes of Gs."""
    names = [str(one.state.get("name")) for one in networks]
    if len(networks) != 3 or names[2] != "Gs":
        raise Refusal(
            f"holds networks {shown(', '.join(names))}",
            remedy="give the file with G, D and Gs, of which Gs is used",
        )
    state = networks[2].state
    if state.get("version") not in (2, 3):
        remedy = "versions 2 and 3 are read"
        raise Refusal(
            f"a network of version {shown(state.get('version'))}", None, remedy
        )
    components = state.get("components")
    parts: dict[str, PickledNetwork] = {}
    for name in ("synthesis", "mapping"):
        part = components.get(name) if isinstance(components, dict) else None
        if not isinstance(part, PickledNetwork):
            raise Refusal(f"Gs has no component {name!r}")
        parts[name] = part
    options = dict.fromkeys(_OPTIONS, 0)
    for one in (networks[2], *parts.values()):
        options |= _options(one.state.get("static_kwargs"))
    synthesis, mapping = (arrays_of(part) for part in parts.values())
    _check_names(synthesis, {**_LAYERS, **_LAST}.values(), _UNUSED)
    _check_names(mapping, _MAPPING.values())
    if synthesis["lod"].shape or synthesis["lod"] != 0:
        raise Refusal(
            f"lod of the synthesis network is {synthesis['lod'].ravel()[:1]}, not 0",
            remedy="give a snapshot from after the growing of its resolution",
        )
    try:
        flat = {
            **{path: _leaf(path, synthesis[name]) for path, name in _LAYERS.items()},
            **{path: _last(synthesis[name]) for path, name in _LAST.items()},
            **{path: _mapped_leaf(mapping[name]) for path, name in _MAPPING.items()},
        }
    except (ValueError, IndexError):
        raise Refusal("an array with another number of axes") from None
    return options, flat, _source_notes(parts["synthesis"].state)


def _check_names(
    arrays: Mapping[str, np.ndarray], needed: Iterable[str], unused: Iterable[str] = ()
) -> None:
    needed = set(needed)
    problems = [f"missing {name}" for name in sorted(needed - arrays.keys())]
    extra = sorted(arrays.keys() - needed - set(unused))
    problems += [f"unexpected {shown(name)}" for name in extra]
    if problems:
        more = len(problems) - _SHOWN
        text = ", ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise Refusal(text, remedy="give the published network")


def _options(arguments: Any) -> dict[str, Any]:
    """Returns the options in static_kwargs."""
    if not isinstance(arguments, dict):
        raise Refusal("a network without arguments", remedy="fetch it again")
    options = {}
    for name, value in arguments.items():
        if type(value) is not int or name not in {**_FIXED, **_OPTIONS}:
            text = f"the argument {shown(name)} = {shown(value)}"
            raise Refusal(text, remedy="only the published layers are supported")
        if value != _FIXED.get(name, value):
            text = f"{name} = {value}, not {_FIXED[name]}"
            raise Refusal(text, remedy="only the published layers are supported")
        if name in _OPTIONS:
            low, high = _OPTIONS[name]
            if not low <= value <= high:
                text = f"{name} = {shown(value)}"
                raise Refusal(text, remedy=f"{low} to {high:,} are supported")
            options[name] = value
    defaults = discofacegan.DiscoFaceGAN()
    return {name: options.get(name, getattr(defaults, name)) for name in _OPTIONS}


def _scopes() -> Iterator[tuple[str, str]]:
    """Yields path and published scope of each layer of the synthesis network."""
    for number in range(discofacegan.LAYERS):
        stage, second = divmod(number, 2)
        kinds = ("Conv0_up", "Conv1") if stage else ("Const", "Conv")
        side = 4 << stage
        yield f"synthesis/layer{number}", f"{side}x{side}/{kinds[second]}"


# Published names by path in the variables.
_LAYERS = {"synthesis/const": "4x4/Const/const"}
for _number, (_path, _scope) in enumerate(_scopes()):
    _LAYERS |= {
        **({f"{_path}/kernel": f"{_scope}/weight"} if _number else {}),
        f"{_path}/noise": f"noise{_number}",
        f"{_path}/noise_weight": f"{_scope}/Noise/weight",
        f"{_path}/bias": f"{_scope}/bias",
        f"{_path}/style/kernel": f"{_scope}/StyleMod/weight",
        f"{_path}/style/bias": f"{_scope}/StyleMod/bias",
    }
_LAST = {
    "synthesis/rgb/kernel": "ToRGB_lod0/weight",
    "synthesis/rgb/bias": "ToRGB_lod0/bias",
}
_MAPPING = {
    f"mapping/dense{number}/{leaf}": f"Dense{number}/{name}"
    for number in range(discofacegan.MAPPING_LAYERS)
    for leaf, name in (("kernel", "weight"), ("bias", "bias"))
}
# Images of lower resolution, while the network grew.
_UNUSED = (
    "lod",
    *(f"ToRGB_lod{n}/{leaf}" for n in range(1, 7) for leaf in ("weight", "bias")),
)


def _leaf(path: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of the synthesis network in Flax's layout, scaled."""
    if path.endswith("style/kernel"):
        return _scaled(array, 1 / math.sqrt(len(array)))
    if path.endswith("/kernel"):
        kernel = _scaled(array, math.sqrt(2 / math.prod(array.shape[:3])))
        # The published upsampling to 128 and 256 pixels is a transposed convolution,
        # which rotates its kernel.
        return kernel[::-1, ::-1] if path in _ROTATED else kernel
    if path.endswith("/noise"):
        return array[0, 0]
    if path.endswith("/const"):
        return array[0].transpose(1, 2, 0)
    return array


_ROTATED = ("synthesis/layer10/kernel", "synthesis/layer12/kernel")


def _last(array: np.ndarray) -> np.ndarray:
    """Returns kernel or bias of the last layer, which has gain 1."""
    if array.ndim == 1:
        return array
    return _scaled(array[0, 0], 1 / math.sqrt(array.shape[2]))


def _mapped_leaf(array: np.ndarray) -> np.ndarray:
    """Returns kernel or bias of the mapping network, whose learning rate was 0.01."""
    gain = math.sqrt(2 / len(array)) if array.ndim == 2 else 1
    return _scaled(array, 0.01 * gain)


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return (array.astype(np.float64) * factor).astype(np.float32)


def _source_notes(state: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a note if the network's source text is not the published one."""
    text = state.get("build_module_src")
    text = (
        text.removeprefix("\ufeff").replace("\r\n", "\n")
        if isinstance(text, str)
        else ""
    )
    published = (text, text.rstrip("\n"), text.rstrip("\n") + "\n")
    if _SOURCE in [hashlib.sha256(one.encode()).hexdigest() for one in published]:
        return ()
    notes = "the source text in the file is not the published one"
    lines = [line.strip() for line in text.splitlines()]
    if "x = pixel_norm(x)" in lines:
        notes += (
            "; it normalises the input of the mapping network, which is not done here"
        )
    if any("position_norm(" in line and not line.startswith("def ") for line in lines):
        notes += "; it calls position_norm, which is not done here"
    return (notes,)


def _decoder(
    factor: str, tensors: Mapping[str, np.ndarray], prefix: Path
) -> dict[str, np.ndarray]:
    """Returns the variables of a decoder by path."""
    flat = {}
    for layer in ("fc0", "fc1", "fc2", "x_hat"):
        for leaf in ("kernel", "bias"):
            name = f"{factor}/stage1/decoder/{layer}/{leaf}"
            if name not in tensors:
                raise UserError(f"{prefix}: no tensor {name}; is it another decoder?")
            flat[f"decoders_{factor}/{layer}/{leaf}"] = tensors[name]
    return flat


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
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return blob.hexdigest() == _IDENTITY_BLOB


def _mean(path: Path, length: int) -> np.ndarray:
    """Returns the mean identity, float32 [D]."""
    mean = _array(path, _MAX_MEAN)
    if mean.ndim == 2 and len(mean) and (mean == mean[0]).all():
        mean = mean[0]
    if mean.shape != (length,):
        raise UserError(
            f"{path}: the mean identity is {length} numbers, or "
            f"{discofacegan.LAYERS} equal rows of them, got {list(mean.shape)}"
        )
    return mean


def _array(path: Path, limit: int) -> np.ndarray:
    """Returns the finite float32 array in a .npy or text file."""
    try:
        if path.stat().st_size > limit:
            raise ValueError(f"{path.stat().st_size:,} bytes; up to {limit:,} are read")
        load = np.load if path.suffix == ".npy" else np.loadtxt
        array = np.asarray(load(path), np.float32)
        if not np.isfinite(array).all():
            raise ValueError("numbers that are not finite")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: {reason:.200}") from None
    return array


def _checked(path: Path, options: Mapping[str, Any], flat: Mapping[str, Any]) -> Any:
    """Returns the variables as a tree; UserError for arrays of other shapes."""
    model = models.create(ARCHITECTURE, **options)
    abstract: Any = jax.eval_shape(
        model.init, jax.random.key(0), *model.example_inputs(1)
    )
    shapes = flax.traverse_util.flatten_dict(abstract["params"], sep="/")
    problems = []
    for name, leaf in shapes.items():
        array = flat[name]
        if array.shape != leaf.shape:
            problems.append(f"{name} has shape {array.shape}, not {leaf.shape}")
        elif not np.isfinite(array).all():
            problems.append(f"{name} has non-finite values")
    if problems:
        more = len(problems) - _SHOWN
        text = "; ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise UserError(f"{path}: {text}")
    ordered = {name: np.ascontiguousarray(flat[name]) for name in shapes}
    return {"params": flax.traverse_util.unflatten_dict(ordered, sep="/")}


def _mapped(path: Path) -> memoryview:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(200)
    if reason := network_pickle.looks_downloaded(start):
        size = path.stat().st_size
        raise UserError(f"{path}: {reason} ({size:,} bytes); fetch the file again")
    if not start:
        raise UserError(f"{path}: the file is empty; fetch it again")
    return np.memmap(path, np.uint8, "r").data
