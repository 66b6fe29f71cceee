"""Files of torch.save: zip archives since PyTorch 1.6, plain pickles before."""

import functools
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np

from fr_jax.convert.readers.inert import Names
from fr_jax.convert.readers.refusal import DAMAGED, RESAVE, Refusal, shown
from fr_jax.convert.readers.torch_objects import Part, Storage, Type
from fr_jax.convert.readers.zip_archive import Archive

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_SHORT = 100  # opcodes of a pickle with a number or a small dict


class Saved(NamedTuple):
    """What torch.save wrote."""

    content: Any
    names: Names
    big_endian: bool = False  # the storages


def read_zip(data: memoryview, archive: Archive, folder: str) -> Saved:
    """Returns the object in a zip archive.

    Args:
      folder: prefix of all entries, with a slash.

    Raises:
      Refusal: for objects other than data, and for storages whose length differs from
        that of their entry.
    """
    if f"{folder}constants.pkl" in archive.entries:
        raise Refusal(
            "a TorchScript program",
            remedy="in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )
    for name, entry in archive.entries.items():
        if entry.deflated:
            reason = f"{shown(name)} is compressed, which PyTorch never does"
            remedy = "unpack it and zip it again without compression (zip -0)"
            raise Refusal(reason, entry.offset, remedy)
    order = "little"
    if f"{folder}byteorder" in archive.entries:
        order = str(archive.read(f"{folder}byteorder")[:10], "latin1")
        if order not in ("little", "big"):
            raise Refusal(f"byte order {shown(order)}")
    read = functools.cache(archive.read)  # several tensors may share a storage

    def load(identity: Any) -> Part:
        dtype, key, length, _ = _storage(identity)
        name = f"{folder}data/{key}"
        if name not in archive.entries:
            raise Refusal(f"no entry {shown(name)} in the archive")
        entry = archive.entries[name]
        if entry.size != length * dtype.itemsize:
            size = f"{entry.size:,} bytes, not {length:,} {dtype}"
            raise Refusal(f"storage {shown(key)} has {size}")
        read(name)  # verifies the checksum
        return Part(Storage(dtype, length, entry.offset), 0, length)

    entry = archive.entries[f"{folder}data.pkl"]
    archive.read(entry.name)  # verifies the checksum
    end = entry.offset + entry.size
    names = Names()
    saved, _ = _unpickled(data, entry.offset, names, end=end, load=load)
    return Saved(saved, names, order == "big")


def read_legacy(data: memoryview) -> Saved:
    """Returns the object saved by PyTorch 0.1 to 1.5 on a little-endian machine.

    The file has five pickles (magic number, protocol, system, object, keys of the
    storages), then each storage: its length as int64, and its values.

    Raises:
      Refusal: for objects other than data, and for storages that do not fit the file.
    """
    storages: dict[str, Storage] = {}

    def load(identity: Any) -> Part:
        dtype, key, length, view = _storage(identity)
        storage = storages.setdefault(key, Storage(dtype, length))
        if storage.dtype != dtype or storage.length != length:
            raise Refusal(f"storage {shown(key)} is described in two ways")
        if view is None:
            return Part(storage, 0, length)
        if type(view) is not tuple or len(view) != 3:
            raise Refusal("a view without an offset")
        _, first, count = view
        for number in (first, count):
            if type(number) is not int or not 0 <= number <= length:
                raise Refusal(f"a view at {shown(number)} of a storage of {length:,}")
        if first + count > length:
            raise Refusal(f"a view to {first + count:,} of a storage of {length:,}")
        return Part(storage, first, count)

    names = Names()
    magic, at = _unpickled(data, 0, names, max_opcodes=_SHORT)
    if magic != MAGIC:
        raise Refusal("not PyTorch's magic number", 0)
    protocol, at = _unpickled(data, at, names, max_opcodes=_SHORT)
    if protocol != _PROTOCOL:
        raise Refusal(f"PyTorch's serialisation protocol {shown(protocol)}", 0)
    system, at = _unpickled(data, at, names, max_opcodes=_SHORT)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refusal("written on a big-endian machine", 0, RESAVE)
    saved, at = _unpickled(data, at, names, load=load)
    keys, at = _unpickled(data, at, names)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Refusal("no list of storages after the object", at)
    for key in keys:
        at = _locate(data, at, key, storages)
    if missing := [key for key, storage in storages.items() if storage.offset is None]:
        raise Refusal(f"storage {shown(missing[0])} is not in the file", at)
    if at != len(data):
        raise Refusal(f"{len(data) - at:,} stray bytes after the last storage", at)
    return Saved(saved, names)


def _unpickled(
    data: memoryview, start: int, names: Names, **options: Any
) -> tuple[Any, int]:
    """Returns the object of the pickle at byte `start`, and the byte after it."""
    from data_pipelines.safe_pickle import Unpickler, UnsafePickle

    unpickler = Unpickler(data, names.find, start=start, **options)
    try:
        return unpickler.run(), unpickler.at
    except UnpicklingError as error:
        remedy = RESAVE if isinstance(error, UnsafePickle) else DAMAGED
        raise Refusal(str(error), unpickler.opcode_at, remedy) from None
    except Refusal as refusal:  # raised by a replacement of a name
        if refusal.offset is None:
            refusal.offset = unpickler.opcode_at
        raise


def _locate(data: memoryview, at: int, key: str, storages: dict[str, Storage]) -> int:
    """Sets the offset of a storage; returns the byte after the storage."""
    storage = storages.get(key)
    if storage is None or storage.offset is not None:
        raise Refusal(f"storage {shown(key)} is unused or repeated", at)
    left = len(data) - at - 8
    if left < 0:
        raise Refusal(f"storage {shown(key)} is beyond the end", at)
    length = int.from_bytes(data[at : at + 8], "little", signed=True)
    size = storage.length * storage.dtype.itemsize
    if length != storage.length:
        stated = f"{length:,} elements, {storage.length:,} are expected"
        raise Refusal(f"storage {shown(key)} has {stated}", at)
    if size > left:
        raise Refusal(f"storage {shown(key)} has {left:,} of {size:,} bytes", at)
    storage.offset = at + 8
    return storage.offset + size


def _storage(identity: Any) -> tuple[np.dtype, str, int, Any]:
    """Returns type, key, length and view of the storage in a persistent id.

    A persistent id is ('storage', type, key, device, length), in old files with a sixth
    item: a view or None.
    """
    match identity if type(identity) is tuple else ():
        case ("module", *_):
            raise Refusal("holds a whole module and its source", remedy=RESAVE)
        case ("storage", kind, str(key), _, length, *view) if len(view) < 2:
            if not isinstance(kind, Type):
                raise Refusal("a storage without a type")
            if type(length) is not int or not 0 <= length < 1 << 48:
                raise Refusal(f"a storage of {shown(length)} elements")
            return kind.dtype, key, length, view[0] if view else None
    raise Refusal("a persistent id that names no storage")
