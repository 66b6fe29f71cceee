"""Evaluation sets by name and path, the form of flags and configurations."""

import sys

from fr_jax.errors import UserError, check_names
from fr_jax.evaluation.verification import PROTOCOLS, Verification

OPTIONS = ("root", "protocol", "lag_mode")


def split(text: str, options: tuple[str, ...]) -> tuple[str, str, dict[str, str]]:
    """Returns name, path and options of NAME=PATH[,OPTION=VALUE...].

    Raises:
      UserError: for another form, or an option that is not in `options`.
    """
    name, equals, rest = text.partition("=")
    path, *parts = rest.split(",")
    if not (name and equals and path):
        forms = "".join(f"[,{option}=...]" for option in options)
        raise UserError(f"--set {text}: expected NAME=PATH{forms}, as in lfw=lfw.bin")
    chosen = {key: value for key, _, value in (part.partition("=") for part in parts)}
    check_names(f"option in --set {text}:", chosen, options)
    return name, path, chosen


def parse(text: str) -> Verification:
    """Returns the evaluator of NAME=PATH[,root=DIR][,protocol=P][,lag_mode=M].

    Protocols: 'insightface' (default for sets with folds), 'kfold' (default for lists)
    and 'paper'; see `Verification`.

    Raises:
      UserError: for another form or option; DataError for an invalid set.
    """
    from data_pipelines.protocols import pairs

    name, path, options = split(text, OPTIONS)
    protocol = options.pop("protocol", None)
    if protocol is not None:
        check_names(f"protocol in --set {text}:", [protocol], PROTOCOLS)
    images, numbers, same, folds, identities, skipped = pairs.load(path, **options)
    if skipped:
        print(f"{name}: skipped {skipped} truncated lines", file=sys.stderr)
    protocol = protocol or ("kfold" if folds is None else "insightface")
    return Verification(name, images, numbers, same, folds, protocol, identities)
