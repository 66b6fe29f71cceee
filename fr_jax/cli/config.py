"""Configurations: load a file, override keys."""

import ast
import importlib
import pkgutil
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import configs
from fr_jax.cli.renamed import RENAMED
from fr_jax.errors import UserError, check_names, check_options, unknown

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
