"""What a method trains on: the interface between a paper's data and the loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from jax.sharding import Mesh

from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Evaluator
from fr_jax.provenance import Provenance


class Context(NamedTuple):
    """What is known before any data are opened.

    Attributes:
      pretrained: embedders by the name under which they enter the system.
      show_progress: False in all processes but one.
    """

    mesh: Mesh
    seed: int = 0
    pretrained: Mapping[str, Embedder] = {}
    show_progress: bool = True


class Stream(Protocol):
    """Batches as a pure function of the step.

    `batch_at` gives arrays with `batch_size` rows, or this process's NumPy rows of
    them. A stream of labelled identities states their number as `num_classes`; one
    whose rows are not images names them as `unit`, such as 'pairs'.
    """

    batch_size: int

    def batch_at(self, step: int) -> dict[str, Any]: ...


class Streams(NamedTuple):
    """Opened data.

    Attributes:
      validation: batches for `System.eval_step`.
      evaluators: run while training; `fr-jax train` adds fixed subsets of the final
        ones that have them.
      final_evaluators: run once, on what was handed over.
    """

    train: Stream
    validation: Stream | None = None
    evaluators: Sequence[Evaluator] = ()
    final_evaluators: Sequence[Evaluator] = ()


class TrainingData(NamedTuple):
    """The data of a run; `load(config.data, context)` of a paper returns it.

    Attributes:
      open: called last, since rendering takes minutes.
      arguments: keyword arguments of `make` that only the data determine.
      batch_size: rows of a training batch.
      epoch_steps: batches in an epoch.
      summary: such as '1,000 identities, 21,000 images an epoch'.
    """

    open: Callable[[], Streams]
    arguments: Mapping[str, Any]
    batch_size: int
    epoch_steps: float
    provenance: Provenance
    summary: str
