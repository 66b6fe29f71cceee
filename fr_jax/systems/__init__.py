"""Published methods: one package each, with `make(...) -> System` and `load`."""

import importlib
import pkgutil
from types import ModuleType

from fr_jax.errors import UserError, unknown


def names() -> list[str]:
    """Returns the names of the methods in this package."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load(name: str) -> ModuleType:
    """Returns the package of a method.

    Args:
      name: one of `names()`, or an importable name such as 'my_package.my_method'.

    Raises:
      UserError: if there is no such package, or it lacks `make` or `load`.
    """
    target = f"{__name__}.{name}" if name in names() else name
    try:
        method = importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target}.".startswith(f"{error.name}."):
            raise  # an import within the package failed
        raise UserError(
            f"{unknown('system', name, names())}; a package of your own must be "
            "importable from the folder of the --config file"
        ) from None
    for part in ("make", "load"):
        if not callable(getattr(method, part, None)):
            raise UserError(f"system {name!r} has no function {part}()")
    return method
