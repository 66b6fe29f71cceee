"""Whom a network has learnt from, by way of others too: who is a stranger to it?

People are {set: names}: a name says something within its set alone.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fr_jax.errors import UserError

People = Mapping[str, Collection[str]]


def joined(*several: People) -> dict[str, list[str]]:
    """Returns the people of all, set by set, in the order in which they come."""
    found: dict[str, dict[str, None]] = {}
    for people in several:
        for name, names in people.items():
            found.setdefault(name, {}).update(dict.fromkeys(names))
    return {name: list(names) for name, names in found.items()}


def check_strangers(held_out: People, trained: People, remedy: str) -> None:
    """Raises a UserError where people who are held out were trained on.

    A set whose people nobody named was trained on as a whole.
    """
    for name, names in held_out.items():
        everybody = name in trained and not trained[name]
        overlap = set(names).intersection(names if everybody else trained.get(name, ()))
        if overlap:
            raise UserError(
                f"{len(overlap)} of the {len(names)} people of {name} who are held out "
                f"were trained on, as {min(overlap)}; {remedy}"
            )


def inherited(
    provenance: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the provenance of a network that begins with, or learns from, others.

    Their people and licences are its own too; of a weight file, the terms.

    Args:
      provenance: of what it trains on itself; 'held_out' are people.
      given: provenance of each embedder that is given, by its name.

    Raises:
      UserError: where one of them was trained on people who are held out.
    """
    people, licences = [provenance["people"]], {}
    for name, theirs in given.items():
        trained = theirs.get("people", {})
        check_strangers(
            provenance.get("held_out", {}),
            trained,
            f"by the network given as {name!r}: give another, or hold out others "
            "(config.data.validation)",
        )
        people.append(trained)
        licences |= theirs.get("licences", {})
        if "file" in theirs:
            licences[theirs["file"]] = theirs.get("licence") or theirs["terms"]
    own = {"people": joined(*people), "licences": licences | provenance["licences"]}
    return {**provenance, **own}
