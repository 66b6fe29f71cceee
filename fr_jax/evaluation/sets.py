"""Evaluation sets by name and path, the form of flags and configurations."""

import functools
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from fr_jax.errors import UserError, check_names
from fr_jax.evaluation import embedded, labelled_sets, template_sets
from fr_jax.evaluation.breakdown import Groups
from fr_jax.evaluation.embeddings import Rows, StoredEmbeddings
from fr_jax.evaluation.evaluator import Evaluator
from fr_jax.evaluation.protocols import PROTOCOLS
from fr_jax.evaluation.template_sets import SetText
from fr_jax.evaluation.verification import Verification
from fr_jax.metrics.verification import FARS
from fr_jax.report.measures import RATE
from fr_jax.report.runs import MAX_NAME

OPTIONS = (
    *("root", "protocol", "lag_mode", "missing", "identities", "far"),
    *("quality", "groups"),
)
_PATHS = ("root", "identities", "quality", "groups")
# Of other sets than pairs.
_OTHERS: dict[str, Callable[[SetText], Evaluator]] = {
    "ijb": template_sets.verification,
    "identification": labelled_sets.identification,
    "clustering": labelled_sets.clustering,
}
_THEIRS = (
    *("crop", "variant", "flip", "norm", "detector", "media"),
    *("gallery", "galleries", "search", "method", "threshold", "clusters"),
)


def split(text: str, options: tuple[str, ...]) -> tuple[str, str, dict[str, str]]:
    """Returns name, path and options of NAME=PATH[,OPTION=VALUE...].

    A comma that no `WORD=` follows is part of a path, as is one in an existing path.

    Raises:
      UserError: for another form, a name of more than 200 characters, or an option that
        is not in `options`.
    """
    name, equals, rest = text.partition("=")
    path, *parts = re.split(r",(?=\w+=)", rest)
    while parts and not Path(path).exists() and Path(f"{path},{parts[0]}").exists():
        path += f",{parts.pop(0)}"
    if not (name and equals and path):
        forms = "".join(f"[,{option}=...]" for option in options)
        raise UserError(f"--set {text}: expected NAME=PATH{forms}, as in lfw=lfw.bin")
    chosen = {key: value for key, _, value in (part.partition("=") for part in parts)}
    if len(name) > MAX_NAME:
        raise UserError(
            f"--set {name[:40]}...: a name of {len(name)} characters; use up to "
            f"{MAX_NAME}"
        )
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
    (default for lists without), 'paper', 'magface' and 'curricularface'; see
    `Verification`. `far` has the FARs of the TAR, as 1e-3+1e-4. `quality`, 'norm' or a
    file, and `groups`, a file, are read by `image_values`. 'ijb', 'identification' and
    'clustering' are in `template_sets` and `labelled_sets`. What was skipped or left
    out is printed.

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
    from data_pipelines.protocols import image_values, pairs

    name, path, options = split(text, (*OPTIONS, *_THEIRS))
    protocol = options.pop("protocol", None)
    if protocol is not None:
        valid = (*PROTOCOLS, *_OTHERS)
        check_names(f"protocol in --set {text}:", [protocol], valid)
    check = functools.partial(aligned.check, sides=sides, unless=flag)
    if protocol in _OTHERS:
        check = None if unaligned else check
        return _OTHERS[protocol](SetText(name, path, options, check, stored))
    check_names(f"option in --set {text}:", options, OPTIONS)
    fars = _fars(text, options.pop("far", "+".join(FARS)))
    check = None if unaligned else check
    find = stored.find if stored else None
    rated = options.pop("quality", None)
    grouped = options.pop("groups", None)
    loaded = pairs.load(path, **options, check=check, find=find)
    quality, groups = rated, None
    if rated not in (None, "norm"):
        quality = image_values.qualities(rated, loaded)
    if grouped is not None:
        groups = Groups.of(image_values.groups(grouped, loaded))
    images, of_images = loaded.images, lambda: digests.of_slices(loaded.images)
    if stored:
        images = Rows(loaded.images)  # type: ignore[arg-type]
        names = stored.columns.names[images.numbers].tolist()
        of_images = functools.partial(embedded.digests_of, names)
    for note in loaded.notes:
        print(f"{name}: {note}", file=sys.stderr)
    is_list = loaded.folds is None and not loaded.records
    source = _shown_source(path, options | _given(quality=rated, groups=grouped))
    if loaded.identities is not None and not loaded.records:
        source.setdefault("identities", "names of the images")
    return Verification(
        name,
        images,
        loaded.pairs,
        loaded.same,
        loaded.folds,
        protocol or ("kfold" if is_list else "insightface"),
        loaded.identities,
        dropped=loaded.dropped,
        data_sets=(name, loaded.records or Path(path).stem),
        digests=functools.cache(of_images),
        fars=fars,
        source=source,
        quality=quality,
        groups=groups,
    )


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _shown_source(path: str, options: Mapping[str, str]) -> dict[str, str]:
    """Returns the file and the options of a set, files and folders by name alone.

    Reports are shared, and whole paths say where their owners keep what.
    """
    names = {
        option: Path(value.removeprefix("@")).name
        if option in _PATHS and (Path(value).exists() or value.startswith("@"))
        else value
        for option, value in options.items()
    }
    return {"file": Path(path).name, **names}


def _fars(text: str, rates: str) -> tuple[str, ...]:
    """Returns the rates of A+B+..., as they are written."""
    fars = tuple(dict.fromkeys(rates.split("+")))
    for far in fars:
        if not re.fullmatch(RATE, far) or not 0 < float(far) < 1:
            raise UserError(
                f"--set {text}: far={rates}: {far!r} is no rate between 0 and 1; "
                "use far=1e-3, or several as far=1e-3+1e-4"
            )
    return fars
