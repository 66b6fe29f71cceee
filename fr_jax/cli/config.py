"""Configurations: load a file, override keys, compare with the one of a stored run."""

import ast
import importlib
import json
import pkgutil
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import configs
from fr_jax.cli.renamed import RENAMED
from fr_jax.errors import UserError, check_names, check_options, unknown

# Keys that may change when a run resumes, since they do not affect the weights.
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
# These do if evaluations lower the learning rate or stop the run.
_STEERING = ("train.evaluate_every", "evaluation")
# Types of a default and of its new value -> conversion of the value.
_CONVERT = {(float, int): float, (tuple, list): tuple, (ConfigDict, dict): ConfigDict}


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the locked configuration of `FILE[:VARIANT]` with overridden keys.

    Raises:
      UserError: for a missing file, an unknown variant, an unknown or renamed key, and
        a value whose type differs from the default's.
    """
    path, _, variant = spec.partition(":")
    names = _names(path, spec)
    if "get_config" not in names:
        raise UserError(f"{path}: defines no get_config(variant)")
    if variant and names.get("VARIANTS"):
        check_names(f"variant of {path}", [variant], names["VARIANTS"])
    get_config = names["get_config"]
    config = get_config(variant) if variant else get_config()
    config.lock()
    for key, text in overrides:
        _put(config, key, text)
    return config


def packaged() -> list[str]:
    """Returns the names of the packaged configurations."""
    return [info.name for info in pkgutil.iter_modules(configs.__path__)]


def _names(path: str, spec: str) -> dict[str, Any]:
    """Returns the names defined by a packaged configuration or by a Python file.

    The file can import modules of its folder.
    """
    if path.isidentifier() and not Path(path).exists():
        check_names("packaged configuration", [path], packaged())
        return vars(importlib.import_module(f"{configs.__name__}.{path}"))
    if not Path(path).is_file():
        hint, name = "", Path(path).stem
        if name in packaged():
            hint = f"; use the packaged --config={name}{spec.removeprefix(path)}"
        raise UserError(f"--config={spec}: no such file: {path}{hint}")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return runpy.run_path(path)


def call(
    name: str, make: Callable[..., Any], options: ConfigDict, derived: Mapping[str, Any]
) -> Any:
    """Returns make(**options, **derived) of the system `name`.

    Raises:
      UserError: for an option that `make` does not take, or that is in `derived`.
    """
    for option in options:
        if option in derived:
            raise UserError(f"config.system.{option} follows from the data: remove it")
    check_options(f"system {name}", make, {**options, **derived})
    return make(**options.to_dict(), **derived)


def check_claim(workdir: epath.Path, config: ConfigDict, *, steered: bool) -> None:
    """Raises a UserError if `workdir` has checkpoints of another configuration.

    Args:
      steered: whether evaluations lower the learning rate or stop the run.
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
    """Writes config.json atomically, unless `workdir` has checkpoints."""
    if jax.process_index() == 0 and not _has_run(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        part = workdir / "config.json.part"
        part.write_text(to_json(config))
        part.replace(workdir / "config.json")


def _has_run(workdir: epath.Path) -> bool:
    return all((workdir / name).exists() for name in ("config.json", "checkpoints"))


def _put(config: ConfigDict, key: str, text: str) -> None:
    """Sets a key to the value of a text, converted to the type of the default."""
    default: Any = config
    parent = "--config"
    for name in key.split("."):
        node = default
        names = list(node) if isinstance(node, ConfigDict) else []
        if name not in names:
            if new := renamed(key, str(config.system_name)):
                raise UserError(f"--config.{key} was renamed: use --config.{new}")
            raise UserError(unknown(f"key of {parent}", name, names))
        parent += f".{name}"
        default = node[name]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, str):
        value = text
    elif convert := _CONVERT.get((type(default), type(value))):
        value = convert(value)
    if default is not None and type(value) is not type(default):
        example = default.to_dict() if isinstance(default, ConfigDict) else default
        raise UserError(
            f"--config.{key}={text}: expected {type(example).__name__} (default: "
            f"{example!r}), got {type(value).__name__} {value!r}"
        )
    node[name] = value


def renamed(key: str, system_name: str) -> str:
    """Returns the new name of a key, if it or one of its parents was renamed; else ''.

    Some new names depend on the system.
    """
    parents = [old for old in RENAMED if f"{key}.".startswith(f"{old}.")]
    old = max(parents, key=len, default="")
    new = RENAMED.get(old, "")
    if isinstance(new, Mapping):
        new = new.get(system_name, "")
    return new and new + key.removeprefix(old)


def differences(
    config: ConfigDict, stored: epath.Path, steered: bool = False
) -> list[str]:
    """Returns a line per key, except `FREE`, whose value differs from a config.json.

    A key that only one of the two has counts only if its value is true, since versions
    of the program add and remove options.

    Raises:
      UserError: if the stored file is not JSON.
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
