"""What several papers share of opening data: records under a mesh, rendered sets."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_names, check_range
from fr_jax.evaluation.verification import Verification
from fr_jax.faces import pairs, sets
from fr_jax.provenance import RENDERED, Provenance, fingerprint
from fr_jax.training.data import Context, TrainingData

IMAGES_OF_UNSEEN = 3  # per identity, for three genuine pairs
Source = Callable[[Any, Context], TrainingData]


def load(config: Any, context: Context, sources: Mapping[str, Source]) -> TrainingData:
    """Returns the data of `config.source`.

    Raises:
      UserError: for a source that is not among `sources`, and a batch without rows.
    """
    check_names("data source", [config.source], sources)
    if config.batch_size < 1:
        raise UserError(
            f"a batch of {config.batch_size} rows: set config.data.batch_size to 1 or "
            "more"
        )
    return sources[config.source](config, context)


def open_records(path: str, context: Context, batch_size: int, **filters: Any) -> Any:
    """Returns a RecordStream that reads this process's rows of each batch.

    Args:
      filters: of `RecordStream`; empty ones are left out.

    Raises:
      UserError: where no path is given; DataError for what is wrong with the records.
    """
    from data_pipelines.stream import RecordStream  # loads TensorFlow

    if not path:
        raise UserError("give the records: --config.data.records.path=DIR/NAME")
    return RecordStream(
        path,
        batch_size=batch_size,
        seed=context.seed,
        rows=sharding.local_rows(context.mesh, batch_size),
        **{name: value for name, value in filters.items() if value},
    )


def records_provenance(
    name: str, identities: list[str], labels: np.ndarray, licence: str
) -> Provenance:
    """Returns the provenance of records: these identities of the data set `name`."""
    return Provenance(
        {name: identities},
        {name: licence},
        fingerprint=fingerprint(name, identities, np.asarray(labels).tolist()),
    )


def check_rendered(options: Any) -> None:
    """Raises a UserError for rendered faces that are too small or turned too far."""
    if options.size < 16:
        raise UserError(
            f"config.data.rendered.size is {options.size}; a face needs 16 pixels"
        )
    check_range("config.data.rendered.max_yaw", options.max_yaw, 0, 90)


def rendered_provenance(seed: int, num_identities: int, num_images: int) -> Provenance:
    """Returns the provenance of rendered identities, numbered from 0."""
    names = [sets.person_name(seed, number) for number in range(num_identities)]
    digest = fingerprint(RENDERED, names, [num_images])
    return Provenance({RENDERED: names}, {RENDERED: "none needed"}, fingerprint=digest)


def unseen_pairs(
    options: Any, context: Context, face_set: sets.FaceSet
) -> Callable[[], Verification]:
    """Returns a function that renders verification pairs of unseen identities.

    Raises:
      UserError: for a number of identities that do not make ten folds.
    """
    pairs.number(context.seed, options.num_unseen, IMAGES_OF_UNSEEN)

    def render() -> Verification:
        rendered = pairs.draw(
            context.seed,
            people=options.num_unseen,
            images=IMAGES_OF_UNSEEN,
            face_set=face_set,
            size=options.size,
            progress="rendering unseen identities" if context.show_progress else "",
        )
        return Verification("unseen", **rendered._asdict())

    return render


def progress(context: Context) -> str:
    """Returns the label of the progress bar of rendering a training set."""
    return "rendering faces" if context.show_progress else ""
