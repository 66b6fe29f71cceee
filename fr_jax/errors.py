"""User errors, as opposed to faults of the program, and checks of options."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class UserError(ValueError):
    """Invalid input; the message has the value and the remedy."""


class CheckFailed(RuntimeError):
    """A result that failed its check; it was deleted."""


class TrainingStopped(RuntimeError):
    """Training that stopped because it could not continue."""


def unknown(what: str, name: str, valid: Iterable[str]) -> str:
    """Returns an error text: the unknown name, the nearest valid name, all of them."""
    names = sorted(set(valid))
    longer = [one for one in names if name and one.startswith(name)]
    near = longer or difflib.get_close_matches(name, names, n=1, cutoff=0.65)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    kind, of, owner = what.partition(" of ")
    available = ", ".join(names) or "none"
    return f"unknown {kind} {name!r}{of}{owner}{hint} (available: {available})"


def check_names(what: str, names: Iterable[str], valid: Iterable[str]) -> None:
    """Raises a UserError for the first of `names` that is not in `valid`."""
    for name in names:
        if name not in valid:
            raise UserError(unknown(what, name, valid))


def named(what: str, given: Any, table: Mapping[str, Any]) -> Any:
    """Returns the entry of a name in `table`; anything but a name unchanged.

    Raises:
      UserError: for a name that is not in `table`.
    """
    if not isinstance(given, str):
        return given
    check_names(what, [given], table)
    return table[given]


def check_range(what: str, value: Any, low: float, high: float | None = None) -> None:
    """Raises a UserError for a value that is not a number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{what}: {value!r} is not a number")
    if not low <= value <= (value if high is None else high):
        end = "or more" if high is None else f"to {high:.10g}"
        raise UserError(f"{what} is {value}; use {low:g} {end}")


def check_options(
    what: str, function: Callable, options: Mapping[str, Any], given: int = 0
) -> None:
    """Raises a UserError for an option that is not a parameter of `function`.

    Args:
      given: number of leading parameters that are not options.
    """
    parameters = list(inspect.signature(function).parameters)[given:]
    check_names(f"option of {what}", options, parameters)
