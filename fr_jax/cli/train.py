"""`fr-jax train`: trains a system, from where WORKDIR left off."""

import argparse
import sys
from typing import Any

import jax

from fr_jax.backend import cpu, sharding
from fr_jax.errors import UserError


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="or NAME[:VARIANT] of a packaged one; then any --config.KEY=VALUE",
    )
    add("--workdir", required=True, help="folder of the run, local or gs://")
    add("--init-from", default="", metavar="EMBEDDER", help="start from these weights")
    add(
        "--given",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=EMBEDDER",
        help="pretrained networks that the system takes by name",
    )
    add(
        "--compilation-cache",
        default="",
        metavar="DIR",
        help="keep compiled programs here",
    )
    add("--distributed", action="store_true", help="one of several processes")
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="of --distributed, where the cluster does not tell",
    )
    add("--num-processes", type=int)
    add("--process-id", type=int)


# Of `config.train`, what the loop takes under the same name.
_PASSED = ("seed", "log_every", "evaluate_every", "save_every", "keep", "best_metric")


def run(arguments: argparse.Namespace) -> int:
    """Trains as asked; returns the exit code."""
    _start_jax(arguments)
    from etils import epath

    from fr_jax import systems
    from fr_jax.cli import config as configs
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
    named = list(arguments.given)
    if arguments.init_from:
        named.append(("init", arguments.init_from))
    given = dict(named)
    if len(given) < len(named):
        names = ", ".join(name for name, _ in named)
        raise UserError(f"--given and --init-from name a network twice: {names}")
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
            f"{num_steps:,} steps of training: give --config.train.epochs or "
            "--config.train.num_steps, above 0"
        )
    known = {"num_steps": num_steps, "steps_per_epoch": data.epoch_steps}
    known["pretrained"] = {
        name: embedder.network._replace(variables=())
        for name, embedder in context.pretrained.items()
    }
    known |= data.arguments
    system = configs.call(config.system_name, method.make, config.system, known)
    configs.check_claim(workdir, config, steered=system.feedback is not None)
    if options.ema_decay:
        system = with_ema(system, options.ema_decay)
    check_batch_size(system.expects, data.batch_size)
    if system.feedback and not options.evaluate_every:
        raise UserError(
            "the system is steered by evaluations, of which there are none: set "
            "config.train.evaluate_every"
        )
    origins = {name: one.provenance for name, one in context.pretrained.items()}
    provenance = inherit(data.provenance, origins)
    own_sets = [sets.parse(text) for text in config.evaluation.sets]
    _say(
        f"{config.system_name}: {data.summary}; {num_steps:,} steps of "
        f"{data.batch_size} on {_devices(context.mesh)}",
        sys.stderr,
    )
    streams = data.open()
    final = [
        one.mark_seen(provenance.identities) if isinstance(one, Verification) else one
        for one in (*streams.final_evaluators, *own_sets)
    ]
    streams = streams._replace(
        evaluators=[*_subsets(final, config.evaluation.subset), *streams.evaluators]
        if options.evaluate_every
        else (),
        final_evaluators=final,
    )
    configs.claim(workdir, config)
    result = train(
        system,
        streams,
        workdir,
        num_steps=num_steps,
        mesh=context.mesh,
        given={name: one.network.variables for name, one in context.pretrained.items()},
        **{name: options[name] for name in _PASSED},
        guard=Guard() if options.guard else None,
        profile=tuple(options.profile) or None,
    )
    if result.interrupted:
        _say(f"saved step {result.step:,} and left; the same command resumes from it")
        return 143
    _hand_over(system, result, provenance, streams.final_evaluators, workdir)
    return 0


def _start_jax(arguments: argparse.Namespace) -> None:
    cpu.keep_freed_memory()
    if arguments.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", arguments.compilation_cache)
    asked = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.distributed:
        try:
            jax.distributed.initialize(*asked)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--distributed: {reason}; give --coordinator HOST:PORT, "
                "--num-processes N and --process-id I"
            ) from error
    elif any(flag is not None for flag in asked):
        raise UserError(
            "--coordinator, --num-processes and --process-id go with --distributed"
        )


def _say(line: str, file=None) -> None:
    if jax.process_index() == 0:
        print(line, file=file)


def _devices(mesh) -> str:
    shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return f"{mesh.size} {jax.default_backend()} device(s) ({shape})"


def _subsets(evaluators, count: int) -> list:
    """Fixed subsets of those evaluators that have them."""
    found = [getattr(evaluator, "subset", None) for evaluator in evaluators]
    return [subset(count) for subset in found if subset]


def _hand_over(system, result, provenance, evaluators, workdir) -> None:
    """Saves the run's networks as embedders, evaluates them, draws the run's curves."""
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


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=EMBEDDER")
    return name, path
