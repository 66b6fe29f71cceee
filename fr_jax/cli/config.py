"""Configuration files: loaded, overridden from the command line, compared."""

import ast
import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

import configs
from fr_jax.errors import UserError, check_names, check_options, unknown

# What may change between two parts of one run: it does not touch the numbers.
FREE = (
    "train.log_every",
    "train.save_every",
    "train.evaluate_every",
    "train.keep",
    "train.best_metric",
    "train.profile",
    "data.records.path",
    "evaluation",
)
# These do where an evaluation's accuracies lower the rate or stop the run.
_STEERING = ("train.evaluate_every", "evaluation")


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the locked config of `FILE[:variant]` with `(key, value)`s put in.

    Raises:
      UserError: for a missing file, an unknown variant or key (with the nearest one),
        and a value of another type than the default.
    """
    path, _, variant = spec.partition(":")
    module = _module(path, spec)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: defines no get_config(variant)")
    variants = getattr(module, "VARIANTS", None)
    if variants and variant and variant not in variants:
        raise UserError(unknown(f"{path}: variant", variant, variants))
    config = module.get_config(variant) if variant else module.get_config()
    config.lock()
    for key, text in overrides:
        _put(config, key, text)
    return config


def _module(path: str, spec: str) -> ModuleType:
    """The module of a file, whose folder may hold a system, or of a packaged name."""
    if path.isidentifier() and not Path(path).exists():
        names = [info.name for info in pkgutil.iter_modules(configs.__path__)]
        check_names(f"configuration in --config={spec}:", [path], names)
        return importlib.import_module(f"{configs.__name__}.{path}")
    if not Path(path).is_file():
        raise UserError(f"--config={spec}: no such file: {path}")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_spec = importlib.util.spec_from_file_location("fr_jax_config", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def call(
    name: str,
    make: Callable[..., Any],
    options: ConfigDict,
    known: Mapping[str, Any],
) -> Any:
    """Returns make(**options, **known) of the system `name`.

    Raises:
      UserError: for an option that `make` does not take, or that `known` decides.
    """
    for option in options:
        if option in known:
            raise UserError(
                f"config.system.{option} follows from the data: leave it out"
            )
    check_options(f"system {name}", make, {**options, **known})
    return make(**options.to_dict(), **known)


def check_claim(workdir: epath.Path, config: ConfigDict, *, steered: bool) -> None:
    """Refuses a workdir in which another configuration has trained.

    `steered` says that evaluations lower the rate or stop the run.
    """
    stored = workdir / "config.json"
    if not (stored.exists() and (workdir / "checkpoints").exists()):
        return
    if lines := differences(config, stored, steered):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UserError(
            f"{workdir} holds another configuration's run "
            f"({'; '.join(lines[:5])}{more}); choose another --workdir"
        )


def claim(workdir: epath.Path, config: ConfigDict) -> None:
    """Writes config.json, as a whole or not at all, once everything is known to fit."""
    stored = workdir / "config.json"
    begun = stored.exists() and (workdir / "checkpoints").exists()
    if jax.process_index() == 0 and not begun:
        workdir.mkdir(parents=True, exist_ok=True)
        part = workdir / "config.json.part"
        part.write_text(to_json(config))
        part.replace(stored)


def _put(config: ConfigDict, key: str, text: str) -> None:
    default: Any = config
    walked = "--config"
    for name in key.split("."):
        node = default
        known = list(node) if isinstance(node, ConfigDict) else []
        if name not in known:
            raise UserError(unknown(f"{walked} has no key", name, known))
        walked += f".{name}"
        default = node[name]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, str):
        value = text
    elif isinstance(default, float) and type(value) is int:
        value = float(value)
    elif isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    elif isinstance(default, ConfigDict) and isinstance(value, dict):
        value = ConfigDict(value)  # such as the options of another head
    if default is not None and type(value) is not type(default):
        known = default.to_dict() if isinstance(default, ConfigDict) else default
        raise UserError(
            f"--config.{key}={text}: {type(value).__name__} where "
            f"{type(known).__name__} is needed, as in {known!r}"
        )
    node[name] = value


def differences(
    config: ConfigDict, stored: epath.Path, steered: bool = False
) -> list[str]:
    """Returns a line for every key that differs from a config.json, FREE aside.

    An option that one of both does not know, and that is off in the other, is no
    difference: the program has learnt it, or lost it, since.
    """
    try:
        before = dict(_flat(json.loads(stored.read_text())))
    except ValueError as error:
        raise UserError(f"{stored}: damaged ({error})") from error
    now = dict(_flat(json.loads(to_json(config))))
    free = [key for key in FREE if not (steered and key in _STEERING)]
    lines = []
    for key in sorted(before.keys() | now.keys()):
        there, here = before.get(key, "absent"), now.get(key, "absent")
        if key in before and key in now:
            differs = there != here
        else:
            differs = before.get(key) or now.get(key)
        if differs and not any(f"{key}.".startswith(f"{one}.") for one in free):
            lines.append(f"{key}: {there!r} there, {here!r} now")
    return lines


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=1)


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, child in node.items():
        yield from _flat(child, f"{prefix}.{key}" if prefix else key)
