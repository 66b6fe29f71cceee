"""The flag --shard: identities are divided among several calls."""

import argparse
import functools
from typing import Any

from fr_jax.errors import UserError


def add_argument(add: Any, what: str) -> None:
    """Adds --shard to a command, by its `add_argument`; `what` begins the help."""
    kind = functools.partial(two_numbers, "/", "I/N, as in 0/8")
    text = f"{what} part I of N, counted from 0"
    add("--shard", type=kind, default="0/1", metavar="I/N", help=text)


def check(arguments: argparse.Namespace) -> None:
    """Raises a UserError for a part that has no identity."""
    part, shards = arguments.shard
    if not 0 <= part < shards <= (arguments.identities or shards):
        raise UserError(
            f"--shard {part}/{shards} of {arguments.identities} identities: shards "
            "count from 0, and each needs at least one identity"
        )


def numbers(arguments: argparse.Namespace) -> range:
    """Returns the numbers of the identities of the shard."""
    part, shards = arguments.shard
    return range(*(arguments.identities * n // shards for n in (part, part + 1)))


def suffix(arguments: argparse.Namespace) -> str:
    """Returns the end of the name of a shard's records, '' for all identities."""
    part, shards = arguments.shard
    return f"_{part}_of_{shards}" if shards > 1 else ""


def two_numbers(separator: str, form: str, text: str) -> tuple[int, int]:
    """Returns both numbers of a flag's text; `form` is what the error expects."""
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    return int(first), int(second)
