"""Files with the 68 landmarks of a face: .pts of iBUG, .npy and .npz of NumPy.

In iBUG's order, (x, y) in pixels of the image beside which the file lies. iBUG counts
pixels from 1; its points are taken as they are.
"""

import io
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines import DataError
from data_pipelines.images import read_file
from data_pipelines.names import written

COUNT = 68
SUFFIXES = (".pts", ".npy", ".npz")
_LARGEST = 1 << 18  # bytes
_FARTHEST = 1e5  # pixels from the origin
_NAMES = ("landmarks68", "points", "landmarks", "arr_0")  # in an .npz


def read(path: str | Path) -> np.ndarray:
    """Returns the landmarks of a file, float32 [68, 2].

    A .pts has a point per line, `x y`, between braces after `version: 1` and
    `n_points: 68`; files without this head, or with the number of points alone, are
    read too. An .npy, or the array `landmarks68` of an .npz, is [68, 2].

    Raises:
      DataError: for a missing file, one above 256 KiB, another number of points, and
        values that are not finite or beyond 100,000 pixels; it names file and line.
    """
    path = Path(path)
    shown = written(str(path))
    try:
        data = read_file(path, _LARGEST)
        points = _text(data) if path.suffix == ".pts" else _arrays(data, path.suffix)
    except DataError as error:
        raise DataError(f"{shown}: {error}") from None
    wrong = ~(np.abs(points) <= _FARTHEST).all(axis=1)  # NaN compares as False
    if wrong.any():
        number = int(wrong.argmax())
        x, y = points[number].tolist()
        raise DataError(f"{shown}: point {number + 1} is ({x:g}, {y:g})")
    return points


def beside(image: str | Path, suffixes: Sequence[str] = SUFFIXES) -> str:
    """Returns the path of the file of landmarks beside an image, '' without one."""
    stem = os.path.splitext(image)[0]
    paths = (stem + suffix for suffix in suffixes)
    return next((path for path in paths if os.path.isfile(path)), "")


def write(path: Path, points: np.ndarray) -> None:
    """Writes landmarks [68, 2] as a .pts."""
    lines = "".join(f"{x:.3f} {y:.3f}\n" for x, y in points.tolist())
    path.write_text(f"version: 1\nn_points: {COUNT}\n{{\n{lines}}}\n")


def _text(data: bytes) -> np.ndarray:
    points = []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        words = line.replace(",", " ").split()
        head = not words or words in (["{"], ["}"]) or words[0] == "version:"
        if words[:1] == ["n_points:"] or (not points and len(words) == 1 and not head):
            if words[-1] != str(COUNT):
                raise DataError(
                    f"line {number}: {words[-1]!r:.80} points, expected {COUNT}"
                )
            head = True
        if head:
            continue
        try:
            x, y = map(float, words)
            if not (math.isfinite(x) and math.isfinite(y)):
                raise ValueError
        except ValueError:
            raise DataError(f"line {number}: {line!r:.80} is not 'x y'") from None
        if len(points) == COUNT:
            raise DataError(f"line {number}: more than {COUNT} points")
        points.append((x, y))
    if len(points) < COUNT:
        raise DataError(f"{len(points)} points, expected {COUNT}")
    return np.array(points, np.float64).astype(np.float32)


def _arrays(data: bytes, suffix: str) -> np.ndarray:
    if suffix == ".npy":
        return _array(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {one.filename: one.file_size for one in archive.infolist()}
            name = next((f"{n}.npy" for n in _NAMES if f"{n}.npy" in sizes), "")
            if not name:
                raise DataError(f"no array {_NAMES[0]!r} in it; {len(sizes)} others")
            with archive.open(name) as file:  # reads no more than asked for
                member = file.read(_LARGEST + 1)
    except DataError:
        raise
    except Exception as error:  # of a damaged archive, of many kinds
        raise DataError(f"a damaged .npz ({error!s:.100})") from None
    return _array(member)


def _array(data: bytes) -> np.ndarray:
    """Returns the points of an .npy; its header is checked before memory is taken."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        head = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            head = np.lib.format.read_array_header_2_0
        shape, _, kind = head(file)
    except Exception as error:  # of a damaged header, of many kinds
        raise DataError(f"a damaged .npy ({error!s:.100})") from None
    if shape != (COUNT, 2) or kind.kind not in "fiu":
        raise DataError(f"an array {kind} {shape}, expected numbers ({COUNT}, 2)")
    file.seek(0)
    try:
        points = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"a damaged .npy ({error!s:.100})") from None
    with np.errstate(over="ignore"):
        return points.astype(np.float32)
