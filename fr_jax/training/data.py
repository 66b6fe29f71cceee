"""Training data of a method: the interface between a paper's data and the loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jax.sharding import Mesh

from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Evaluator
from fr_jax.provenance import Provenance


class Context(NamedTuple):
    """Arguments of a run that are set before any data are opened.

    Attributes:
      pretrained: embedders, by the system's name for them.
      show_progress: True in process 0 only.
      workdir: folder of the run, for what follows from the data; '' stores nothing.
    """

    mesh: Mesh
    seed: int = 0
    pretrained: Mapping[str, Embedder] = {}
    show_progress: bool = True
    workdir: str = ""


class Stream(Protocol):
    """Batches as a pure function of the step.

    `batch_at` returns arrays with `batch_size` rows, or NumPy arrays with the rows of
    this process. Optional attributes: `num_classes`, the number of labelled identities;
    `extremes`, (lowest, highest) of columns of integers; `unit`, the name of a row if
    it is not an image, such as 'pairs'; `fingerprint()`,
    counts and digests of the data as JSON values, by name; `close()`, which ends
    threads and closes files.
    """

    batch_size: int

    def batch_at(self, step: int) -> dict[str, Any]: ...


class Streams(NamedTuple):
    """Opened data, a context manager: `close` closes the streams that have `close`.

    Attributes:
      validation: batches for `System.eval_step`.
      evaluators: run during training; `fr-jax train` adds fixed subsets of the final
        evaluators that have a method `subset`.
      final_evaluators: run once, on the networks that are handed over.
    """

    train: Stream
    validation: Stream | None = None
    evaluators: Sequence[Evaluator] = ()
    final_evaluators: Sequence[Evaluator] = ()

    def __enter__(self) -> "Streams":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads of the streams and closes their files."""
        for stream in (self.train, self.validation):
            if close := getattr(stream, "close", None):
                close()


class TrainingData(NamedTuple):
    """The data of a run, as `load(config.data, context)` of a paper returns them.

    Attributes:
      open: opens the streams; called last, since rendering takes minutes.
      arguments: keyword arguments of `make` that follow from the data.
      batch_size: rows per training batch.
      epoch_steps: batches per epoch.
      summary: such as '1,000 identities, 21,000 images an epoch'.
    """

    open: Callable[[], Streams]
    arguments: Mapping[str, Any]
    batch_size: int
    epoch_steps: float
    provenance: Provenance
    summary: str
