"""Files of DiscoFaceGAN with random weights, written as its program writes them."""

import io
import itertools
import pickle
import struct
import sys
import types
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

TINY = {"fmap_base": 256, "fmap_max": 8, "dlatent_size": 16, "mapping_fmaps": 16}
FULL = {"fmap_base": 8192, "fmap_max": 512, "dlatent_size": 512, "mapping_fmaps": 512}
CHECKPOINT = "stage1_epoch_395.ckpt"
_SIZES = {"id": (128, 512, 160), "exp": (32, 256, 64), "gamma": (16, 128, 27)}
_SIZES["rot"] = (3, 32, 3)


def needs(path: Path) -> pytest.MarkDecorator:
    """Returns a mark that skips a test without these real data."""
    return pytest.mark.skipif(not path.exists(), reason=f"needs real data: {path}")


def value(component: str, name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns the random value of a variable, seeded by its name."""
    if name == "lod":
        return np.float32(0)
    if component == "mapping":
        scale = 100 if name.endswith("weight") else 10
    else:
        small = name.endswith(("Noise/weight", "bias"))
        scale = 0.1 if small else 1.0
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return np.float32(scale * random.standard_normal(shape))


def variables(options: Mapping[str, int]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Returns (name, value) of every variable of synthesis and mapping network."""
    length = options["dlatent_size"]
    synthesis: list[tuple[str, tuple[int, ...]]] = [("lod", ())]
    synthesis += [(f"noise{n}", (1, 1, *(4 << n // 2,) * 2)) for n in range(14)]
    before = 0
    for stage in range(7):
        side = 4 << stage
        features = min(options["fmap_base"] >> (stage + 1), options["fmap_max"])
        for kind in ("Conv0_up", "Conv1") if stage else ("Const", "Conv"):
            scope = f"{side}x{side}/{kind}"
            if kind == "Const":
                synthesis.append((f"{scope}/const", (1, features, 4, 4)))
            else:
                synthesis.append((f"{scope}/weight", (3, 3, before, features)))
            synthesis += [
                (f"{scope}/Noise/weight", (features,)),
                (f"{scope}/bias", (features,)),
                (f"{scope}/StyleMod/weight", (length, 2 * features)),
                (f"{scope}/StyleMod/bias", (2 * features,)),
            ]
            before = features
        scope = f"ToRGB_lod{6 - stage}"
        synthesis += [(f"{scope}/weight", (1, 1, features, 3)), (f"{scope}/bias", (3,))]
    widths = [286, *[options["mapping_fmaps"]] * 7, length]
    mapping = []
    for number, shape in enumerate(itertools.pairwise(widths)):
        mapping += [
            (f"Dense{number}/weight", shape),
            (f"Dense{number}/bias", shape[1:]),
        ]
    return {
        part: [(name, value(part, name, shape)) for name, shape in shapes]
        for part, shapes in (("synthesis", synthesis), ("mapping", mapping))
    }


def state(options: Mapping[str, int], **changes: Any) -> dict[str, Any]:
    """Returns the state of Gs; `changes` replace entries of it."""
    arguments = {"num_channels": 3, "resolution": 256, "label_size": 0}
    arguments |= {"latent_size": 286, **options}
    common = {"version": 3, "components": {}, "build_module_src": "raise SystemExit(7)"}
    components = {}
    for part, arrays in variables(options).items():
        extra = {"dlatent_broadcast": 14} if part == "mapping" else {}
        components[part] = network(
            **common,
            name=f"G_{part}",
            static_kwargs=arguments | extra,
            build_func_name=f"G_{part}",
            variables=arrays,
        )
    own = [
        ("lod", np.float32(0)),
        ("dlatent_avg", np.zeros(options["dlatent_size"], "f4")),
    ]
    whole = {"name": "Gs", "static_kwargs": arguments, "build_func_name": "G_style"}
    whole |= {"variables": own, "components": components}
    return {**common, **whole, **changes}


class _Network:
    """Pickled as dnnlib.tflib.network.Network."""

    def __getstate__(self):
        return self.__dict__


def network(**fields: Any) -> _Network:
    """Returns an object that is pickled as a network of dnnlib with this state."""
    one = _Network()
    one.__dict__.update(fields)
    return one


class StatedArray:
    """Pickled as an array with this shape and these bytes, whether they agree or not.

    Args:
      shape: of the array.
      raw: its float32 values.
    """

    def __init__(self, shape: tuple[int, ...], raw: bytes = b""):
        self._state = 1, shape, np.dtype("<f4"), False, raw

    def __reduce__(self):
        make, arguments, _ = np.zeros(1).__reduce__()
        return make, arguments, self._state


def write_pickle(path: Path, content: Any) -> Path:
    """Writes networks as their library does, whose module exists while writing."""
    names = ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")
    modules = {name: types.ModuleType(name) for name in names}
    kept = _Network.__module__, _Network.__qualname__, _Network.__name__
    modules[names[-1]].Network = _Network  # type: ignore[attr-defined]
    sys.modules.update(modules)
    _Network.__module__ = names[-1]
    _Network.__qualname__ = _Network.__name__ = "Network"
    try:
        file = io.BytesIO()
        pickle.dump(content, file, protocol=4)
    finally:
        _Network.__module__, _Network.__qualname__, _Network.__name__ = kept
        for name in names:
            del sys.modules[name]
    path.write_bytes(file.getvalue())
    return path


def write_generator(path: Path, options: Mapping[str, int] = TINY, **changes) -> Path:
    """Writes a pickle of (G, D, Gs); `changes` replace entries of Gs's state."""
    return write_state(path, state(options, **changes))


def write_state(path: Path, state: Mapping[str, Any]) -> Path:
    """Writes a pickle of (G, D, Gs) with this state of Gs."""
    others = [network(name=name, version=3) for name in ("G", "D")]
    return write_pickle(path, (*others, network(**state)))


def decoder(factor: str) -> dict[str, np.ndarray]:
    """Returns random tensors of a decoder, with others as in a checkpoint."""
    first, hidden, last = _SIZES[factor]
    widths = {"fc0": (first, hidden), "fc1": (hidden,) * 2, "fc2": (hidden,) * 2}
    widths["x_hat"] = hidden, last
    tensors = {f"{factor}/global_step": np.array(395, np.int32)}
    for layer, shape in widths.items():
        for leaf, size in (("kernel", shape), ("bias", shape[1:])):
            name = f"{factor}/stage1/decoder/{layer}/{leaf}"
            random = np.random.default_rng(zlib.crc32(name.encode()))
            scale = 0.1 if leaf == "bias" else np.sqrt(1 / shape[0])
            tensors[name] = np.float32(scale * random.standard_normal(size))
    return tensors


def write_bundle(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    order: Sequence[str] | None = None,
    permuted: bool = False,
    shared: bool = False,
    blocks: str = "ab",
) -> Path:
    """Writes a checkpoint of TensorFlow 1; returns its prefix.

    Args:
      order: of the keys in the index; by default ascending, as the format demands.
      permuted: store the values in descending order of their names.
      shared: store equal values once.
      blocks: of the index: a and b have half of the records each, 0 has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / CHECKPOINT
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    data, places = b"", {}
    for name in sorted(arrays, reverse=permuted):
        raw = arrays[name].tobytes()
        places[name] = data.find(raw) if shared and raw in data else len(data), raw
        data += raw if places[name][0] == len(data) else b""
    records = [(b"", _message((1, 1), (3, b"\x08\x01")))]
    for name in order or sorted(arrays):
        offset, raw = places[name]
        shape = b"".join(_field(2, _message((1, n))) for n in arrays[name].shape)
        kind = {"f": 1, "i": 3}[arrays[name].dtype.kind]
        numbers = _message((1, kind), (2, shape), (4, offset), (5, len(raw)))
        checksum = struct.pack("<BI", 6 << 3 | 5, masked(raw))
        records.append((name.encode(), numbers + checksum))
    content, handles = b"", {}
    half = len(records) // 2
    parts = {"a": records[:half], "b": records[half:], "0": []}
    for kind in dict.fromkeys(blocks):
        block = _block(parts[kind])
        handles[kind] = _varint(len(content)) + _varint(len(block))
        content += _sealed(block)
    places = [(b"%d" % number, handles[kind]) for number, kind in enumerate(blocks)]
    meta = _block([])
    handles = [len(content), len(meta)]
    content += _sealed(meta)
    table = _block(places)
    handles += [len(content), len(table)]
    content += _sealed(table)
    footer = b"".join(map(_varint, handles)).ljust(40, b"\0")
    content += footer + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{CHECKPOINT}.index").write_bytes(content)
    prefix.with_name(f"{CHECKPOINT}.data-00000-of-00001").write_bytes(data)
    return prefix


def write_vae(folder: Path, factors: Sequence[str] = tuple(_SIZES)) -> Path:
    """Writes random decoders; returns the folder."""
    for factor in factors:
        write_bundle(folder / factor, decoder(factor))
    return folder


def masked(data: bytes) -> int:
    """Returns the masked CRC-32C of TensorFlow's files."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _block(records: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns a block, whose keys share their beginning with the one before."""
    block, before = b"", b""
    for key, content in records:
        pairs = zip(key, before)
        shared = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
        shared = min(len(key), len(before)) if shared is None else shared
        sizes = shared, len(key) - shared, len(content)
        block += b"".join(map(_varint, sizes)) + key[shared:] + content
        before = key
    return block + struct.pack("<II", 0, 1)


def _sealed(block: bytes) -> bytes:
    return block + b"\0" + struct.pack("<I", masked(block + b"\0"))


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    return b"".join(_field(number, content) for number, content in fields)


def _field(number: int, content: int | bytes) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    parts = b""
    while number > 127:
        parts += bytes([number & 127 | 128])
        number >>= 7
    return parts + bytes([number])
