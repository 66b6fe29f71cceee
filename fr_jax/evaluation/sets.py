"""Evaluation sets by name and path, the form of flags and configurations."""

import functools
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from fr_jax.errors import UserError, check_names
from fr_jax.evaluation import labelled_sets, template_sets
from fr_jax.evaluation.embeddings import StoredEmbeddings
from fr_jax.evaluation.evaluator import Evaluator
from fr_jax.evaluation.verification import PROTOCOLS, Verification

OPTIONS = ("root", "protocol", "lag_mode", "missing", "identities")
# Of other sets than pairs: (name, path, options, check=, stored=) -> evaluator.
_OTHERS: dict[str, Callable[..., Evaluator]] = {
    "ijb": template_sets.verification,
    "identification": labelled_sets.identification,
    "clustering": labelled_sets.clustering,
}
_THEIRS = (
    *("crop", "variant", "flip", "norm", "detector", "media", "resamples"),
    *("gallery", "galleries", "search", "method", "threshold", "clusters"),
)


def split(text: str, options: tuple[str, ...]) -> tuple[str, str, dict[str, str]]:
    """Returns name, path and options of NAME=PATH[,OPTION=VALUE...].

    A comma that no `WORD=` follows is part of a path, as is one in an existing path.

    Raises:
      UserError: for another form, or an option that is not in `options`.
    """
    name, equals, rest = text.partition("=")
    path, *parts = re.split(r",(?=\w+=)", rest)
    while parts and not Path(path).exists() and Path(f"{path},{parts[0]}").exists():
        path += f",{parts.pop(0)}"
    if not (name and equals and path):
        forms = "".join(f"[,{option}=...]" for option in options)
        raise UserError(f"--set {text}: expected NAME=PATH{forms}, as in lfw=lfw.bin")
    chosen = {key: value for key, _, value in (part.partition("=") for part in parts)}
    check_names(f"option in --set {text}:", chosen, options)
    return name, path, chosen


def parse(
    text: str,
    sides: Collection[int] = (),
    *,
    unaligned: bool = False,
    flag: str = "--unaligned",
    stored: StoredEmbeddings | None = None,
) -> Any:
    """Returns the evaluator of NAME=PATH[,root=DIR][,protocol=P][,missing=M]...

    Protocols: 'insightface' (default for sets with folds and for records), 'kfold'
    (default for lists) and 'paper'; see `Verification`. What was skipped or left out is
    printed. 'ijb', 'identification' and 'clustering' are in `template_sets` and
    `labelled_sets`.

    Args:
      sides: valid sides of the images in pixels besides 112, the inputs of networks.
      unaligned: accept any size.
      flag: the setting that does so, named in the error.
      stored: embeddings in place of images, found by the names of the images.

    Raises:
      UserError: for another form or option; DataError for an invalid set, missing
        images, and images without the size of aligned faces.
    """
    from data_pipelines import aligned, digests
    from data_pipelines.protocols import pairs

    name, path, options = split(text, (*OPTIONS, *_THEIRS))
    protocol = options.pop("protocol", None)
    if protocol is not None:
        valid = (*PROTOCOLS, *_OTHERS)
        check_names(f"protocol in --set {text}:", [protocol], valid)
    check = functools.partial(aligned.check, sides=sides, unless=flag)
    if protocol in _OTHERS:
        given = {"check": None if unaligned else check, "stored": stored}
        return _OTHERS[protocol](name, path, options, **given)
    check_names(f"option in --set {text}:", options, OPTIONS)
    loaded = pairs.load(path, **options, check=None if unaligned else check)
    for note in loaded.notes:
        print(f"{name}: {note}", file=sys.stderr)
    is_list = loaded.folds is None and not loaded.records
    return Verification(
        name,
        loaded.images,
        loaded.pairs,
        loaded.same,
        loaded.folds,
        protocol or ("kfold" if is_list else "insightface"),
        loaded.identities,
        dropped=loaded.dropped,
        data_sets=(name, loaded.records or Path(path).stem),
        digests=functools.cache(lambda: digests.of_slices(loaded.images)),
    )
