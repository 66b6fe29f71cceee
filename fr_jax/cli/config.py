"""Configurations: load a file, override its keys, compare it with a stored run."""

import ast
import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import configs
from fr_jax.cli.renamed import RENAMED
from fr_jax.errors import UserError, check_names, check_options, unknown

# Keys that may change when a run resumes: they do not affect the trained weights.
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
# They do where evaluations lower the learning rate or stop the run.
_STEERING = ("train.evaluate_every", "evaluation")


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the locked configuration of `FILE[:VARIANT]`, its keys overridden.

    Raises:
      UserError: for a missing file, an unknown variant, an unknown or renamed key, and
        a value whose type differs from the default's.
    """
    path, _, variant = spec.partition(":")
    module = _module(path, spec)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: defines no get_config(variant)")
    variants = getattr(module, "VARIANTS", None)
    if variants and variant:
        check_names(f"variant of {path}", [variant], variants)
    config = module.get_config(variant) if variant else module.get_config()
    config.lock()
    for key, text in overrides:
        _put(config, key, text)
    return config


def packaged() -> list[str]:
    """Returns the names of the packaged configurations."""
    return [info.name for info in pkgutil.iter_modules(configs.__path__)]


def _module(path: str, spec: str) -> ModuleType:
    """Returns the module of a packaged name, or of a file in an importable folder."""
    if path.isidentifier() and not Path(path).exists():
        check_names("packaged configuration", [path], packaged())
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
      UserError: for an option that `make` does not take, or that is in `known`.
    """
    for option in options:
        if option in known:
            raise UserError(f"config.system.{option} follows from the data: remove it")
    check_options(f"system {name}", make, {**options, **known})
    return make(**options.to_dict(), **known)


def check_claim(workdir: epath.Path, config: ConfigDict, *, steered: bool) -> None:
    """Raises a UserError if `workdir` has checkpoints of another configuration.

    `steered`: evaluations lower the learning rate or stop the run.
    """
    if not _has_run(workdir):
        return
    if lines := differences(config, workdir / "config.json", steered):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UserError(
            f"{workdir} holds a run of another configuration "
            f"({'; '.join(lines[:5])}{more}); choose another --workdir"
        )


def claim(workdir: epath.Path, config: ConfigDict) -> None:
    """Writes config.json atomically, unless `workdir` has checkpoints already."""
    if jax.process_index() == 0 and not _has_run(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        part = workdir / "config.json.part"
        part.write_text(to_json(config))
        part.replace(workdir / "config.json")


def _has_run(workdir: epath.Path) -> bool:
    return all((workdir / name).exists() for name in ("config.json", "checkpoints"))


def _put(config: ConfigDict, key: str, text: str) -> None:
    default: Any = config
    walked = "--config"
    for name in key.split("."):
        node = default
        names = list(node) if isinstance(node, ConfigDict) else []
        if name not in names:
            if new := renamed(key, str(config.system_name)):
                raise UserError(f"--config.{key} was renamed: use --config.{new}")
            raise UserError(unknown(f"key of {walked}", name, names))
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
        example = default.to_dict() if isinstance(default, ConfigDict) else default
        raise UserError(
            f"--config.{key}={text}: expected {type(example).__name__}, as in "
            f"{example!r}, got {type(value).__name__}"
        )
    node[name] = value


def renamed(key: str, system_name: str) -> str:
    """Returns the new name of a key that was renamed, or that is below one; else ''."""
    above = [old for old in RENAMED if f"{key}.".startswith(f"{old}.")]
    old = max(above, key=len, default="")
    new = RENAMED.get(old, "")
    if isinstance(new, Mapping):
        new = new.get(system_name, "")
    return new and new + key.removeprefix(old)


def differences(
    config: ConfigDict, stored: epath.Path, steered: bool = False
) -> list[str]:
    """Returns a line per key, except `FREE`, whose value differs from a config.json.

    An option that only one of the two has, and that is off, is no difference: versions
    of the program add and remove options.
    """
    try:
        before = flatten_dict(json.loads(stored.read_text()), sep=".")
    except ValueError as error:
        raise UserError(f"{stored}: damaged ({error})") from error
    now = flatten_dict(json.loads(to_json(config)), sep=".")
    free = [key for key in FREE if not (steered and key in _STEERING)]
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key, "absent"), now.get(key, "absent")
        if key in before and key in now:
            differs = old != new
        else:
            differs = before.get(key) or now.get(key)
        if differs and not any(f"{key}.".startswith(f"{one}.") for one in free):
            lines.append(f"{key}: {old!r} before, {new!r} now")
    return lines


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=1)
