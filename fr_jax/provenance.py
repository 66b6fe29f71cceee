"""Which identities a network was trained on, directly or through pretrained weights.

Identities are {data set: names}: a name says something within its own set alone.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from fr_jax.errors import UserError

Identities = Mapping[str, Collection[str]]
RENDERED = "rendered"  # the data set of rendered identities


class Provenance(NamedTuple):
    """Where training data came from; stored with every network trained on them.

    Attributes:
      identities: names by data set; an empty list where a set's names are not known.
      licences: by data set or weight file.
      held_out: identities, by data set, that must not be trained on.
      fingerprint: digest of names, labels and counts of the data.
      notes: sentences that every reader of the results should see.
      details: what the method's outputs mean, such as the angles of pose classes.
    """

    identities: Identities
    licences: Mapping[str, str]
    held_out: Identities = {}  # noqa: RUF012 - never written to
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Returns what an embedder keeps of it, fit for JSON."""
        known = {
            "identities": joined(self.identities),
            "licences": dict(self.licences),
            "held_out": joined(self.held_out),
            "fingerprint": self.fingerprint,
            "note": "; ".join(self.notes),
        }
        known = {name: value for name, value in known.items() if value}
        return known | dict(self.details)


def fingerprint(name: str, identities: Iterable[str], labels: Iterable[int]) -> str:
    """Returns a digest of a data set: name, identities and the label of each image."""
    digest = hashlib.sha256(name.encode())
    for identity in identities:
        digest.update(b"\0" + identity.encode(errors="surrogateescape"))
    digest.update(b"\0\0" + b",".join(b"%d" % label for label in labels))
    return digest.hexdigest()[:16]


def joined(*several: Identities) -> dict[str, list[str]]:
    """Returns the union, set by set, in the order of first appearance."""
    found: dict[str, dict[str, None]] = {}
    for identities in several:
        for name, names in identities.items():
            found.setdefault(name, {}).update(dict.fromkeys(names))
    return {name: list(names) for name, names in found.items()}


def check_unseen(held_out: Identities, trained: Identities, remedy: str) -> None:
    """Raises a UserError where held-out identities were trained on.

    A set without names counts as trained on as a whole.
    """
    for name, names in held_out.items():
        everything = name in trained and not trained[name]
        overlap = set(names).intersection(
            names if everything else trained.get(name, ())
        )
        if overlap:
            raise UserError(
                f"{len(overlap)} of the {len(names)} held-out identities of {name} "
                f"were trained on, such as {min(overlap)}; {remedy}"
            )


def inherit(own: Provenance, pretrained: Mapping[str, Mapping[str, Any]]) -> Provenance:
    """Returns the provenance of a network that starts from, or learns from, others.

    It inherits their identities and licences; of a weight file, its terms.

    Args:
      pretrained: the provenance of each pretrained embedder, by the name it enters by.

    Raises:
      UserError: where one of them was trained on held-out identities.
    """
    identities, licences = [own.identities], {}
    for name, theirs in pretrained.items():
        trained = theirs.get("identities", {})
        check_unseen(
            own.held_out,
            trained,
            f"by the network given as {name!r}: give another, or hold out other "
            "identities (config.data.records.validation)",
        )
        identities.append(trained)
        licences |= theirs.get("licences", {})
        if "file" in theirs:
            licences[theirs["file"]] = theirs.get("licence") or theirs["terms"]
    return own._replace(
        identities=joined(*identities), licences=licences | dict(own.licences)
    )
