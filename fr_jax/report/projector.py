"""Embeddings as TensorBoard's projector reads them: `tensorboard --logdir FOLDER`.

The folder has tensors.tsv, metadata.tsv (with a header), sprite.png (thumbnails row by
row) and projector_config.pbtxt, the form that tensorboard.plugins.projector documents.
"""

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from PIL import Image

from fr_jax.errors import UserError

Array = np.ndarray
CONFIG = "projector_config.pbtxt"
_MAX_SPRITE = 8192  # pixels of a side, which WebGL of common browsers takes
_SIDES = 16, 64  # of a thumbnail


def thumbnail_side(count: int) -> int:
    """Returns the side in pixels of `count` thumbnails in a sprite; 0: too many."""
    side = min(_SIDES[1], _MAX_SPRITE // max(_columns(count), 1))
    return side if side >= _SIDES[0] else 0


class Thumbnails:
    """Collects thumbnails of `count` images that pass by, as the sprite has them."""

    def __init__(self, count: int):
        self.side = thumbnail_side(count)
        self._count, self._shown = count, 0
        # Square, with empty places at the end: as TensorBoard divides it.
        size = _columns(count) * self.side
        self.sprite = np.zeros((size, size, 3), np.uint8)

    def of(self, batches: Iterable[Array]) -> Iterator[Array]:
        """Yields batches of uint8 RGB [n, H, W, 3] unchanged, with a look at each."""
        for batch in batches:
            for image in batch if self.side else ():
                self._add(image)
            yield batch

    def _add(self, image: Array) -> None:
        if self._shown >= self._count:
            raise ValueError(f"more than {self._count:,} images")
        picture = Image.fromarray(np.asarray(image, np.uint8))
        small = picture.resize((self.side, self.side), Image.Resampling.BOX)
        row, column = divmod(self._shown, _columns(self._count))
        top, left = row * self.side, column * self.side
        self.sprite[top : top + self.side, left : left + self.side] = np.asarray(small)
        self._shown += 1


def write(
    folder: epath.PathLike,
    embeddings: Array,
    columns: Mapping[str, Sequence[object]],
    thumbnails: Thumbnails | None = None,
    *,
    name: str = "embeddings",
) -> list[epath.Path]:
    """Writes the files of the projector to a folder, the configuration last.

    Args:
      embeddings: finite float [N, D].
      columns: labels of the points by name, N each; at least two columns.
      thumbnails: of the N images, or None for points without pictures.
      name: of the embeddings in TensorBoard.

    Returns:
      The paths.

    Raises:
      UserError: for embeddings that are not finite.
      ValueError: for columns of other lengths.
    """
    embeddings = np.asarray(embeddings, np.float32)
    if wrong := int(np.sum(~np.isfinite(embeddings).all(axis=1))):
        raise UserError(f"{wrong:,} of {len(embeddings):,} embeddings are not finite")
    lengths = {key: len(values) for key, values in columns.items()}
    if len(lengths) < 2 or set(lengths.values()) != {len(embeddings)}:
        raise ValueError(f"columns of {lengths} for {len(embeddings):,} embeddings")
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = "".join(f"  tensor_shape: {size}\n" for size in embeddings.shape)
    lines = f'  tensor_name: {json.dumps(name)}\n{shape}  tensor_path: "tensors.tsv"\n'
    lines += '  metadata_path: "metadata.tsv"\n'
    contents = {
        "tensors.tsv": _tensors(embeddings),
        "metadata.tsv": _metadata(columns).encode("utf-8", "backslashreplace"),
    }
    if thumbnails is not None and thumbnails.side:
        data = io.BytesIO()
        Image.fromarray(thumbnails.sprite).save(data, "PNG")
        contents["sprite.png"] = data.getvalue()
        size = f"    single_image_dim: {thumbnails.side}\n" * 2
        lines += f'  sprite {{\n    image_path: "sprite.png"\n{size}  }}\n'
    contents[CONFIG] = f"embeddings {{\n{lines}}}\n".encode()
    paths = []
    for file, content in contents.items():
        part = folder / f"{file}.part"
        try:
            part.write_bytes(content)
            part.replace(folder / file)
        finally:
            part.unlink(missing_ok=True)
        paths.append(folder / file)
    return paths


def _columns(count: int) -> int:
    """Returns the number of thumbnails in a row: the projector's grid is square."""
    return math.ceil(math.sqrt(max(count, 1)))


def _tensors(embeddings: Array) -> bytes:
    data = io.BytesIO()
    np.savetxt(data, embeddings, fmt="%.9g", delimiter="\t")
    return data.getvalue()


def _metadata(columns: Mapping[str, Sequence[object]]) -> str:
    rows = [list(columns), *zip(*columns.values())]
    return "".join("\t".join(map(_field, row)) + "\n" for row in rows)


def _field(value: object) -> str:
    """Returns a value without tabs and line ends, which separate values."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text
    )
