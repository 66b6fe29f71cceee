"""Checkpoints: asynchronous, verified, independent of the number of devices.

The only module that imports orbax. Orbax writes a step in the background and renames
its folder into place; then a manifest with the sha256 of every file is added. A step is
restored only if its files match its manifest.
"""

import concurrent.futures
import contextlib
import gc
import hashlib
import json
import logging as standard_logging
import math
import os
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
# Version of the contents of a step: 2 since fr_jax 0.2.0.
LAYOUT, _LAYOUT_FILE = "2", "layout"


def check_layout(directory: epath.PathLike) -> None:
    """Raises a UserError for checkpoints in the layout of an earlier version."""
    folder = epath.Path(directory)
    if not folder.exists() or (folder / _LAYOUT_FILE).exists():
        return
    if any(path.name.isdigit() for path in folder.iterdir()):
        raise UserError(
            f"{folder} was begun with fr_jax 0.1.0, whose checkpoints have another "
            "layout: finish it with that version, or choose another workdir"
        )


def _is_not_raised(record: standard_logging.LogRecord) -> bool:
    """False for errors in threads of orbax, which `Checkpoints` raises as well."""
    of_orbax = record.name == "asyncio" or "/orbax/" in record.pathname
    if not (of_orbax and record.exc_info and record.levelno >= standard_logging.ERROR):
        return True
    frames = traceback.walk_tb(record.exc_info[2])
    return not any("/orbax/" in frame.f_code.co_filename for frame, _ in frames)


class Checkpoints:
    """The checkpoints of one run, in `directory`.

    Args:
      keep: number of newest steps kept on disk.
      best: name of the score passed to `save`; the step with the highest score is kept
        as well. '' for no score.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int = 3, best: str = ""):
        path = os.fspath(directory)
        if "://" not in path:  # orbax refuses relative paths, but only when it writes
            path = os.path.abspath(path)
        self._directory = epath.Path(path)
        check_layout(self._directory)
        self._best = best
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if best:
            keep_best = checkpoint_managers.BestN(
                get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
            )
            policies.append(keep_best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=self._score if best else None,  # needed for scores to be written
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        if jax.process_index() == 0:
            (self._directory / _LAYOUT_FILE).write_text(LAYOUT)
        for name in "absl", "asyncio":  # asyncio logs pending writes when one fails
            standard_logging.getLogger(name).addFilter(_is_not_raised)
        self._unsealed: int | None = None  # the step being written, without a manifest
        self._sealer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._sealing: concurrent.futures.Future | None = None

    def _score(self, metrics: Mapping[str, float] | None) -> float:
        return (metrics or {}).get(self._best, -math.inf)

    def save(self, step: int, tree: PyTree, score: float = -math.inf):
        """Starts to write a step; waits only for the previous one.

        A step without a score is never the best. A step on disk is replaced.

        Raises:
          UserError: if this or an earlier step could not be written, such as on a full
            disk. Earlier steps are intact.
        """
        self.wait()
        with self._writing():
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.StandardSave(tree),
                metrics={self._best: score} if self._best else None,
                force=True,
            )
        self._unsealed = step

    def poll(self) -> None:
        """Starts to seal the step being written if orbax has finished it; cheap.

        Raises like `check`.
        """
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            self.check()
            self._start_sealing()

    def check(self) -> None:
        """Raises a UserError for an error in a background thread."""
        with self._writing():
            self._manager.check_for_errors()
            if self._sealing is not None and self._sealing.done():
                self._sealing.result()

    def wait(self) -> None:
        """Waits until all saved steps are on disk and sealed; raises like `check`."""
        with self._writing():
            self._manager.wait_until_finished()
        self.check()
        if self._unsealed is not None:
            self._start_sealing()
        with self._writing():
            if self._sealing is not None:
                self._sealing.result()

    def settle(self) -> None:
        """Seals the saved steps while another error is raised; ignores UserErrors.

        Does nothing with several processes: one that waits for the others may never
        return.
        """
        if jax.process_count() == 1:
            with contextlib.suppress(UserError):
                self.wait()

    def close(self) -> None:
        self.wait()
        self._sealer.shutdown()
        self._manager.close()

    def latest(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Returns the newest undamaged step and its tree, or None if there is none.

        `like` has the tree's shapes, types and shardings. Damaged steps are moved to
        the folder `damaged` next to the checkpoints, with a warning.

        Raises:
          UserError: if the step holds another tree.
        """
        for step in self._undamaged(sorted(self._manager.all_steps(), reverse=True)):
            return step, self._restore(step, like)
        return None

    def best(self, like: PyTree) -> tuple[int, float, PyTree] | None:
        """Returns the undamaged step with the highest score, the score and the tree.

        None if no step has a score. See `latest`.
        """
        steps = self._manager.all_steps()
        scores = {step: self._score(self._manager.metrics(step)) for step in steps}
        scored = [step for step in steps if scores[step] > -math.inf]
        for step in self._undamaged(sorted(scored, key=lambda n: (-scores[n], -n))):
            return step, scores[step], self._restore(step, like)
        return None

    def _undamaged(self, steps: Iterable[int]) -> Iterator[int]:
        """Yields the undamaged steps; moves the damaged steps before them away."""
        for step in steps:
            problem = self._problem(step) if jax.process_index() == 0 else ""
            if not multihost_utils.broadcast_one_to_all(np.bool(bool(problem))):
                yield step
                continue
            if jax.process_index() == 0:
                self._move_damaged(step, problem)
            multihost_utils.sync_global_devices(f"moved {step}")
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
            self._sealing = self._sealer.submit(self._seal, step)

    def _seal(self, step: int | None) -> None:
        folder = self._directory / str(step)
        digests = {name: _sha256(folder / name) for name in _files(folder)}
        (folder / MANIFEST).write_text(json.dumps(digests, indent=1))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # from orbax, its storage or the operating system
            self._unsealed = None  # never sealed, since orbax reports a failure once
            reason = " ".join(str(error).split())
            # Destroying the pending writes logs errors: do it now, not at exit.
            traceback.clear_frames(error.__traceback__)
            gc.collect()
            raise UserError(
                f"could not write to {self._directory}: {reason:.300}; earlier "
                "checkpoints are intact"
            ) from error

    def _problem(self, step: int) -> str:
        """Returns the damage of a step on disk; '' if there is none."""
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

    def _move_damaged(self, step: int, problem: str) -> None:
        target = self._directory.parent / "damaged" / str(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmtree()
        (self._directory / str(step)).rename(target)
        text = "checkpoint %d is damaged (%s): moved to %s, using the previous one"
        logging.warning(text, step, problem, target)


def _files(folder: epath.Path) -> list[str]:
    """Returns the relative names of all files below a folder except the manifest."""
    return sorted(
        str((parent / name).relative_to(folder))
        for parent, _, names in folder.walk()
        for name in names
        if name != MANIFEST
    )


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
