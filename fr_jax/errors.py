"""What a user did wrong, as opposed to what the program did."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for; the message has the value and the remedy."""


class CheckFailed(RuntimeError):
    """Something was made, checked, found wrong, and not kept."""


class TrainingStopped(RuntimeError):
    """A run that stopped itself because it could not go on."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Returns an error text: what is unknown, the nearest known name, all of them."""
    names = sorted(known)
    longer = [known for known in names if name and known.startswith(name)]
    near = longer or difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} (there are: {', '.join(names)})"
