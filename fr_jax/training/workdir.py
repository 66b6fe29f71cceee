"""The folder of a run: held by one training, moved aside for a new one."""

import contextlib
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from fr_jax.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

_PREVIOUS = "previous-"
# Any of these shows that a folder holds a run.
_OF_A_RUN = ("checkpoints", "config.json", "metrics.jsonl")
# Not of a run: the lock; embeddings of the data, compared with them by every user.
_SHARED = ("lock", "embeddings.npz")


def holding(train: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function of `workdir`, which then holds that folder; see `held`."""

    @functools.wraps(train)
    def exclusive(*args: P.args, **options: P.kwargs) -> R:
        arguments = inspect.signature(train).bind(*args, **options).arguments
        with held(arguments["workdir"]):
            return train(*args, **options)

    return exclusive


@contextlib.contextmanager
def held(workdir: epath.PathLike) -> Iterator[None]:
    """A context in which no other training uses a folder; see `lock.exclusive`.

    Process 0 holds it for all processes of a run.

    Raises:
      UserError: in all processes, if another training holds the folder.
    """
    from data_pipelines import DataError, lock

    with contextlib.ExitStack() as stack:
        refusal = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock.exclusive(os.fspath(workdir)))
            except DataError as error:
                refusal = str(error)
        if refusal := of_first_process(refusal):
            raise UserError(refusal)
        yield


def set_aside(workdir: epath.PathLike) -> str:
    """Moves a run to the folder previous-N in its workdir; returns that, or ''.

    All contents are moved, except earlier runs and stored embeddings of the data. Only
    process 0 moves them; the others wait.
    """
    folder, moved = epath.Path(workdir), ""
    if jax.process_index() == 0 and any((folder / n).exists() for n in _OF_A_RUN):
        # Checkpoints first: if this is interrupted, what is left holds no run.
        names = sorted((p.name for p in folder.iterdir()), key="checkpoints".__ne__)
        number = 1
        while f"{_PREVIOUS}{number}" in names:
            number += 1
        target = folder / f"{_PREVIOUS}{number}"
        target.mkdir()
        for name in names:
            if name not in _SHARED and not name.startswith(_PREVIOUS):
                (folder / name).rename(target / name)
        moved = os.fspath(target)
    return of_first_process(moved)


def write_config(workdir: epath.PathLike, settings: Mapping[str, Any]) -> None:
    """Writes config.json atomically, unless it has these settings."""
    file = epath.Path(workdir) / "config.json"
    text = json.dumps(settings, indent=1)
    if jax.process_index() or (file.is_file() and file.read_bytes() == text.encode()):
        return
    part = file.with_name("config.json.part")
    part.write_text(text)
    part.replace(file)


def of_first_process(text: str) -> str:
    """Returns the text of process 0, in all processes."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(f"{text}\n".encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    data = multihost_utils.broadcast_one_to_all(np.resize(data, size))
    return bytes(np.asarray(data)).decode()[:-1]
