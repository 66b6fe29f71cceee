"""Evaluation of augmenters: `fr-jax evaluate --augmenter`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from fr_jax.backend import sharding
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError, check_names
from fr_jax.evaluation import sets
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.results import finite, print_notes, write
from fr_jax.faces import sets as face_sets
from fr_jax.provenance import check_unseen
from fr_jax.system import check_kinds
from fr_jax.systems.fra import embeddings, faces, nearness, stored
from fr_jax.systems.fra.augmenter import Augmenter, check_embedder
from fr_jax.systems.fra.evaluator import AugmenterEvaluator, of_faces
from fr_jax.systems.fra.faces import EXACT, Faces
from fr_jax.systems.fra.inputs import as_trained
from fr_jax.training.data import Context

_RENDERED, _NUM_RENDERED = "rendered", 14
_OPTIONS = ("identities", "protocol", "classifiers", "repeats", "tuples")
# Training evaluates on unseen identities from FIRST_UNSEEN on; the command on others.
_FIRST = face_sets.FIRST_UNSEEN + (1 << 20)


def evaluate_augmenters(arguments: Any) -> None:
    """Evaluates the command's augmenters, with one embedder and one set.

    Raises:
      UserError: for augmenters of another embedder, and for unsuitable identities.
    """
    paths = [Path(path).resolve() for path in arguments.augmenter]
    labels = [path.parent.name for path in paths]
    if len(set(labels)) < len(labels):
        names = ", ".join(labels)
        raise UserError(f"--augmenter: two runs have the same name: {names}")
    given = _given(arguments.given)
    augmenters = [load_embedder(path) for path in paths]
    embedders = [as_trained(given["embedder"], one.provenance) for one in augmenters]
    for path, one, embedder in zip(paths, augmenters, embedders):
        if not _checked(path, one, embedder):
            print(
                f"note: {path} does not state its embedder; that it is the given one "
                "is not checked"
            )
    if len(arguments.set) > 1:
        raise UserError("--set: an augmenter takes one set at a time")
    text = (arguments.set or [f"unseen={_RENDERED}"])[0]
    _, source, options = sets.split(text, _OPTIONS)
    context = Context(sharding.make_mesh(), pretrained=given)
    target = epath.Path(arguments.to)
    for label, path, one, embedder in zip(labels, paths, augmenters, embedders):
        evaluator = _evaluator(path, one, embedder, source, options, context)
        results, notes = finite(evaluator(Trained(one.embed_raw, {"augmenter": one})))
        folder = target if len(labels) == 1 else target / label
        write(folder / "results.json", results, notes)
        for name in results:
            if "@pose" not in name and "_low:" not in name and "_high:" not in name:
                print(f"{name:<48} {_text(name, results)}")
        print_notes(notes)
        print(f"results: {folder / 'results.json'}")
        for path in evaluator.draw(folder / "figures"):
            print(f"figure: {path}")


def _text(name: str, results: Mapping[str, float]) -> str:
    """Returns a value with its interval, if it has one."""
    start, colon, end = name.partition(":")
    low, high = (results.get(f"{start}_{x}{colon}{end}") for x in ("low", "high"))
    if low is None or high is None:
        return f"{results[name]:8.4f}"
    return f"{results[name]:8.4f}  ({low:.4f} to {high:.4f})"


def _given(texts: list[str]) -> dict[str, Embedder]:
    """Returns the networks of --given embedder=EMBEDDER, landmarks=REGRESSOR."""
    parts = (text.partition("=") for text in texts)
    given = {name: path for name, _, path in parts}
    if not given.get("embedder"):
        raise UserError(
            "--augmenter needs the face embedder that it was trained with: --given "
            "embedder=EMBEDDER"
        )
    check_names("network of --given", given, ("embedder", "landmarks"))
    networks = {name: load_embedder(path) for name, path in given.items()}
    kinds = {"embedder": ["embedding"], "landmarks": ["landmarks"]}
    check_kinds({name: one.network for name, one in networks.items()}, kinds)
    return networks


def _checked(path: Path, augmenter: Embedder, embedder: Embedder) -> bool:
    try:
        return check_embedder(Augmenter(augmenter), embedder)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _evaluator(
    path: Path,
    augmenter: Embedder,
    embedder: Embedder,
    source: str,
    options: Mapping[str, str],
    context: Context,
) -> AugmenterEvaluator:
    """Returns the evaluator of an augmenter, on the images of --set."""
    about = augmenter.provenance
    counts = {"repeats": 5, "tuples": 10_000}
    for name, default in counts.items():
        text = options.get(name, str(default))
        if not text.isdecimal() or not int(text):
            raise UserError(f"--set: {name}={text}: give 1 or more")
        counts[name] = int(text)
    linear = nearness.load(path.parent / nearness.FILE)
    if linear is None:
        print(
            f"note: {path.parent / nearness.FILE} is missing; nearness is not compared "
            "with linear maps"
        )
    elif linear.embedder != (given := stored.identity(embedder)):
        raise UserError(
            f"{path.parent / nearness.FILE}: linear maps of embeddings of "
            f"{linear.embedder}; the given embedder is {given}"
        )
    return AugmenterEvaluator(
        lambda: _samples(about, embedder, source, options, context),
        lambda: linear,
        protocol=options.get("protocol", "clean"),
        classifiers=options.get("classifiers", "svm").split("+"),
        repeats=counts["repeats"],
        num_tuples=counts["tuples"],
        show_progress=True,
    )


def _samples(
    about: Mapping[str, Any],
    embedder: Embedder,
    source: str,
    options: Mapping[str, str],
    context: Context,
):
    found = _faces(about, embedder, source, options, context)
    if options.get("protocol", "clean") == "clean":
        remedy = "choose others with identities= of --set"
        trained = about.get("identities", {})
        check_unseen({found.name: found.identities}, trained, remedy)
    print(
        f"{len(found.identities):,} identities, {len(found):,} images, "
        f"{len(found.poses)} poses, {len(found.expressions)} expressions"
    )
    (vectors,) = embeddings.of_faces(embedder, [found], "", context)
    frame = about.get("landmark_frame", "aligned")
    faithful = about.get("faithful_landmarks", False)
    return of_faces(found, vectors, frame=frame, faithful=faithful)


def _faces(
    about: Mapping[str, Any],
    embedder: Embedder,
    source: str,
    options: Mapping[str, str],
    context: Context,
) -> Faces:
    if source == _RENDERED:
        if "landmarks" in context.pretrained:
            raise UserError(f"--given landmarks=: {EXACT}")
        count = options.get("identities", str(_NUM_RENDERED))
        if not count.isdecimal() or int(count) < 2:
            raise UserError(f"--set: rendered identities={count}: give 2 or more")
        size = embedder.network.input_spec.size
        return faces.rendered(context, int(count), first=_FIRST, size=size)
    found, dropped = faces.of_records(
        source,
        context,
        identities=options.get("identities", ""),
        pose_step=about.get("pose_step", 15.0),
    )
    for reason, count in dropped.items():
        print(f"dropped: {count:,} {reason}")
    return found
