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
from typing import Any

import jax

from fr_jax import interrupt
from fr_jax.backend import cpu, sharding
from fr_jax.cli import config as configs
from fr_jax.errors import UserError


def add_arguments(parser: Any) -> None:
    parser.more_help = _packaged
    add = parser.add_argument
    text = "configuration file or packaged configuration; see below"
    add("--config", required=True, metavar="FILE[:VARIANT]", help=text)
    add("--workdir", required=True, help="folder of the run, local or gs://")
    given: Any = {"dest": "given", "action": "append", "default": []}
    text = "embedder whose weights initialise the network to be trained"
    add("--init-from", **given, type=_init, metavar="EMBEDDER", help=text)
    text = "use EMBEDDER as the pretrained network NAME of the system; may be repeated"
    add("--given", **given, type=_named, metavar="NAME=EMBEDDER", help=text)
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
    from etils import epath

    from fr_jax import systems
    from fr_jax.embedder import load_embedder
    from fr_jax.evaluation import sets
    from fr_jax.evaluation.verification import Verification
    from fr_jax.optim.ema import with_ema
    from fr_jax.provenance import inherit
    from fr_jax.training.checkpoint import check_layout
    from fr_jax.training.data import Context
    from fr_jax.training.loop import train
    from fr_jax.training.update import Guard, check_batch_size

    config: Any = configs.load(arguments.config, arguments.overrides)
    workdir, options = epath.Path(arguments.workdir), config.train
    check_layout(workdir / "checkpoints")
    given = dict(arguments.given)
    if len(given) < len(arguments.given):
        names = ", ".join(name for name, _ in arguments.given)
        raise UserError(f"--given and --init-from set a network twice: {names}")
    context = Context(
        mesh=sharding.make_mesh(model=options.model_axis),
        seed=options.seed,
        pretrained={name: load_embedder(path) for name, path in given.items()},
        show_progress=jax.process_index() == 0,
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
    derived = {
        "num_steps": num_steps,
        "steps_per_epoch": data.epoch_steps,
        "pretrained": {n: one._replace(variables=()) for n, one in networks.items()},
        **data.arguments,
    }
    system = configs.call(config.system_name, method.make, config.system, derived)
    configs.check_claim(workdir, config, steered=system.feedback is not None)
    if options.ema_decay:
        system = with_ema(system, options.ema_decay)
    check_batch_size(system.expects, data.batch_size)
    if system.feedback and not options.evaluate_every:
        raise UserError(
            "this system needs evaluations during training: set "
            "--config.train.evaluate_every"
        )
    pretrained = {name: one.provenance for name, one in context.pretrained.items()}
    provenance = inherit(data.provenance, pretrained)
    configured = [sets.parse(text) for text in config.evaluation.sets]
    shape = ", ".join(f"{name} {size}" for name, size in context.mesh.shape.items())
    _say(
        f"{config.system_name}: {data.summary}; {num_steps:,} steps, batch size "
        f"{data.batch_size}, {jax.default_backend()} devices: {shape}",
        sys.stderr,
    )
    streams = data.open()
    final = [
        one.mark_seen(provenance.identities) if isinstance(one, Verification) else one
        for one in (*streams.final_evaluators, *configured)
    ]
    evaluators: list[Any] = []
    if options.evaluate_every:  # fixed subsets of the final evaluators that have them
        count = config.evaluation.subset
        evaluators = [one.subset(count) for one in final if hasattr(one, "subset")]
        evaluators += streams.evaluators
    streams = streams._replace(evaluators=evaluators, final_evaluators=final)
    configs.claim(workdir, config)
    with streams:
        result = train(
            system,
            streams,
            workdir,
            num_steps=num_steps,
            mesh=context.mesh,
            given={name: network.variables for name, network in networks.items()},
            **{name: options[name] for name in _LOOP},
            guard=Guard() if options.guard else None,
            profile=tuple(options.profile) or None,
        )
        if result.interrupted:
            raise interrupt.Interrupted(
                signal.SIGTERM, interrupt.saved(result.step, workdir)
            )
        with interrupt.explained(interrupt.saved(result.step, workdir)):
            _hand_over(system, result, provenance, final, workdir)
    return 0


def _start_jax(arguments: argparse.Namespace) -> None:
    cpu.keep_freed_memory()
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


def _say(line: str, file=None) -> None:
    if jax.process_index() == 0:
        print(line, file=file)


def _hand_over(system, result, provenance, evaluators, workdir) -> None:
    """Saves the trained networks as embedders, evaluates them, and plots figures."""
    from fr_jax.embedder import Embedder
    from fr_jax.evaluation.results import evaluate_and_write
    from fr_jax.report import figures

    described = provenance.describe() | {"steps": result.step}
    if result.best:
        notes = [described.get("note"), f"step chosen by {result.best['metric']}"]
        note = "; ".join(filter(None, notes))
        described |= {"best": result.best, "note": note}
    embedders = {}
    for kind, network in system.hand_over(result.state).items():
        variables = jax.tree.map(sharding.to_host, network.variables)
        embedders[kind] = Embedder(network._replace(variables=variables), described)
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
