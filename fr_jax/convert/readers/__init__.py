"""Safe readers of foreign weight files, in NumPy.

Files may be hostile: a PyTorch checkpoint is a pickle, which can call any function. No
code of a file is executed. Pickles are read by the restricted unpickler, zip
directories by `zipfile`, .npy headers by NumPy, safetensors headers by `safetensors`,
and ONNX files by a reader in this package. Every length and offset is checked before
use. An error names the byte and the remedy.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fr_jax.convert.readers import (
    network_pickle,
    npz,
    onnx,
    safetensors,
    torch_files,
)
from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown
from fr_jax.convert.readers.state_dicts import state_dicts
from fr_jax.convert.readers.tensors import Stored, arrays
from fr_jax.convert.readers.zip_archive import Archive
from fr_jax.errors import UserError, unknown

Parts = Mapping[str, Mapping[str, Stored | Refusal]]

MAX_BYTES = 16 << 30
_FORMATS = "use a PyTorch (.pth, .pt, .ckpt), safetensors, npz or ONNX file"


class WeightFile(NamedTuple):
    """The tensors of a weight file, by name."""

    tensors: dict[str, np.ndarray]
    format: str  # pytorch-zip, pytorch-legacy, safetensors, npz or onnx
    sha256: str
    path: str
    part: str = ""  # key of the state dict in a checkpoint, such as "state_dict"
    other_parts: tuple[str, ...] = ()  # keys of other dicts of tensors
    graph: onnx.Graph | None = None  # of an ONNX file; its constants are arrays


def read_weights(path: str | Path, part: str | None = None) -> WeightFile:
    """Returns the tensors of a weight file, whose format follows from its content.

    Floating-point tensors become float32 (half types exactly, float64 rounded); other
    types stay. Each array owns its memory. Of several dicts of tensors in a checkpoint,
    the one with most tensors is read; optimiser states do not count. ONNX files give
    their initialisers, with BatchNorm folded as exported.

    Args:
      path: a PyTorch (zip or legacy), safetensors, npz or ONNX file.
      part: key of another dict in the checkpoint: "generator", "model.backbone".

    Raises:
      UserError: for a file that is missing, damaged, of another format or not only
        data: one line with the file, the byte and the remedy.
    """
    path = Path(path)
    try:
        data = _mapped(path)
        kind, parts, graph = _parts(path, data)
        if part is not None and part not in parts:
            raise UserError(f"{path}: {unknown('part', part, parts)}")
        if part is None:  # the most tensors, not bytes: a classifier may be larger
            part = max(parts, key=lambda part: len(parts[part]))
        if not parts[part] and not (graph and graph.constants):
            raise Refusal("holds no tensors", remedy=_FORMATS)
        tensors = _readable(parts[part])
        constants = graph.constants if graph else {}
        values = arrays(constants | tensors, len(data))
        tensors = {name: values[name] for name in tensors}
        if graph:
            graph = graph._replace(constants={name: values[name] for name in constants})
    except Refusal as refusal:
        at = "" if refusal.offset is None else f"byte {refusal.offset:,}: "
        raise UserError(f"{path}: {at}{refusal}; {refusal.remedy}") from None
    others = tuple(
        other
        for other, tensors in parts.items()
        if other != part and not all(isinstance(t, Refusal) for t in tensors.values())
    )
    digest = hashlib.sha256(data).hexdigest()
    return WeightFile(tensors, kind, digest, str(path), part, others, graph)


def _mapped(path: Path) -> memoryview:
    """Returns the memory-mapped bytes of a file."""
    if not path.is_file():
        kind = "is no plain file" if path.exists() else "no such file"
        kind = "is a folder, no weight file" if path.is_dir() else kind
        raise UserError(f"{path}: {kind}")
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            limit = f"1 byte to {MAX_BYTES >> 30} GiB are supported"
            raise Refusal(f"{size:,} bytes", remedy=limit)
        return np.memmap(path, np.uint8, "r").data
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _parts(path: Path, data: memoryview) -> tuple[str, Parts, onnx.Graph | None]:
    """Returns the format of a file, its dicts of tensors by key, and its graph."""
    start = bytes(data[:64])
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return *_zip_parts(path, data), None
    if network_pickle.is_network_pickle(start):
        remedy = "DiscoFaceGAN's generator needs --vae DIR, the folder of its decoders"
        raise Refusal("a pickle of networks of dnnlib", 0, remedy)
    if start.startswith(b"\x80"):
        if torch_files.MAGIC.to_bytes(10, "little") not in start:
            raise Refusal("a pickle that torch.save did not write", 0, RESAVE)
        return "pytorch-legacy", _stored(torch_files.read_legacy(data), data), None
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "safetensors", {"": safetensors.read(path, data)}, None
    if data[257:262] == b"ustar":
        raise Refusal(
            "a tar archive",
            0,
            "unpack it if it is a packed folder; if PyTorch before 0.2 wrote it, load "
            "it there and torch.save its state dict with a later PyTorch",
        )
    if start.startswith(b"\x93NUMPY"):
        raise Refusal("one array without a name", 0, "save several with np.savez")
    if start.startswith(b"\x08"):
        tensors, graph = onnx.read(data)
        return "onnx", {"": tensors}, graph
    html = start.lstrip().startswith(b"<")
    content = "a web page" if html else f"begins with {shown(start[:8])}"
    raise Refusal(f"{content}, no weight file", 0, _FORMATS)


def _zip_parts(path: Path, data: memoryview) -> tuple[str, Parts]:
    archive = Archive(path, data)
    names = list(archive.entries)
    if all(name.endswith(".npy") for name in names):
        return "npz", {"": npz.read(archive)}
    folder = names[0].split("/")[0] + "/"
    if f"{folder}data.pkl" not in names or not all(n.startswith(folder) for n in names):
        content = f"a zip archive of {shown(names[0])}, ..., no weight file"
        raise Refusal(content, 0, _FORMATS)
    return "pytorch-zip", _stored(torch_files.read_zip(data, archive, folder), data)


def _stored(saved: torch_files.Saved, data: memoryview) -> Parts:
    parts = state_dicts(saved.content)
    if not parts:
        raise Refusal(saved.names.reason(), remedy=RESAVE)
    return {
        part: {
            name: one
            if isinstance(one, Refusal)
            else one.stored(data, saved.big_endian)
            for name, one in tensors.items()
        }
        for part, tensors in parts.items()
    }


def _readable(tensors: Mapping[str, Stored | Refusal]) -> dict[str, Stored]:
    """Returns the tensors; raises the first Refusal among them."""
    stored = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Refusal):
            raise tensor
        stored[name] = tensor
    return stored
