"""The walk from a command line to its first training step, file by file.

    python -m tests.support.walk

writes the tables of docs/architecture.md. Calls between the project's files are
recorded by `sys.setprofile`, in all threads, until the step has been traced. The
renderer of faces, which would take most of the time, is left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.support.paths import ROOT

FOLDERS = ("fr_jax", "data_pipelines", "configs")
DOCUMENT = ROOT / "docs/architecture.md"
# Fewer and smaller images: the files are the same.
_SMALL = {
    "inter_prototype": ["--config.data.rendered.num_identities=4"],
    "usynthface": [
        "--config.data.rendered.num_identities=8",
        "--config.data.batch_size=8",
    ],
    "dr_gan": ["--config.data.rendered.num_identities=4"],
}


class Call(NamedTuple):
    """The first call of a function from another file of the project.

    Attributes:
      caller, callee: files, relative to the project's root.
      function: qualified name, such as 'make.<locals>.train_step'.
      entry: the callee's file was not at work already, further up the stack.
    """

    caller: str
    callee: str
    function: str
    entry: bool


class _Recorder:
    """A profile function that keeps every first call between two files."""

    def __init__(self):
        self.calls: dict[Call, None] = {}
        self._files: dict[str, str] = {}

    def _file(self, path: str) -> str:
        if path not in self._files:
            inside = path.startswith(f"{ROOT}/")
            name = path[len(str(ROOT)) + 1 :] if inside else ""
            self._files[path] = name if name.partition("/")[0] in FOLDERS else ""
        return self._files[path]

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event != "call":
            return
        callee = self._file(frame.f_code.co_filename)
        if not callee or frame.f_code.co_name == "<module>":
            return
        back = frame.f_back
        while back is not None and not self._file(back.f_code.co_filename):
            back = back.f_back  # through JAX, TensorFlow or a thread's own frames
        caller = self._file(back.f_code.co_filename) if back else "argv"
        if caller == callee:
            return
        above = frame.f_back
        while above is not None and self._file(above.f_code.co_filename) != callee:
            above = above.f_back
        call = Call(caller, callee, frame.f_code.co_qualname, entry=above is None)
        self.calls[call] = None


class _FirstStep(Exception):
    """The step has been traced; nothing behind it is wanted."""


def record(arguments: Sequence[str]) -> list[Call]:
    """Returns the calls of `fr-jax train` with these arguments, in their order."""
    import numpy as np

    from fr_jax.cli.main import main
    from fr_jax.faces import sets
    from fr_jax.training.update import Update

    def blank(codes, *, mesh, size, **_):
        rows = len(codes.age)
        points = (np.zeros((rows, count, 2), np.float32) for count in (5, 68))
        return np.zeros((rows, size, size, 3), np.uint8), *points

    def first_step(*_):
        raise _FirstStep

    sets.render_rows, Update.compile = blank, first_step
    recorder = _Recorder()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        main(arguments)
    except _FirstStep:
        pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(recorder.calls)


def walk(system: str) -> list[Call]:
    """Returns the calls of a system's smoke variant, recorded in an own process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--config={system}:smoke", f"--workdir={folder}", *_SMALL[system]]
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.walk", "train", *arguments],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [Call(*call) for call in json.loads(done.stdout.splitlines()[-1])]


def table(calls: Sequence[Call]) -> list[str]:
    """Returns the lines of a Markdown table: each file where it is entered first."""
    lines = ["| | file | entered at | from |", "|---|---|---|---|"]
    seen: dict[str, None] = {}
    for call in calls:
        if call.callee not in seen:
            seen[call.callee] = None
            function = call.function.replace(".<locals>", "")
            lines.append(
                f"| {len(seen)} | {call.callee} | `{function}` | {call.caller} |"
            )
    return lines


def main() -> None:
    text = DOCUMENT.read_text()
    head = text.partition("<!-- walk -->")[0]
    lines = [head.rstrip(), "", "<!-- walk -->"]
    for system in _SMALL:
        lines += ["", f"### `fr-jax train --config={system}:smoke`", ""]
        lines += table(walk(system))
    DOCUMENT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(record(sys.argv[1:])))
    else:
        main()
