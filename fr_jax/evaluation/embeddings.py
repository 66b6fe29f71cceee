"""Files of embeddings, as `fr-jax embed` writes them, in place of an embedder.

An evaluator embeds `images`; with a file, these are `Rows`, the rows of the file that
have the names of the set's images.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fr_jax.convert.readers.npz import read as read_npz
from fr_jax.convert.readers.refusal import Refusal
from fr_jax.convert.readers.zip_archive import Archive
from fr_jax.errors import UserError

Array = np.ndarray

SUFFIXES = (".npz", ".parquet")
_ARRAYS = ("names", "identities", "embeddings", "norms")
_COLUMNS = ("name", "identity", "embedding", "norm")


class Rows(Sequence):
    """Rows of a file, in place of images: slices are rows again."""

    def __init__(self, numbers: Array):
        self.numbers = np.asarray(numbers, np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        return (
            Rows(self.numbers[index])
            if isinstance(index, slice)
            else self.numbers[index]
        )


class Columns(NamedTuple):
    """The contents of a file; see docs/file_formats.md.

    Attributes:
      names, identities: text [N], '' where the identity is unknown.
      embeddings: float32 [N, D], of unit length.
      norms: float32 [N], lengths before normalisation.
      about: the embedder's description and `flip`; {} if the file has none.
    """

    names: Array
    identities: Array
    embeddings: Array
    norms: Array
    about: dict[str, Any]


class StoredEmbeddings:
    """The embeddings of a file, with what evaluations take from an embedder.

    Attributes:
      columns: the contents.
      provenance: of the embedder.
      digests: None; a file has no digests of training images.
      flip: whether embeddings are sums of face and mirrored face; None if unknown.
    """

    digests = None

    def __init__(self, columns: Columns, path: str | os.PathLike = "embeddings"):
        self.columns, self.path = columns, str(path)
        provenance = columns.about.get("provenance")
        self.provenance = provenance if isinstance(provenance, dict) else {}
        flip = columns.about.get("flip")
        self.flip = flip if isinstance(flip, bool) else None
        self._by_name: dict[str, int] = {}
        self._by_stem: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.columns.names)

    def describe(self) -> dict[str, Any]:
        """Returns the description of the embedder, as stored, and its provenance."""
        about = {name: x for name, x in self.columns.about.items() if name != "flip"}
        return about | {"provenance": self.provenance}

    def digest(self) -> str:
        """Returns a digest of names and embeddings, which stands for the weights'."""
        digest = hashlib.sha256("\n".join(self.columns.names.tolist()).encode())
        for array in (self.columns.embeddings, self.columns.norms):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]

    def find(self, names: Sequence[str]) -> Array:
        """Returns the row of each name, int64 [n], -1 where the file has none.

        Suffixes of images are ignored where the exact name is missing, as an aligner
        writes .jpg for .png, and 001/frontal_01 stands for 001/frontal/01.
        """
        if not self._by_name:
            for row, name in enumerate(self.columns.names.tolist()):
                self._by_name.setdefault(name, row)
                # Two images with one stem stand for neither.
                stem = _stem(name)
                self._by_stem[stem] = -1 if stem in self._by_stem else row
        return np.array([self._row(name) for name in names], np.int64)

    def present(self, names: Sequence[str]) -> Array:
        """Returns the numbers of the names that have a row, int64 [n].

        Raises:
          UserError: if none has one.
        """
        kept = np.flatnonzero(self.find(names) >= 0)
        if not len(kept):
            self.select(names)  # raises
        return kept

    def _row(self, name: str) -> int:
        folder, _, last = name.rpartition("/")
        for form in (name, f"{folder}_{last}" if folder else name):
            row = self._by_name.get(form, self._by_stem.get(_stem(form), -1))
            if row >= 0:
                return row
        return -1

    def select(self, names: Sequence[str]) -> Rows:
        """Returns the rows of the images of a set.

        Raises:
          UserError: for names that the file lacks, with their number.
        """
        rows = self.find(names)
        if missing := int(np.sum(rows < 0)):
            first = names[int(np.argmin(rows))]
            raise UserError(
                f"{self.path}: {missing:,} of {len(names):,} images of the set have no "
                f"embedding, such as {first!r:.200}; names are relative to the folder "
                f"that was embedded, as {str(self.columns.names[0])!r:.200}"
            )
        return Rows(rows)

    def embed_raw(
        self, images: Any, *, flip: bool = False, progress: str = ""
    ) -> dict[str, Array]:
        """Returns {'embedding': raw float32 [N, D]} of `Rows`; see `Trained.embed`.

        There is no 'mirrored': with `flip` the embeddings are sums already.

        Raises:
          UserError: for images instead of rows, and a file with mirror images for an
            evaluation without, or the reverse.
        """
        if not isinstance(images, Rows):
            raise UserError(
                f"{self.path}: stored embeddings are found by the names of images; "
                "this set has images without names"
            )
        if self.flip is not None and self.flip != flip:
            made, needs = ("with", "no") if self.flip else ("without", "summed")
            raise UserError(
                f"{self.path} was made {made} --flip, the protocol takes {needs} "
                "mirror images; embed again, or choose another protocol"
            )
        rows = images.numbers
        raw = self.columns.embeddings[rows] * self.columns.norms[rows, None]
        return {"embedding": raw}


def load(path: str | os.PathLike) -> StoredEmbeddings:
    """Returns the embeddings of an .npz or .parquet file of `fr-jax embed`.

    Raises:
      UserError: for a missing or damaged file, missing or unequal columns, embeddings
        that are not finite or not of unit length, and norms that are no lengths.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    read = _parquet if path.suffix == ".parquet" else _npz
    columns = read(path)
    lengths = [len(getattr(columns, name)) for name in _ARRAYS]
    if len(set(lengths)) > 1 or not lengths[0]:
        counts = ", ".join(f"{n:,} {name}" for n, name in zip(lengths, _ARRAYS))
        raise UserError(f"{path}: {counts}; all must be equal, and not zero")
    _check_values(path, columns)
    return StoredEmbeddings(columns, path)


def _check_values(path: Path, columns: Columns) -> None:
    embeddings, norms = columns.embeddings, columns.norms
    if embeddings.ndim != 2 or norms.ndim != 1:
        shapes = f"{embeddings.shape} and {norms.shape}"
        raise UserError(f"{path}: embeddings and norms have the shapes {shapes}")
    lengths = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))
    for what, valid, values in (
        ("embeddings are not of unit length", np.abs(lengths - 1) <= 1e-3, lengths),
        ("norms are no lengths", (norms > 0) & np.isfinite(norms), norms),
    ):
        if not valid.all():
            row = int(np.argmin(valid))
            raise UserError(
                f"{path}: {np.sum(~valid):,} of {len(values):,} {what}, such as "
                f"{columns.names[row]!s:.80} with {values[row]:.4g}"
            )


def _npz(path: Path) -> Columns:
    try:
        data = memoryview(path.read_bytes())
        stored = read_npz(Archive(path, data), text=True)
        for name in _ARRAYS:
            if name not in stored:
                raise UserError(
                    f"{path}: no array {name!r}; it has {', '.join(stored)}"
                )
        arrays = {
            name: np.ndarray(one.shape, one.dtype, one.data, one.offset, one.strides)
            for name, one in stored.items()
        }
        text = str(arrays["about"]) if "about" in arrays else "{}"
        # Text of invalid code points fails here.
        names, identities = (np.array(arrays[n].tolist()) for n in _ARRAYS[:2])
    except UserError:
        raise
    except (Refusal, OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged file of embeddings ({error!s:.200})"
        ) from None
    embeddings, norms = arrays["embeddings"], arrays["norms"]
    return _columns(path, names, identities, embeddings, norms, text)


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: reading .parquet needs pip install 'fr_jax[parquet]'"
        ) from None
    try:
        table = parquet.read_table(path)
        for name in _COLUMNS:
            if name not in table.column_names:
                present = ", ".join(table.column_names)
                raise UserError(f"{path}: no column {name!r}; it has {present}")
        parts = [table.column(name).combine_chunks() for name in _COLUMNS]
        lists = parts[2]
        if not pa.types.is_fixed_size_list(lists.type) or lists.null_count:
            raise UserError(
                f"{path}: 'embedding' is {lists.type}, not lists of one size"
            )
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        text = (table.schema.metadata or {}).get(b"fr_jax", b"{}").decode()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: damaged file of embeddings ({error!s:.200})"
        ) from None
    names, identities = (np.array(parts[n].to_pylist(), str) for n in (0, 1))
    norms = parts[3].to_numpy(zero_copy_only=False)
    embeddings = flat.reshape(-1, lists.type.list_size)
    return _columns(path, names, identities, embeddings, norms, text)


def _columns(path: Path, names, identities, embeddings, norms, text: str) -> Columns:
    for what, array in (("embeddings", embeddings), ("norms", norms)):
        if array.dtype.kind != "f":
            raise UserError(f"{path}: {what} are {array.dtype}, not floating-point")
    for what, array in (("names", names), ("identities", identities)):
        if array.dtype.kind != "U" or array.ndim != 1:
            raise UserError(f"{path}: {what} are {array.dtype} {array.shape}, not text")
    try:
        about = json.loads(text)
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise UserError(f"{path}: 'about' is no JSON object")
    # Copies: views of a file are not aligned.
    embeddings, norms = (np.array(one, np.float32) for one in (embeddings, norms))
    return Columns(names, identities, embeddings, norms, about)


def _stem(name: str) -> str:
    """Returns a name without its suffix; folders may have dots."""
    folder, slash, last = name.rpartition("/")
    stem, dot, _ = last.rpartition(".")
    return folder + slash + (stem if dot else last)
