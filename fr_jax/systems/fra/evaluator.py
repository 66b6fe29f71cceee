"""The evaluator of a trained augmenter: classifiers, nearness and figures."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from fr_jax.embedder import Embedder
from fr_jax.errors import UserError, check_range
from fr_jax.evaluation.evaluator import Trained
from fr_jax.progress import progress_bar
from fr_jax.systems.fra import (
    embeddings,
    evaluation,
    figures,
    nearness,
    published,
    stored,
)
from fr_jax.systems.fra.augmenter import Augmenter
from fr_jax.systems.fra.evaluation import LABELS, OBJECTIVES, Outcomes, Samples
from fr_jax.systems.fra.faces import Faces
from fr_jax.systems.fra.nearness import LinearMaps
from fr_jax.systems.fra.tuples import Images, original
from fr_jax.training.data import Context

Array = np.ndarray
_SHOWN = 10  # landmark maps in a figure, identities in the t-SNE
_FITTED = 20_000  # training tuples that linear maps are learnt on


@dataclasses.dataclass(eq=False)
class AugmenterEvaluator:
    """Evaluates the augmenter of a run's networks.

    Args:
      samples: returns real embeddings with their labels; called once, when needed.
      linear: returns linear maps of the training tuples, a baseline; or None.
      protocol, classifiers: of `evaluation`; names.
      repeats: of protocol 'clean', with seeds from `seed` on.
      num_tuples: of protocol 'original', the first ones of the authors' enumeration.
      show_progress: show a bar, and the verdict on the baselines.

    Attributes:
      outcomes: of the first repetition of the last evaluation.
      cosines: of the last evaluation.
    """

    samples: Callable[[], Samples]
    linear: Callable[[], LinearMaps | None] = lambda: None
    _: dataclasses.KW_ONLY
    protocol: str = "clean"
    classifiers: Sequence[str] = ("svm",)
    repeats: int = 5
    num_tuples: int = 10_000
    seed: int = 0
    show_progress: bool = False
    outcomes: Outcomes = dataclasses.field(default_factory=dict, init=False)
    cosines: nearness.Cosines | None = dataclasses.field(default=None, init=False)
    _augmenter: Augmenter | None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        evaluation.check_protocol(self.protocol, self.classifiers)
        check_range("repeats", self.repeats, 1)
        self.samples = functools.cache(self.samples)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that do not depend on poses and baselines."""
        names = ["fra/cosine:generated", "fra/cosine:input", "fra/nearer:input"]
        for label in LABELS:
            for kind in self.classifiers:
                names.append(f"fra/{label}_gain:{kind}")
                accuracy = f"fra/{label}_accuracy:{kind}@objective="
                names += [f"{accuracy}{number}" for number in OBJECTIVES]
        return names

    def __call__(self, trained: Trained) -> dict[str, float]:
        """Returns the results of `evaluation` and of `nearness`."""
        self._augmenter = Augmenter(trained.networks["augmenter"])
        samples = self.samples()
        generate = self._generate(samples)
        repetitions = self._repetitions(samples, generate)
        self.outcomes = repetitions[0]
        compared = nearness.pairs(samples, self.seed)
        if not len(compared.target):
            raise UserError("no person has an expression in two poses to compare")
        self.cosines = nearness.measure(samples, compared, generate, self.linear())
        near = nearness.results(self.cosines, samples.names["pose"])
        if self.show_progress:
            for line in nearness.verdict(near):
                print(line, file=sys.stderr)
        return near | evaluation.results(repetitions)

    def draw(self, folder: epath.Path) -> list[epath.Path]:
        """Draws the figures of the last evaluation; returns their paths."""
        assert self._augmenter is not None and self.cosines is not None
        samples, kind, paths = self.samples(), self.classifiers[0], []

        def to(name: str) -> epath.Path:
            paths.append(folder / f"fra_{name}.png")
            return paths[-1]

        for label in LABELS:
            shown = {
                number: self.outcomes[label, kind, number]
                for number in OBJECTIVES
                if (label, kind, number) in self.outcomes
            }
            names = samples.names[label]
            for curve in ("roc", "precision_recall"):
                figures.curves(shown, names, to(f"{curve}_{label}"), kind=curve)
            figures.confusions(shown, names, to(f"confusion_{label}"))
        names = samples.names["pose"]
        figures.nearness(self.cosines.of(), self.cosines.pose, names, to("nearness"))
        rows = np.random.default_rng(self.seed).permutation(len(samples.maps))[:_SHOWN]
        maps = samples.maps[rows]
        figures.reconstructions(
            maps, self._augmenter.reconstruct(maps), to("reconstructions")
        )
        weights = self._augmenter.attention(samples.embedding[rows], maps)
        figures.attention(weights, to("attention"))
        self._draw_embeddings(samples, to("tsne"))
        return paths

    def _draw_embeddings(self, samples: Samples, path: epath.Path) -> None:
        """Draws real and generated embeddings of the first identities."""
        identity = samples.labels["identity"]
        rows = np.flatnonzero(np.isin(identity, np.unique(identity)[:_SHOWN]))
        rng = np.random.default_rng([self.seed, 34])
        tuples = evaluation.wanted(samples, rows, np.arange(len(identity)), rng)
        made = self._generate(samples)(tuples.input, tuples.picture)
        labels = {
            name: (
                samples.labels[name][rows],
                evaluation.classes_of(samples, name, tuples),
                samples.names[name],
            )
            for name in ("identity", "pose")
        }
        figures.tsne(samples.embedding[rows], made, labels, path, seed=self.seed)

    def _generate(self, samples: Samples) -> evaluation.Generate:
        assert self._augmenter is not None
        return functools.partial(
            self._augmenter.generate, samples.embedding, samples.maps
        )

    def _repetitions(
        self, samples: Samples, generate: evaluation.Generate
    ) -> list[Outcomes]:
        kinds = self.classifiers
        if self.protocol == "original":
            columns = (samples.labels[n] for n in ("identity", "expression", "pose"))
            tuples = original(Images(*columns), self.num_tuples)
            if not len(tuples.target):
                raise UserError("the images give no tuple to evaluate")
            return [published.original(samples, tuples, generate, kinds=kinds)]
        seeds = range(self.seed, self.seed + self.repeats)
        bar = progress_bar(
            seeds, "classifiers", disable=not self.show_progress, leave=False
        )
        return [evaluation.clean(samples, generate, seed, kinds=kinds) for seed in bar]


def of_faces(faces: Faces, vectors: Array, *, frame: str, faithful: bool) -> Samples:
    """Returns the samples of faces with their embeddings [N, D].

    Args:
      frame, faithful: as of `Faces.maps`.
    """
    return Samples(
        vectors,
        faces.maps(frame=frame, faithful=faithful),
        {"identity": faces.label, "pose": faces.pose, "expression": faces.expression},
        faces.session,
        {
            "identity": faces.identities,
            "pose": faces.poses,
            "expression": faces.expressions,
        },
    )


def check_options(options: Any) -> None:
    """Raises a UserError for unknown or unsuitable options of `config.evaluation`."""
    if options.protocol:
        evaluation.check_protocol(options.protocol, tuple(options.classifiers))
    check_range("config.data.evaluation.repeats", options.repeats, 1)


def of_run(
    config: Any,
    context: Context,
    embedder: Embedder,
    train: Faces,
    vectors: Array,
    stream: Any,
    held_out: Callable[[], Faces] | None,
) -> list[AugmenterEvaluator]:
    """Returns the evaluator of a run's augmenter; [] if `evaluation.protocol` is ''.

    Evaluated are held-out persons; if there are none, with protocol 'original' the
    training images, as published, and otherwise nothing. Linear maps are learnt on the
    first training tuples and stored in WORKDIR/linear_maps.npz.

    Args:
      train, vectors, stream: faces, their embeddings [N, D], and tuples of training.
      held_out: returns the faces of held-out persons; None if there are none.
    """
    options = config.evaluation
    if not options.protocol or (held_out is None and options.protocol != "original"):
        return []
    drawn = {"frame": config.landmark_frame, "faithful": config.faithful_landmarks}

    def samples() -> Samples:
        if held_out is None:
            return of_faces(train, vectors, **drawn)
        faces = held_out()
        (embedded,) = embeddings.of_faces(embedder, [faces], "", context)
        return of_faces(faces, embedded, **drawn)

    def linear() -> LinearMaps:
        maps = of_training(stream, train, vectors, stored.identity(embedder))
        if context.workdir and jax.process_index() == 0:
            maps.save(epath.Path(context.workdir) / nearness.FILE)
        return maps

    return [
        AugmenterEvaluator(
            samples,
            linear,
            protocol=options.protocol,
            classifiers=tuple(options.classifiers),
            repeats=options.repeats,
            num_tuples=config.num_tuples,
            seed=context.seed,
            show_progress=context.show_progress,
        )
    ]


def of_training(stream: Any, train: Faces, vectors: Array, embedder: str) -> LinearMaps:
    """Returns linear maps of the first tuples that a run is trained on."""
    steps = range(-(-_FITTED // stream.batch_size))
    batches = [stream.numbers(step) for step in steps]
    given, target = (
        np.concatenate([batch[name] for batch in batches])
        for name in ("embedding", "target")
    )
    # A tuple of a list that is repeated counts once.
    distinct = np.unique(np.stack([given, target], axis=1), axis=0)
    given, target = distinct.T
    return nearness.fit(
        vectors[given],
        vectors[target],
        train.pose[target],
        train.label[target],
        train.poses,
        embedder,
    )
