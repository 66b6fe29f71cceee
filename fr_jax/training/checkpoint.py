"""Checkpoints: asynchronous, verified, and fit for any number of devices.

The only file that names orbax. Orbax writes a step in the background and renames it
into place; then a manifest with the sha256 of every file is put beside it. Only a step
whose files agree with its manifest is ever restored.
"""

import contextlib
import gc
import hashlib
import json
import logging as standard_logging
import math
import os
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from fr_jax.errors import UserError

PyTree = Any

MANIFEST = "manifest.json"
# What a step holds: 2 since fr_jax 0.2.0.
LAYOUT, _LAYOUT_FILE, _LAST_OF_1 = "2", "layout", "0.1.0"


def check_layout(directory: epath.PathLike) -> None:
    """Raises a UserError for checkpoints of an earlier version's layout."""
    folder = epath.Path(directory)
    if not folder.exists() or (folder / _LAYOUT_FILE).exists():
        return
    if any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(
            f"{folder} was begun with fr_jax {_LAST_OF_1}, whose checkpoints have "
            "another layout: finish it with that version, or choose another workdir"
        )


def _is_no_echo(record: standard_logging.LogRecord) -> bool:
    """False of errors that orbax logs in its threads: `Checkpoints` raises them too."""
    there = record.name == "asyncio" or "/orbax/" in record.pathname
    if not (there and record.exc_info and record.levelno >= standard_logging.ERROR):
        return True
    frames = traceback.walk_tb(record.exc_info[2])
    return not any("/orbax/" in frame.f_code.co_filename for frame, _ in frames)


class Checkpoints:
    """The checkpoints of one run, in `directory`.

    Args:
      keep: how many of the latest steps stay on disk.
      best: what the scores handed to `save` are of; the step with the highest one stays
        as well. '' keeps none.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int = 3, best: str = ""):
        place = os.fspath(directory)
        if "://" not in place:  # orbax refuses relative paths, and only when it writes
            place = os.path.abspath(place)
        self._directory = epath.Path(place)
        check_layout(self._directory)
        self._best = best
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if best:
            of_best = checkpoint_managers.BestN(
                get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
            )
            policies.append(of_best)
        policy = checkpoint_managers.AnyPreservationPolicy(policies)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=self._score if best else None,  # or scores are not written
                cleanup_tmp_directories=True,
            ),
        )
        if jax.process_index() == 0:
            (self._directory / _LAYOUT_FILE).write_text(LAYOUT)
        for name in "absl", "asyncio":  # the latter of writes left over when one fails
            standard_logging.getLogger(name).addFilter(_is_no_echo)
        self._unsealed: int | None = None  # the step being written, no manifest yet
        self._sealer: threading.Thread | None = None
        self._failure: Exception | None = None

    def _score(self, metrics: Mapping[str, float] | None) -> float:
        return (metrics or {}).get(self._best, -math.inf)

    def save(self, step: int, tree: PyTree, score: float = -math.inf):
        """Starts to write a step; waits only for the one before it.

        A step without a score is never the best.

        Raises:
          UserError: where this or an earlier step could not be written, such as on a
            full disk. The steps before it are untouched.
        """
        self.wait()
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.StandardSave(tree),
                metrics={self._best: score} if self._best else None,
                force=True,
            )
        self._unsealed = step

    def poll(self) -> None:
        """Seals the step being written as soon as orbax is done with it; see `check`.

        Cheap.
        """
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            self.check()
            self._start_sealing()

    def check(self) -> None:
        """Raises a UserError if anything went wrong in the background."""
        with self._writing():
            self._manager.check_for_errors()
            if self._failure is not None:
                raise self._failure

    def wait(self) -> None:
        """Returns when everything handed in is on disk and sealed; raises if not."""
        with self._writing():
            self._manager.wait_until_finished()
        self.check()
        if self._unsealed is not None:
            self._start_sealing()
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None
        self.check()

    def settle(self) -> None:
        """On the way out of an error: seals what was handed in, as far as can be.

        Says nothing of what cannot. With several processes it leaves the step that
        is being written, since one process that waits for the others may wait for ever.
        """
        if jax.process_count() == 1:
            with contextlib.suppress(UserError):
                self.wait()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def latest(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Returns the newest undamaged step and its tree, or None where there is none.

        `like` has the tree's shapes, types and shardings. Damaged steps are moved to
        `damaged/` beside the checkpoints, and the log says so.

        Raises:
          UserError: where the step holds another tree.
        """
        for step in self._undamaged(sorted(self._manager.all_steps(), reverse=True)):
            return step, self._restore(step, like)
        return None

    def best(self, like: PyTree) -> tuple[int, float, PyTree] | None:
        """Returns the undamaged step of the highest score, the score and the tree.

        None where no step has one. See `latest`.
        """
        scores = {
            n: self._score(self._manager.metrics(n)) for n in self._manager.all_steps()
        }
        scored = [step for step, score in scores.items() if score > -math.inf]
        order = sorted(scored, key=lambda step: (scores[step], step), reverse=True)
        for step in self._undamaged(order):
            return step, scores[step], self._restore(step, like)
        return None

    def _undamaged(self, steps: Iterable[int]) -> Iterator[int]:
        """Yields the whole ones of `steps`; sets the damaged ones before them aside."""
        for step in steps:
            problem = self._problem(step) if jax.process_index() == 0 else ""
            damaged = multihost_utils.broadcast_one_to_all(np.bool(bool(problem)))
            if not damaged:
                yield step
                continue
            if jax.process_index() == 0:
                self._set_aside(step, problem)
            multihost_utils.sync_global_devices(f"set aside {step}")
            self._manager.reload()

    def _restore(self, step: int, like: PyTree) -> PyTree:
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._directory / str(step)} does not fit this configuration: "
                f"{str(error).splitlines()[0]:.300}"
            ) from error

    def _start_sealing(self) -> None:
        step, self._unsealed = self._unsealed, None
        if jax.process_index() == 0:
            self._sealer = threading.Thread(target=self._seal, args=(step,))
            self._sealer.start()

    def _seal(self, step: int) -> None:
        try:
            folder = self._directory / str(step)
            digests = {name: _sha256(folder / name) for name in _files(folder)}
            (folder / MANIFEST).write_text(json.dumps(digests, indent=1))
        except Exception as error:  # raised again in the main thread by check()
            self._failure = error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of orbax, its storage or the operating system
            self._unsealed = None  # nor shall it be: orbax tells of a failure once
            reason = " ".join(str(error).split())
            # Writes left over complain when they are let go of: now, not afterwards.
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            raise UserError(
                f"could not write to {self._directory}: {reason:.300}; the checkpoints "
                "before it are whole"
            ) from error

    def _problem(self, step: int) -> str:
        """What is wrong with a step on disk, or ''."""
        folder = self._directory / str(step)
        try:
            sealed = json.loads((folder / MANIFEST).read_text())
            present = set(_files(folder))
            for name in sorted(present ^ set(sealed)):
                return f"{name} {'is missing' if name in sealed else 'was added'}"
            for name, digest in sealed.items():
                if _sha256(folder / name) != digest:
                    return f"{name} was altered"
        except FileNotFoundError:
            return f"{MANIFEST} is missing, so it was not completely written"
        except (OSError, ValueError, AttributeError, TypeError) as error:
            return str(error)
        return ""

    def _set_aside(self, step: int, problem: str) -> None:
        place = self._directory.parent / "damaged" / str(step)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.rmtree()
        (self._directory / str(step)).rename(place)
        logging.warning(
            "checkpoint %d is damaged (%s): moved to %s, using the one before it",
            step,
            problem,
            place,
        )


def _files(folder: epath.Path) -> list[str]:
    """Relative names of all files below a folder but the manifest."""
    names, folders = [], [folder]
    while folders:
        for path in folders.pop().iterdir():
            if path.is_dir():
                folders.append(path)
            elif path.name != MANIFEST:
                names.append(str(path.relative_to(folder)))
    return sorted(names)


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
