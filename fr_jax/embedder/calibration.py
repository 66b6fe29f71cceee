"""Thresholds of embedders, calibrated on pairs of their users.

`calibration.json` beside `embedder.json` has the threshold, how the scores behind it
are computed, and the digest of the weights that it belongs to.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from fr_jax.embedder.description import DESCRIPTION, read_json
from fr_jax.errors import UserError
from fr_jax.metrics.verification import few_impostors

FILE, FORMAT = "calibration.json", 1
_MAX_COUNT = 1 << 40  # pairs
_MAX_TEXT = 1000
_UNITS = ("identities", "pairs")


class Calibration(NamedTuple):
    """A threshold on cosines: at least `threshold` means the same identity.

    Attributes:
      threshold: the lowest that accepts at most the share `far` of the impostor pairs.
      low, high: 95 % interval of the threshold, by bootstrap.
      far: the wanted false accept rate.
      flip_sum: whether faces are embedded as the sum of image and mirror image.
      tar: share of genuine pairs accepted; None without genuine pairs.
      impostors_accepted, impostor_pairs, genuine_pairs: numbers of pairs.
      resampled: what the bootstrap draws, 'identities' or 'pairs'.
      pairs: name of the set of pairs.
      seen: whether the set has training identities of the embedder.
    """

    threshold: float
    low: float
    high: float
    far: float
    flip_sum: bool
    tar: float | None
    impostors_accepted: int
    impostor_pairs: int
    genuine_pairs: int
    resampled: str
    pairs: str
    seen: bool = False

    @property
    def reliable(self) -> bool:
        """False for fewer than 10 / FAR impostor pairs."""
        return not few_impostors(self.far, self.impostor_pairs)

    def describe(self) -> str:
        """Returns the threshold, its interval and origin as a phrase."""
        views = "flip-summed embeddings" if self.flip_sum else "embeddings without flip"
        text = (
            f"threshold {self.threshold:.4f} ({self.low:.4f} to {self.high:.4f}) for "
            f"FAR {self.far:g} on {self.pairs}, {views}"
        )
        return text if self.reliable else f"{text}; fewer than 10/FAR impostor pairs"

    def content(self, weights_sha256: str) -> bytes:
        """Returns the content of the file for weights with this digest."""
        values = {"format": FORMAT, "weights_sha256": weights_sha256}
        text = json.dumps(values | self._asdict(), indent=1, allow_nan=False)
        return text.encode()


def write(folder: epath.PathLike, calibration: Calibration) -> epath.Path:
    """Writes the calibration to an embedder's folder, atomically; returns its path."""
    path = epath.Path(folder) / FILE
    digest = read_json(path.with_name(DESCRIPTION))["weights_sha256"]
    part = path.with_name(f"{FILE}.part")
    part.write_bytes(calibration.content(digest))
    part.replace(path)
    return path


def read(folder: epath.PathLike, weights_sha256: str) -> Calibration | None:
    """Returns the calibration in an embedder's folder; None if there is none.

    Raises:
      UserError: for one of other weights, and a file that is not as written.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        return None
    again = "calibrate again, with fr-jax evaluate --calibrate FAR, or remove it"
    try:
        content = _checked(read_json(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; {again}") from None
    if content.pop("weights_sha256") != weights_sha256:
        raise UserError(f"{path} belongs to other weights; {again}")
    return Calibration(**content)


_RANGES = {
    "threshold": (-1.01, 1.01),
    "low": (-1.01, 1.01),
    "high": (-1.01, 1.01),
    "far": (0, 1),
    "tar": (0, 1),
    "impostors_accepted": (0, _MAX_COUNT),
    "impostor_pairs": (1, _MAX_COUNT),
    "genuine_pairs": (0, _MAX_COUNT),
}


def _checked(content: Any) -> dict[str, Any]:
    """Returns the fields of a calibration; ValueError for what it must not say."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"no calibration of format {FORMAT}")
    names = {*Calibration._fields, "weights_sha256"}
    values = {name: value for name, value in content.items() if name != "format"}
    if values.keys() != names:
        differing = sorted(values.keys() ^ names)[0]
        raise ValueError(f"{differing[:40]!r} is missing or unknown")
    for name, (low, high) in _RANGES.items():
        if name == "tar" and values[name] is None:
            continue
        kind = int if name.endswith(("_pairs", "_accepted")) else (int, float)
        value = values[name]
        valid = isinstance(value, kind) and not isinstance(value, bool)
        if not valid or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"{name} is {str(value)[:40]}, not {low} to {high}")
    for name in ("flip_sum", "seen"):
        if type(values[name]) is not bool:
            raise ValueError(f"{name} is neither true nor false")
    for name in ("pairs", "weights_sha256"):
        text = values[name]
        if type(text) is not str or len(text) > _MAX_TEXT or not text.isprintable():
            raise ValueError(f"{name} is no printable text")
    if values["resampled"] not in _UNITS:
        raise ValueError(f"resampled is none of {', '.join(_UNITS)}")
    return values
