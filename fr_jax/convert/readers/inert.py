"""Objects beside the weights in a checkpoint: settings, counters, random states.

Classes of the standard library, of PyTorch and of other packages are replaced by inert
ones: never imported, never called. They matter only if a tensor depends on them.
"""

import builtins
import itertools
import re
import sys
from dataclasses import dataclass
from typing import Any

from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown
from fr_jax.convert.readers.torch_objects import NAMES, Part, Tensor

_MAX_NAME = 200
_SEARCHED = 20_000  # values of inert objects per file
_BUILTINS = ("builtins", "__builtin__")  # Python 3 and 2
# Names of the standard library, NumPy and PyTorch.
_INERT = re.compile(
    r"_codecs\.encode|collections\.(defaultdict|Counter|deque|namedtuple|ChainMap)"
    r"|(builtins|__builtin__)\.(list|dict|tuple|set|frozenset|bytearray|bytes|str"
    r"|unicode|bool|int|long|float|complex|slice|range|xrange|object|type)"
    r"|(copyreg|copy_reg)\.(_reconstructor|__newobj__)"
    r"|(argparse|datetime|decimal|enum|fractions|types|typing|uuid)\.[A-Za-z]+"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path"
    r"|functools\.partial|re\._compile|logging\.(getLogger|[A-Z]\w+)"
    r"|numpy\.(dtype|ndarray|(float|int|uint)\d+|bool_?)"
    r"|numpy\._?core\.(multiarray|numeric)\.(scalar|_reconstruct|_frombuffer)"
    r"|numpy\.random\._pickle\.__\w+_ctor|numpy\.random\.[\w.]+\.[A-Z]\w+"
    r"|torch\.(device|strided|Tensor|Generator)|torch\.[\w.]+\.[A-Z]\w+",
    re.ASCII,
)
_SYSTEM = sys.stdlib_module_names | {
    *("__builtin__", "commands", "copy_reg", "exceptions", "new", "numpy", "torch"),
    *("data_pipelines", "fr_jax", "pip", "pkg_resources", "setuptools"),
}
_MODULE = re.compile(r"\w+(\.\w+)*", re.ASCII)
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Z]\w*)*", re.ASCII)
# Nothing runs, but a file that reaches for these through another package is hostile.
_HOSTILE = _SYSTEM | set(dir(builtins)) | {"load", "loads", "popen", "spawn", "system"}


@dataclass
class Names:
    """The names in one file.

    Attributes:
      foreign: the first class of another package, or of torch.nn.
    """

    foreign: str = ""

    def find(self, module: str, name: str) -> Any:
        """Returns the replacement of a name in a pickle.

        Raises:
          Refusal: for a name that neither tensors nor settings need.
        """
        from data_pipelines.safe_pickle import InertClass

        if (module, name) in NAMES:
            return NAMES[module, name]
        if module in _BUILTINS and name == "getattr":
            return _attribute
        full = f"{module}.{name}"
        inert = "." not in name and _INERT.fullmatch(full)
        foreign = (
            _MODULE.fullmatch(module)
            and _CLASS.fullmatch(name)
            and (module == "__main__" or module.split(".")[0] not in _SYSTEM)
            and _HOSTILE.isdisjoint(name.split("."))
        )
        if len(full) > _MAX_NAME or not (inert or foreign):
            raise Refusal(_asks_for(full), remedy=RESAVE)
        if not inert or module.startswith("torch.nn."):
            self.foreign = self.foreign or full
        return InertClass(full)

    def reason(self) -> str:
        """Returns why a file with these names has no tensors by name."""
        if self.foreign.startswith("torch.nn."):
            return f"holds a whole module ({shown(self.foreign)})"
        return _asks_for(self.foreign) if self.foreign else "holds no tensors by name"


def _asks_for(name: str) -> str:
    return f"asks for {shown(name)}, which no state dict needs"


def _attribute(arguments: tuple) -> Any:
    """Replaces getattr, by which pickles reach nested classes and members of enums."""
    from data_pipelines.safe_pickle import InertClass

    match arguments:
        case (InertClass(owner), str(name)) if len(owner) + len(name) < _MAX_NAME:
            if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
                return InertClass(f"{owner}.{name}")
    raise Refusal(_asks_for("getattr"), remedy=RESAVE)


class TensorSearch:
    """Finds inert objects that hold tensors; the work per file is bounded."""

    def __init__(self):
        self._left = _SEARCHED

    def origin(self, value: Any) -> str:
        """Returns the class of an object made from, or with a state of, tensors.

        '' for other objects, and for data, subclasses of dict among them.
        """
        from data_pipelines.safe_pickle import Inert

        if not isinstance(value, Inert):
            return ""
        waiting = list(value.held)
        while waiting and self._left > 0:
            self._left -= 1
            node = waiting.pop()
            if isinstance(node, Tensor | Part):
                return value.origin.name
            if isinstance(node, Inert):
                waiting.extend(node.held[: self._left])
            if isinstance(node, dict):
                waiting.extend(itertools.islice(node.values(), self._left))
            elif type(node) in (list, tuple):
                waiting.extend(node[: self._left])
        return ""
