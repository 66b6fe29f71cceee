"""Evaluation sets by name and path."""

import sys

from fr_jax.errors import UserError, unknown
from fr_jax.evaluation.verification import PROTOCOLS, EvaluationSet

_OPTIONS = ("root", "protocol", "lag_mode")


def parse_set(text: str) -> EvaluationSet:
    """Returns the evaluation set of NAME=PATH[,root=DIR][,protocol=P][,lag_mode=M].

    Protocols: 'insightface' (default where there are folds), 'kfold' (default of lists)
    and 'paper'; see `EvaluationSet`.

    Raises:
      UserError: for another form or option; DataError for what is wrong with the set.
    """
    name, equals, rest = text.partition("=")
    path, *options = rest.split(",")
    if not (name and equals and path):
        raise UserError(f"--set {text}: use NAME=PATH[,root=DIR][,protocol=P]")
    chosen = {k: v for k, _, v in (option.partition("=") for option in options)}
    for option in chosen:
        if option not in _OPTIONS:
            raise UserError(f"--set {text}: {unknown('option', option, _OPTIONS)}")
    protocol = chosen.pop("protocol", None)
    if protocol is not None and protocol not in PROTOCOLS:
        raise UserError(f"--set {text}: {unknown('protocol', protocol, PROTOCOLS)}")
    from data_pipelines.protocols import pairs

    found = pairs.load(path, **chosen)
    if found.skipped:
        print(f"{name}: {found.skipped} corrupt lines of the list", file=sys.stderr)
    if protocol is None:
        protocol = "kfold" if found.folds is None else "insightface"
    return EvaluationSet(
        name,
        found.images,
        found.pairs,
        found.same,
        found.folds,
        protocol,
        found.people,
    )
