"""Training identities of a network, including those of its pretrained weights.

Identities are {data set: names}, since names are unique within a data set only.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError

Identities = Mapping[str, Collection[str]]
RENDERED = "rendered"  # the data set of rendered identities
MAX_DIGESTS = 1_000_000  # of training images, 8 bytes each, stored with a network
# A number with at most a word or a letter around it: '001', 'n000001', 'subject_7'. Not
# Freebase's identifiers, such as 'm.0107_f', which are the same in every set.
_NUMBER = re.compile(r"(?!m\.0)[^\W\d_]*[\W_]*\d[\d\W_]*[^\W\d_]?")
# Evaluation sets by the set whose identities they have; others by their first word.
_FAMILIES = {"calfw": "lfw", "cplfw": "lfw", "xqlfw": "lfw", "vgg2": "vggface2"}
_FAMILIES |= {name: name for name in ("agedb", "cfp", "fgnet", "lag", "lfw")}


class Provenance(NamedTuple):
    """The origin of training data; stored with every network trained on them.

    Attributes:
      identities: names by data set; an empty list if they are unknown.
      licences: by data set or weight file.
      held_out: identities, by data set, that must not be trained on.
      fingerprint: counts and digest of the data, by data set; see `fingerprint`.
      notes: sentences to print with the results.
      details: meaning of the outputs, such as the angles of pose classes.
      digests: of the pixels of training images, as `merged` returns them; None if
        unknown. An embedder stores them apart from `describe`.
    """

    identities: Identities
    licences: Mapping[str, str]
    held_out: Identities = {}  # noqa: RUF012 - never written to
    fingerprint: Mapping[str, Mapping[str, Any]] = {}
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = {}
    digests: np.ndarray | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the provenance that an embedder stores, as JSON values."""
        stored = {
            "identities": joined(self.identities),
            "licences": dict(self.licences),
            "held_out": joined(self.held_out),
            "fingerprint": {name: dict(one) for name, one in self.fingerprint.items()},
            "note": "; ".join(self.notes),
        }
        filled = {name: value for name, value in stored.items() if value}
        return filled | dict(self.details)


def fingerprint(
    identities: Sequence[str], labels: Sequence[int] | np.ndarray, *columns: bytes
) -> dict[str, Any]:
    """Returns counts and a digest of a data set.

    Args:
      identities: names.
      labels: of each image.
      *columns: bytes of further columns, such as yaws.
    """
    names = b"\0".join(one.encode(errors="surrogateescape") for one in identities)
    numbers = np.asarray(labels, np.int32)
    digest = hashlib.sha256()
    for part in (names, numbers.tobytes(), *columns):
        digest.update(b"%d\n" % len(part) + part)
    counts = {"identities": len(identities), "images": len(numbers)}
    return {**counts, "digest": digest.hexdigest()[:16]}


def joined(*several: Identities) -> dict[str, list[str]]:
    """Returns the union of names per data set, in the order of first appearance."""
    union: dict[str, dict[str, None]] = {}
    for identities in several:
        for name, names in identities.items():
            union.setdefault(name, {}).update(dict.fromkeys(names))
    return {name: list(names) for name, names in union.items()}


def merged(*digests: np.ndarray | None) -> np.ndarray | None:
    """Returns the union of image digests, uint64, ascending; None if all are unknown.

    Of more than `MAX_DIGESTS` the smallest are kept: a random sample, since digests are
    random, and the same one in whichever order sets are merged.
    """
    known = [one for one in digests if one is not None]
    if not known:
        return None
    union = np.unique(np.concatenate(known).astype(np.uint64))
    return union[union > 0][:MAX_DIGESTS]  # 0: images of one colour


def is_number(name: str) -> bool:
    """Returns True for the number of an identity, which other sets give to others."""
    return _NUMBER.fullmatch(name) is not None


def same_data_set(name: str, other: str) -> bool:
    """Returns True if `name` is that of a data set `other`, or of a part of it.

    They are equal, or 'cfp_fp' and 'cfp', or of sets known to have common identities.
    """
    name, other = name.lower(), other.lower()
    family, others = (_FAMILIES.get(re.split(r"[\W_]", n)[0], n) for n in (name, other))
    return (
        name == other
        or re.match(rf"{re.escape(other)}[\W_]", name) is not None
        or (family == others)
    )


def check_unseen(held_out: Identities, trained: Identities, remedy: str) -> None:
    """Raises a UserError if held-out identities were trained on.

    For a training set without names, all of its identities count as trained on.
    """
    for name, names in held_out.items():
        if name not in trained:
            continue
        if overlap := set(names).intersection(trained[name] or names):
            raise UserError(
                f"{len(overlap)} of the {len(names)} held-out identities of {name} "
                f"were trained on, such as {min(overlap)}; {remedy}"
            )


def inherit(
    data: Provenance,
    pretrained: Mapping[str, Mapping[str, Any]],
    digests: Iterable[np.ndarray | None] = (),
) -> Provenance:
    """Returns the provenance of data with that of pretrained networks.

    Args:
      pretrained: provenance of embedders, by the system's name for them. The licence of
        an imported weight file defaults to its terms.
      digests: of the training images of these embedders.

    Raises:
      UserError: if a pretrained network was trained on held-out identities.
    """
    identities, licences = [data.identities], {}
    for name, stored in pretrained.items():
        identities.append(stored.get("identities", {}))
        remedy = (
            f"by the network given as {name!r}: give another, or hold out other "
            "identities (config.data.records.validation)"
        )
        check_unseen(data.held_out, identities[-1], remedy)
        licences |= stored.get("licences", {})
        if "file" in stored:
            licences[stored["file"]] = stored.get("licence") or stored.get(
                "terms", "unknown terms"
            )
    licences |= data.licences
    return data._replace(
        identities=joined(*identities),
        licences=licences,
        digests=merged(data.digests, *digests),
    )
