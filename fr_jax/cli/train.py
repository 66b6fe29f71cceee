"""`fr-jax train`: configuration -> data, system, loop -> embedder, results, figures."""

import argparse
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from data_pipelines.protocols import identities
from fr_jax import provenance as lineage
from fr_jax import systems
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.cli.evaluate import judge_all
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError, unknown
from fr_jax.evaluation.sets import parse_set
from fr_jax.evaluation.verification import EvaluationSet, mark_seen
from fr_jax.faces import batches, pairs, sets
from fr_jax.optim import ema as momentum
from fr_jax.report import figures
from fr_jax.system import System, score
from fr_jax.systems.dr_gan import data as training_poses
from fr_jax.systems.usynthface import data as training_pairs
from fr_jax.systems.usynthface import figures as pair_figures
from fr_jax.training import loop as train
from fr_jax.training.streams import ArrayStream, GeneratedStream

_OF_A_STRANGER = 3  # images, for three genuine pairs
_STAND_INS = (
    "{} seeded people stood in for child identities: these figures say nothing of "
    "children"
)


class Data(NamedTuple):
    """What a run trains on, and what is to be known of it.

    `open` makes the stream, the sets to judge on and, if there is one, a stream of
    held-out people; drawn ones take their time, so it is called when all else is known
    to be right.
    """

    open: Callable[[], tuple[Any, ...]]
    facts: dict[str, Any]  # arguments of `make` that only the data can give
    provenance: dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """Trains as asked; returns the exit code."""
    config = configs.load(arguments.config, arguments.overrides)
    workdir = epath.Path(arguments.workdir)
    _check_claim(workdir, config)
    mesh = sharding.make_mesh(model=config.train.model_axis)
    paired = "pairing" in config.data
    sources = training_pairs.SOURCES if paired else _SOURCES
    sources = training_poses.SOURCES if "angles" in config.data else sources
    if config.data.source not in sources:
        raise UserError(unknown("data source", config.data.source, sources))
    data = Data(*sources[config.data.source](config, mesh))
    options = config.train
    spe = data.facts["steps_per_epoch"]
    steps = options.num_steps or round(options.epochs * spe)
    if steps < 1:
        raise UserError(
            f"{steps:,} steps of training: give --config.train.epochs or "
            "--config.train.num_steps, above 0"
        )
    given = dict(arguments.given)
    if arguments.init_from:
        given["init"] = arguments.init_from
    embedders = {name: load_embedder(path) for name, path in given.items()}
    networks = {name: embedder.network for name, embedder in embedders.items()}
    origins = {name: embedder.provenance for name, embedder in embedders.items()}
    provenance = lineage.inherited(data.provenance, origins)
    facts = data.facts | {"epochs": steps / spe}
    facts["given_networks"] = {k: n._replace(variables=()) for k, n in networks.items()}
    system = _system(config, facts)
    if jax.process_index() == 0:
        _describe(config, data, mesh, steps)
    stream, evaluation_sets, *validation = data.open()
    people = provenance["people"]  # of the networks given too
    evaluation_sets = [mark_seen(one, people) for one in evaluation_sets]
    watched = evaluation_sets if options.evaluate_every else []
    if subset := config.evaluation.subset:
        watched = [evaluation_set.first(subset) for evaluation_set in watched]
    if watched and (watch := data.facts.get("watch")):
        score(train.foreseen(watched), watch, "metric to select by")
    _claim(workdir, config)
    # Each of several processes holds a part of the pairs alone: they draw none.
    pictures = paired and jax.process_count() == 1
    policy = data.facts.get("augmentation", ())
    if pictures:
        for path in pair_figures.before(config, stream, policy, workdir / "figures"):
            _say(f"figure: {path}")
    result = train.train(
        system,
        stream,
        workdir,
        num_steps=steps,
        seed=options.seed,
        mesh=mesh,
        given={name: network.variables for name, network in networks.items()},
        evaluation_sets=watched,
        validation=validation[0] if validation else None,
        log_every=options.log_every,
        evaluate_every=options.evaluate_every,
        save_every=options.save_every,
        keep=options.keep,
        best_metric=options.best_metric,
        guard=train.Guard() if options.guard else None,
        profile=tuple(options.profile) or None,
    )
    if result.interrupted:
        _say(f"saved step {result.step:,} and left; the same command goes on from it")
        return 143
    left = _hand_over(system, result, provenance, evaluation_sets, workdir)
    if pictures:
        embedder, folder = left["embedding"], workdir / "figures"
        path = pair_figures.after(config, embedder, stream, policy, folder)
        _say(f"figure: {path}")
    return 0


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line)


def _check_claim(workdir: epath.Path, config: ConfigDict) -> None:
    """Refuses a workdir in which another configuration has trained."""
    stored = workdir / "config.json"
    if not (stored.exists() and (workdir / "checkpoints").exists()):
        return
    if lines := configs.differences(config, stored):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UserError(
            f"{workdir} holds another configuration's run "
            f"({'; '.join(lines[:5])}{more}); choose another --workdir"
        )


def _claim(workdir: epath.Path, config: ConfigDict) -> None:
    """Writes config.json, as a whole or not at all, once everything is known to fit."""
    stored = workdir / "config.json"
    begun = stored.exists() and (workdir / "checkpoints").exists()
    if jax.process_index() == 0 and not begun:
        workdir.mkdir(parents=True, exist_ok=True)
        part = workdir / "config.json.part"
        part.write_text(configs.to_json(config))
        part.replace(stored)


def _records(config: ConfigDict, mesh: jax.sharding.Mesh) -> Data:
    """TFRecords of aligned faces, and the evaluation sets that are named."""
    from data_pipelines.stream import RecordStream  # needs TensorFlow

    options = config.data
    if not options.path:
        raise UserError("say where the records are: --config.data.path=DIR/NAME")
    stream = RecordStream(
        options.path,
        batch_size=options.batch_size,
        seed=config.train.seed,
        identities=options.identities or None,
        images_per_identity=options.images_per_identity,
        rows=sharding.local_rows(mesh, options.batch_size),
    )
    facts = {
        "num_classes": stream.num_classes,
        "steps_per_epoch": stream.num_examples / stream.batch_size,
        "child_classes": _children(config, stream),
        "unlabelled": stream.num_unlabelled,
    }
    trained = {stream.name: stream.identities}
    provenance = {"people": trained, "licences": {stream.name: stream.licence}}
    if count := config.children.stand_ins:
        provenance["note"] = _STAND_INS.format(count)
    sets = [parse_set(text) for text in config.evaluation.sets]
    return Data(lambda: (stream, sets), facts, provenance)


def _rendered(config: ConfigDict, mesh: jax.sharding.Mesh) -> Data:
    """Drawn people, each image made once and kept in memory."""
    options, seed, face_set = config.data, config.train.seed, _face_set(config)
    label, image = sets.rows(face_set, options.num_identities, options.num_images)
    age = sets.label(face_set, seed, label, image).codes.age
    young = np.bincount(label[age < config.children.age_below], minlength=label[-1] + 1)
    children = np.flatnonzero(young >= max(config.children.child_filter, 1))

    def stream():
        arrays = sets.arrays(
            face_set,
            seed=seed,
            people=options.num_identities,
            images=options.num_images,
            size=options.size,
            progress="drawing people" if jax.process_index() == 0 else "",
        )
        return ArrayStream(arrays, options.batch_size, seed=seed, mesh=mesh)

    return _of_nobody(config, stream, children)


def _generated(config: ConfigDict, mesh: jax.sharding.Mesh) -> Data:
    """Drawn people, every batch new: no image comes twice and none is kept."""
    options, seed = config.data, config.train.seed
    make_batch = batches.make(
        _face_set(config),
        options.num_identities,
        options.batch_size,
        seed=seed,
        images_per_identity=options.images_per_identity,
        size=options.size,
        mesh=mesh,
    )
    people = np.arange(options.num_identities)
    owners = sets.child_owners(seed, people, options.child_share)

    def stream():
        return GeneratedStream(make_batch, options.batch_size, seed=seed, mesh=mesh)

    return _of_nobody(config, stream, np.flatnonzero(owners))


def _face_set(config: ConfigDict) -> sets.FaceSet:
    options = config.data
    training_pairs.check_drawn(options)
    if options.child_share:
        return sets.ages(options.child_share, options.max_yaw)
    return sets.default(options.max_yaw)


def _of_nobody(
    config: ConfigDict, stream: Callable[[], Any], children: np.ndarray
) -> Data:
    """Data of drawn people, to be judged on others of the same kind."""
    options, seed = config.data, config.train.seed
    for name in ("age_file", "published", "stand_ins"):
        if config.children[name]:
            raise UserError(
                f"config.children.{name} is {config.children[name]!r}, for records; "
                "drawn people have ages: set config.data.child_share"
            )
    images = options.num_identities * options.num_images
    facts = {
        "num_classes": options.num_identities,
        "steps_per_epoch": images / options.batch_size,
        "child_classes": children.tolist(),
    }
    names = [sets.person_name(seed, n) for n in range(options.num_identities)]
    provenance = {"people": {"drawn": names}, "licences": {"drawn": "none needed"}}
    given = [parse_set(text) for text in config.evaluation.sets]
    pairs.number(seed, options.num_strangers, _OF_A_STRANGER)  # or says what is wrong

    def open_():
        drawn = pairs.draw(
            seed,
            people=options.num_strangers,
            images=_OF_A_STRANGER,
            face_set=sets.default(options.max_yaw),
            size=options.size,
            progress="drawing strangers" if jax.process_index() == 0 else "",
        )
        strangers = EvaluationSet("strangers", **drawn._asdict())
        return stream(), [strangers, *given]

    return Data(open_, facts, provenance)


# Drawn ones need no TensorFlow, and nothing is downloaded.
_SOURCES = {"records": _records, "rendered": _rendered, "generated": _generated}


def _children(config: ConfigDict, stream: Any) -> list[int]:
    """Classes of the child identities, from an age file or as seeded stand-ins."""
    options = config.children
    if options.published and options.published not in identities.PUBLISHED_CHILDREN:
        known = identities.PUBLISHED_CHILDREN
        raise UserError(unknown("config.children.published", options.published, known))
    if options.stand_ins:
        print(
            f"child identities: {options.stand_ins} of {stream.num_classes:,}, drawn "
            f"with seed {options.seed} as stand-ins; this set has no ages",
            file=sys.stderr,
        )
        return identities.seeded_labels(
            stream.num_classes, options.stand_ins, options.seed
        )
    if not options.age_file:
        if options.published:
            raise UserError(
                "the paper's child identities come from an age file: give "
                "--config.children.age_file=FILE, or train without children by "
                "--config.children.published=''"
            )
        return []
    labels = identities.child_labels(
        options.age_file, child_filter=options.child_filter, age_below=options.age_below
    )
    # By name: the number of a folder is not its place in sorted order.
    names = stream.identities
    place = {int(name): number for number, name in enumerate(names) if name.isdigit()}
    children = [place[label] for label in labels if label in place]
    counts = f"{len(labels):,} of {stream.num_classes:,}"
    if options.published:
        people, published = identities.PUBLISHED_CHILDREN[options.published]
        counts += f" (published for {options.published}: {published:,} of {people:,})"
        if len(labels) != published:
            counts += "\nwarning: not the published number; is it the same age file?"
    if len(children) < len(labels):
        counts += f"\nwarning: {len(labels) - len(children)} of them are not in the set"
    print(f"child identities: {counts}", file=sys.stderr)
    return children


def _system(config: ConfigDict, facts: dict[str, Any]) -> System:
    """The named system, made of its configuration and of what the data say."""
    known = [module.name for module in pkgutil.iter_modules(systems.__path__)]
    if config.system_name not in known:
        raise UserError(unknown("system", config.system_name, known))
    make = importlib.import_module(f"fr_jax.systems.{config.system_name}").make
    accepted = inspect.signature(make).parameters
    options = {k: _plain(v) for k, v in config.system.items()}
    for name in options:
        if name not in accepted:
            what = f"argument of {config.system_name}"
            raise UserError(unknown(what, name, accepted))
    if "num_classes" in accepted and facts.get("unlabelled"):
        raise UserError(
            f"{facts['unlabelled']:,} of the images have no label, which "
            f"{config.system_name} learns from; convert a folder of identities instead"
        )
    for name, value in facts.items():
        if name in options and options[name] != value:
            raise UserError(
                f"config.system.{name} is {options[name]}, the data have {value}; "
                "leave it out to take what the data have"
            )
        if name in accepted:
            options[name] = value
    system = make(**options)
    if config.train.get("ema_decay"):
        system = momentum.with_ema(system, config.train.ema_decay)
    return system


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _describe(config, data: Data, mesh, steps: int) -> None:
    shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    batch_size = config.data.batch_size
    rows = "pairs" if "pairing" in config.data else "images"
    print(
        f"{config.system_name}: {data.facts['num_classes']:,} people, "
        f"{round(data.facts['steps_per_epoch'] * batch_size):,} {rows} an epoch; "
        f"{steps:,} steps of {batch_size} on {mesh.size} {jax.default_backend()} "
        f"device(s) ({shape})",
        file=sys.stderr,
    )


def _hand_over(
    system, result, provenance, evaluation_sets, workdir
) -> dict[str, Embedder]:
    """Leaves the run's networks as embedders, judged on every set as a whole."""
    embedders = {}
    networks = system.hand_over(result.state) if system.hand_over else {}
    for kind, network in networks.items():
        variables = jax.tree.map(sharding.to_host, network.variables)
        origin = provenance | {"steps": result.step}
        if result.best:
            chosen = f"the step was chosen by {result.best['metric']}"
            notes = [note for note in (origin.get("note"), chosen) if note]
            origin |= {"best": result.best, "note": "; ".join(notes)}
        embedder = Embedder(network._replace(variables=variables), origin)
        embedders[kind] = embedder
        name = "embedder" if kind == "embedding" else f"embedder_{kind}"
        embedder.save(workdir / name)
        _say(f"{kind} network: {workdir / name}")
        if kind == "embedding" and evaluation_sets:
            judge_all(embedder, evaluation_sets, workdir)
    if jax.process_index() == 0:
        figures.training(workdir / "metrics.jsonl", workdir / "figures/training.png")
        for name in ("training", "roc", "cosines"):
            if (path := workdir / f"figures/{name}.png").exists():
                print(f"figure: {path}")
    return embedders
