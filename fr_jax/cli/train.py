"""`fr-jax train`: train a system, or resume from the last checkpoint in WORKDIR.

--config=FILE:VARIANT is a configuration file and one of its variants; FILE can be the
NAME of a packaged configuration; the default variant is smoke. --config.KEY=VALUE
overrides a key and may be repeated. docs/ lists variants and keys; WORKDIR/config.json
stores those of a run.

Example:
    fr-jax train --config=inter_prototype:smoke --workdir=runs/smoke \\
        --config.train.num_steps=200
"""

import argparse
import importlib
import signal
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fr_jax import interrupt
from fr_jax.backend import cpu, sharding
from fr_jax.cli import config as configs
from fr_jax.cli.targets import check_writable
from fr_jax.errors import UserError


def add_arguments(parser: Any) -> None:
    parser.epilog += f"\n\n{_packaged()}"
    add = parser.add_argument
    text = "configuration file or packaged configuration; see below"
    add("--config", required=True, metavar="FILE[:VARIANT]", help=text)
    add("--workdir", required=True, help="folder of the run, local or gs://")
    given: Any = {"dest": "given", "action": "append", "default": []}
    text = "embedder whose weights initialise the network to be trained"
    add("--init-from", **given, type=_init, metavar="EMBEDDER", help=text)
    text = "use EMBEDDER as the pretrained network NAME of the system; may be repeated"
    add("--given", **given, type=_named, metavar="NAME=EMBEDDER", help=text)
    text = "move the run in WORKDIR to WORKDIR/previous-N and begin anew"
    add("--fresh", action="store_true", help=text)
    text = "go on with a larger train.epochs or train.num_steps than the run began with"
    add("--prolong", action="store_true", help=text)
    text = "keep compiled programs in this folder"
    add("--compilation-cache", default="", metavar="DIR", help=text)
    add("--distributed", action="store_true", help="train in several processes")
    for flag, metavar, kind, meaning in (
        ("--coordinator", "HOST:PORT", str, "address of process 0"),
        ("--num-processes", "N", int, "number of processes"),
        ("--process-id", "I", int, "index of this process, from 0"),
    ):
        text = f"with --distributed: {meaning}; default: from the cluster"
        add(flag, type=kind, metavar=metavar, help=text)


def _packaged() -> str:
    """Returns the packaged configurations and their variants as text."""
    texts = ["Packaged configurations, NAME: VARIANTS"]
    for name in configs.packaged():
        module = importlib.import_module(f"configs.{name}")
        text = f"{name}: {', '.join(module.VARIANTS)}"
        lines = textwrap.wrap(text, 80, subsequent_indent="    ")
        texts.append(textwrap.indent("\n".join(lines), "    "))
    return "\n".join(texts)


_NOTHING_LOST = "interrupted before the next step; the same call starts again"
# Arguments of the loop with equal names in `config.train`.
_LOOP = ("seed", "log_every", "evaluate_every", "save_every", "keep", "best_metric")


def run(arguments: argparse.Namespace) -> int:
    """Trains a system; returns the exit code."""
    interrupt.nothing_to_lose(_NOTHING_LOST)
    _start_jax(arguments)
    from fr_jax.training.workdir import held

    check_writable("--workdir", arguments.workdir)
    with held(arguments.workdir):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from etils import epath

    from fr_jax import systems
    from fr_jax.embedder import load_embedder
    from fr_jax.optim.ema import with_ema
    from fr_jax.provenance import inherit
    from fr_jax.training import identity as identities
    from fr_jax.training import step_files
    from fr_jax.training.batch_checks import check_batch_size
    from fr_jax.training.data import Context
    from fr_jax.training.digests import of_weights
    from fr_jax.training.guard import Guard
    from fr_jax.training.loop import check_settings, train

    config: Any = configs.load(arguments.config, arguments.overrides)
    workdir, options = epath.Path(arguments.workdir), config.train
    loop = {name: options[name] for name in _LOOP}
    check_settings(**loop)
    stored = None
    if not arguments.fresh:
        step_files.check_layout(workdir / "checkpoints")
        stored = step_files.stored_identity(workdir / "checkpoints")
    if arguments.prolong and stored is None:
        reason = "--fresh begins anew" if arguments.fresh else "it holds no run"
        raise UserError(f"--prolong: nothing to go on with in {workdir}: {reason}")
    given = dict(arguments.given)
    if len(given) < len(arguments.given):
        names = ", ".join(name for name, _ in arguments.given)
        raise UserError(f"--given and --init-from set a network twice: {names}")
    context = Context(
        mesh=sharding.make_mesh(model=options.model_axis),
        seed=options.seed,
        pretrained={name: load_embedder(path) for name, path in given.items()},
        show_progress=jax.process_index() == 0,
        workdir=str(workdir),
    )

    method = systems.load(config.system_name)
    data = method.load(config.data, context)
    num_steps = options.num_steps or round(options.epochs * data.epoch_steps)
    if num_steps < 1:
        raise UserError(
            f"{num_steps:,} steps of training: set --config.train.epochs or "
            "--config.train.num_steps above 0"
        )
    networks = {name: one.network for name, one in context.pretrained.items()}

    def make(num_steps):
        derived = {
            "num_steps": num_steps,
            "steps_per_epoch": data.epoch_steps,
            "pretrained": {
                n: one._replace(variables=()) for n, one in networks.items()
            },
            **data.arguments,
        }
        system = configs.call(config.system_name, method.make, config.system, derived)
        return with_ema(system, options.ema_decay) if options.ema_decay else system

    system = make(num_steps)
    check_batch_size(system.expects, data.batch_size)
    if system.feedback and not options.evaluate_every:
        raise UserError(
            "this system needs evaluations during training: set "
            "--config.train.evaluate_every"
        )
    pretrained = {name: one.provenance for name, one in context.pretrained.items()}
    digests = [one.digests for one in context.pretrained.values()]
    provenance = inherit(data.provenance, pretrained, digests)
    given = {name: network.variables for name, network in networks.items()}
    identity = identities.Identity(
        settings=config.to_dict(),
        data={"sets": data.provenance.fingerprint},
        given=of_weights(given),
        num_steps=num_steps,
        provenance=provenance.describe(),
    )
    prolongs = None
    if stored:  # known now; `train` compares the update as well
        steered = system.feedback is not None
        changes = {"steered": steered, "prolongs": arguments.prolong}
        identities.check(stored, identity, workdir, **changes)
        if arguments.prolong:
            prolongs = make(stored.num_steps)
            lengths = stored.num_steps, num_steps
            if line := _prolonged(config.system, *lengths, data.epoch_steps):
                _say(line, sys.stderr)
    configured = _configured_sets(config)
    shape = ", ".join(f"{name} {size}" for name, size in context.mesh.shape.items())
    _say(
        f"{config.system_name}: {data.summary}; {num_steps:,} steps, batch size "
        f"{data.batch_size}, {jax.default_backend()} devices: {shape}",
        sys.stderr,
    )
    streams = data.open()
    seen = (stored or identity).provenance.get("identities", {})
    final = [
        one.mark_seen(seen, provenance.digests) if hasattr(one, "mark_seen") else one
        for one in (*streams.final_evaluators, *configured)
    ]
    evaluators: list[Any] = []
    if options.evaluate_every:  # fixed subsets of the final evaluators
        count = config.evaluation.subset
        evaluators = [one.subset(count) for one in final if hasattr(one, "subset")]
        evaluators += streams.evaluators
    streams = streams._replace(evaluators=evaluators, final_evaluators=final)
    with streams:
        result = train(
            system,
            streams,
            workdir,
            num_steps=num_steps,
            mesh=context.mesh,
            given=given,
            **loop,
            guard=Guard() if options.guard else None,
            profile=tuple(options.profile) or None,
            identity=identity,
            fresh=arguments.fresh,
            prolongs=prolongs,
        )
        last = (result.best or {}).get("last_step", result.step)
        ended = interrupt.saved(last, workdir, fresh=arguments.fresh)
        if result.interrupted:
            raise interrupt.Interrupted(signal.SIGTERM, ended)
        with interrupt.explained(ended):
            _hand_over(system, result, provenance.digests, final, workdir)
    return 0


def _prolonged(options: Any, before: int, after: int, steps_per_epoch: float) -> str:
    """Returns what a longer run does to a schedule that ends with it; '' if none."""
    from fr_jax.optim.optimizers import rate_schedule

    chosen = options.to_dict().get("optimizer", {})
    kind, accumulate = chosen.get("schedule"), chosen.get("accumulate", 1)
    if kind not in ("cosine", "linear"):
        return ""
    shared = {
        "warmup_epochs": chosen.get("warmup_epochs", 0),
        "warmup_share": chosen.get("warmup_share", 0),
        "accumulate": accumulate,
        "steps_per_epoch": steps_per_epoch,
    }
    old, new = (
        np.asarray(
            rate_schedule(kind, 1.0, num_steps=n, **shared)(before // accumulate)
        )
        for n in (before, after)
    )
    return (
        f"schedule {kind!r} ends with the run: at step {before:,} the learning rate is "
        f"{new:.3g} of its highest instead of {old:.3g}"
    )


def _configured_sets(config: Any) -> list[Any]:
    """Returns the evaluators of `config.evaluation.sets`."""
    from fr_jax.evaluation import sets

    # The input of the network is known when it is handed over; an option until then.
    side = config.system.get("image_size")
    options = {
        "sides": () if side is None else (side,),
        "unaligned": config.evaluation.get("unaligned", False),
        "flag": "--config.evaluation.unaligned=True",
    }
    return [sets.parse(text, **options) for text in config.evaluation.sets]


def _start_jax(arguments: argparse.Namespace) -> None:
    cpu.keep_freed_memory()
    sys.unraisablehook = _without_late_writes(sys.unraisablehook)
    if arguments.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", arguments.compilation_cache)
    cluster = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.distributed:
        try:
            jax.distributed.initialize(*cluster)
            interrupt.record()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--distributed: {reason}; give --coordinator HOST:PORT, "
                "--num-processes N and --process-id I"
            ) from error
    elif any(flag is not None for flag in cluster):
        raise UserError(
            "--coordinator, --num-processes and --process-id need --distributed"
        )


def _without_late_writes(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    """Returns `sys.unraisablehook` without errors of writes after one that failed.

    If a disk is full, TensorStore prints a traceback for every array of a checkpoint,
    since orbax has closed its event loop; the first error is raised and reported.
    """

    def print_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return print_others


def _say(line: str, file=None) -> None:
    if jax.process_index() == 0:
        print(line, file=file)


def _hand_over(system, result, digests, evaluators, workdir) -> None:
    """Saves the trained networks as embedders, evaluates them, and plots figures."""
    from fr_jax.embedder import Embedder
    from fr_jax.evaluation.results import evaluate_and_write
    from fr_jax.report import figures

    described = {**result.identity.provenance, "steps": result.step}
    if result.best:
        notes = [described.get("note"), f"step chosen by {result.best['metric']}"]
        note = "; ".join(filter(None, notes))
        described |= {"best": result.best, "note": note}
    embedders = {}
    for kind, network in system.hand_over(result.state).items():
        variables = jax.tree.map(sharding.to_host, network.variables)
        network = network._replace(variables=variables)
        embedders[kind] = Embedder(network, described, digests=digests)
        name = "embedder" if kind == "embedding" else f"embedder_{kind}"
        embedders[kind].save(workdir / name)
        _say(f"{kind} network: {workdir / name}")
    if evaluators and embedders:
        evaluate_and_write(evaluators, embedders, workdir)
    if jax.process_index() == 0:
        figures.training(workdir / "metrics.jsonl", workdir / "figures/training.png")
        for name in ("training", "roc", "cosines"):
            if (path := workdir / f"figures/{name}.png").exists():
                print(f"figure: {path}")


def _init(path: str) -> tuple[str, str]:
    return "init", path


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=EMBEDDER, got {text!r}")
    return name, path
