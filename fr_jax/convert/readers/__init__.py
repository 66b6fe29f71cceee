"""Safe readers of foreign weight files, in NumPy.

Files come from anywhere, and a PyTorch checkpoint is a pickle, which can ask for
anything to be run. Here nothing of a file is run: pickles go through the restricted
unpickler, zip directories, .npy headers and safetensors headers through the libraries
that keep those formats, ONNX through a reader of our own. Every length and offset is
checked before it is used, and what is not data is refused with the byte and the remedy.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fr_jax.convert.readers import npz, onnx, safetensors, torch_files
from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown
from fr_jax.convert.readers.state_dicts import choose, state_dicts
from fr_jax.convert.readers.tensors import Stored, arrays
from fr_jax.convert.readers.zip_archive import Archive
from fr_jax.errors import UserError, unknown

MAX_BYTES = 16 << 30
_KNOWN = "PyTorch (.pth, .pt, .ckpt), safetensors, npz and ONNX files are read"


class WeightFile(NamedTuple):
    """The tensors of a file, under the names they have there."""

    tensors: dict[str, np.ndarray]
    format: str  # pytorch-zip, pytorch-legacy, safetensors, npz or onnx
    sha256: str
    path: str
    part: str = ""  # place of the state dict within a checkpoint, as "state_dict"
    other_parts: tuple[str, ...] = ()  # further dicts of tensors in the checkpoint


def read_weights(path: str | Path, part: str | None = None) -> WeightFile:
    """Returns the tensors of a weight file; its format is told by its content.

    Floating types come as float32 (half types exactly, float64 rounded), others as they
    are; each array owns its memory. Of a checkpoint that holds several dicts of tensors
    the one with most tensors is taken, optimizer states aside. ONNX files give their
    initialisers, BatchNorm folded in as the exporter left it.

    Args:
      path: of a PyTorch (zip or legacy), safetensors, npz or ONNX file.
      part: another dict of the checkpoint, by its place: "generator", "model.backbone".

    Raises:
      UserError: for a file that is missing, damaged, of another kind, or that asks for
        anything but data: one line with the file, the byte and the remedy. Nothing in
        it is executed.
    """
    path = Path(path)
    try:
        data = _mapped(path)
        kind, parts = _parts(path, data)
        if part is not None and part not in parts:
            raise UserError(f"{path}: {unknown('part', part, parts)}")
        place = choose(parts) if part is None else part
        if not parts[place]:
            raise Refusal("holds no tensors", remedy=_KNOWN)
        tensors = arrays(parts[place], len(data))
    except Refusal as refusal:
        at = "" if refusal.offset is None else f"byte {refusal.offset:,}: "
        raise UserError(f"{path}: {at}{refusal}; {refusal.remedy}") from None
    others = tuple(other for other in parts if other != place)
    digest = hashlib.sha256(data).hexdigest()
    return WeightFile(tensors, kind, digest, str(path), place, others)


def _mapped(path: Path) -> memoryview:
    """Returns the bytes of a file without reading them all at once."""
    if not path.is_file():
        kind = "is a folder, no weight file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {kind}")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_BYTES:
                raise Refusal(
                    f"{size:,} bytes",
                    remedy=f"1 byte to {MAX_BYTES >> 30} GiB are read",
                )
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _parts(path: Path, data: memoryview) -> tuple[str, dict[str, dict[str, Stored]]]:
    """Returns the format of a file and its dicts of tensors, by their place."""
    start = bytes(data[:64])
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_parts(path, data)
    if start.startswith(b"\x80"):
        if torch_files.MAGIC.to_bytes(10, "little") not in start:
            raise Refusal("a pickle that torch.save did not write", 0, RESAVE)
        return "pytorch-legacy", _stored(torch_files.read_legacy(data), data)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "safetensors", {"": safetensors.read(path, data)}
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
        return "onnx", {"": onnx.read(data)}
    web_page = start.lstrip()[:1] == b"<"
    what = "a web page" if web_page else f"begins with {shown(start[:8])}"
    raise Refusal(f"{what}, no weight file", 0, _KNOWN)


def _zip_parts(
    path: Path, data: memoryview
) -> tuple[str, dict[str, dict[str, Stored]]]:
    archive = Archive(path, data)
    names = list(archive.entries)
    if all(name.endswith(".npy") for name in names):
        return "npz", {"": npz.read(archive)}
    folder = names[0].split("/")[0] + "/"
    if f"{folder}data.pkl" not in names or not all(n.startswith(folder) for n in names):
        raise Refusal(
            f"a zip archive of {shown(names[0])}, ..., no weight file", 0, _KNOWN
        )
    found, big_endian = torch_files.read_zip(data, archive, folder)
    return "pytorch-zip", _stored(found, data, big_endian)


def _stored(
    found: Any, data: memoryview, big_endian: bool = False
) -> dict[str, dict[str, Stored]]:
    return {
        place: {
            name: tensor.stored(data, big_endian=big_endian)
            for name, tensor in tensors.items()
        }
        for place, tensors in state_dicts(found).items()
    }
