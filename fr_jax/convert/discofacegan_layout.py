"""Networks of DiscoFaceGAN's pickle -> arrays in Flax's layout, by path.

Karras et al. scale weights at run time (equalised learning rate); here the factors are
multiplied into the arrays.
"""

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from fr_jax import models
from fr_jax.convert.readers.network_pickle import PickledNetwork, arrays_of
from fr_jax.convert.readers.refusal import Refusal, shown
from fr_jax.models import discofacegan

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
# SHA-256 of the source text in the published file.
_SOURCE = "88b4f34bf21d4d2a5d17b6dd460d3acc84c5874b8981eb79faa567c48e08e330"
_MAX_SOURCE = 1 << 20  # characters of it that are searched
_SHOWN = 6  # problems that an error lists
_PUBLISHED = "give the published network"


def generator(
    networks: tuple[PickledNetwork, ...],
) -> tuple[dict[str, Any], dict[str, np.ndarray], tuple[str, ...]]:
    """Returns options, variables by path and notes of Gs."""
    names = [one.state.get("name") for one in networks[:3]]
    if len(networks) != 3 or names[2] != "Gs":
        raise Refusal(
            f"holds {len(networks):,} networks: {', '.join(map(shown, names))}",
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
    options = _options(
        [one.state.get("static_kwargs") for one in (networks[2], *parts.values())]
    )
    synthesis, mapping = (arrays_of(part) for part in parts.values())
    _check_names(synthesis, (*_LAYERS.values(), *_LAST.values(), *_UNUSED))
    _check_names(mapping, _MAPPING.values())
    if synthesis["lod"].shape or synthesis["lod"] != 0:
        raise Refusal(
            f"lod of the synthesis network is {synthesis['lod'].ravel()[:1]}, not 0",
            remedy="give a snapshot from after the growing of its resolution",
        )
    # Before the arrays are scaled: many names may share a large array of the file.
    _check_shapes(synthesis | mapping, shapes(**options))
    flat = {
        **{path: _leaf(path, synthesis[name]) for path, name in _LAYERS.items()},
        **{path: _last(synthesis[name]) for path, name in _LAST.items()},
        **{path: _mapped_leaf(mapping[name]) for path, name in _MAPPING.items()},
    }
    return options, flat, _source_notes(parts["synthesis"].state)


@functools.lru_cache(maxsize=8)
def shapes(**options: Any) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes of the network's variables by path."""
    model: Any = models.create("discofacegan", **options)
    inputs = model.example_inputs(1)
    abstract: Any = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    leaves: Any = flax.traverse_util.flatten_dict(abstract["params"], sep="/")
    return {path: leaf.shape for path, leaf in leaves.items()}


def _check_names(arrays: Mapping[str, np.ndarray], needed: Iterable[str]) -> None:
    needed = set(needed)
    problems = [f"missing {name}" for name in sorted(needed - arrays.keys())]
    extra = sorted(arrays.keys() - needed)
    problems += [f"unexpected {shown(name)}" for name in extra]
    if problems:
        raise Refusal(listed(problems), remedy=_PUBLISHED)


def _check_shapes(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    problems = []
    for path, name in {**_LAYERS, **_LAST, **_MAPPING}.items():
        found, shape = arrays[name].shape, _published_shape(path, expected[path])
        if found != shape:
            problems.append(f"{name} has shape {found}, not {shape}")
    if problems:
        raise Refusal(listed(problems), remedy=_PUBLISHED)


def _published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in the pickle of a variable of this shape in Flax."""
    if path.endswith(("/noise", "rgb/kernel")):
        return 1, 1, *shape
    if path.endswith("/const"):
        height, width, features = shape
        return 1, features, height, width
    return shape


def _options(static_kwargs: Iterable[Any]) -> dict[str, Any]:
    """Returns the options in the arguments of several networks, which must agree."""
    options: dict[str, Any] = {}
    for arguments in static_kwargs:
        for name, value in _stated(arguments).items():
            if options.setdefault(name, value) != value:
                text = f"{name} = {options[name]} and {value}"
                raise Refusal(text, remedy=_PUBLISHED)
    defaults = discofacegan.DiscoFaceGAN()
    return {name: options.get(name, getattr(defaults, name)) for name in _OPTIONS}


def _stated(arguments: Any) -> dict[str, int]:
    """Returns the options among the arguments of a network."""
    if not isinstance(arguments, dict):
        raise Refusal("a network without arguments", remedy="fetch it again")
    options = {}
    for name, value in arguments.items():
        if type(value) is not int or name not in {**_FIXED, **_OPTIONS}:
            text = f"the argument {shown(name)} = {shown(value)}"
            raise Refusal(text, remedy="only the published layers are supported")
        if value != _FIXED.get(name, value):
            text = f"{name} = {shown(value)}, not {_FIXED[name]}"
            raise Refusal(text, remedy="only the published layers are supported")
        if name in _OPTIONS:
            low, high = _OPTIONS[name]
            if not low <= value <= high:
                text = f"{name} = {shown(value)}"
                raise Refusal(text, remedy=f"{low} to {high:,} are supported")
            options[name] = value
    return options


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
    text = text[:_MAX_SOURCE] if isinstance(text, str) else ""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    for one in (text, text.rstrip("\n"), text.rstrip("\n") + "\n"):
        raw = one.encode(errors="surrogatepass")
        if hashlib.sha256(raw).hexdigest() == _SOURCE:
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


def listed(problems: Sequence[str]) -> str:
    """Returns the first problems as text, and the number of the others."""
    more = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
