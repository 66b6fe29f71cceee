"""Checkpoints: asynchronous, verified, independent of the number of devices.

The only module that imports orbax. Orbax writes a step in the background and renames
its folder into place; then `run.json` with the identity of the run and the score of the
step, and a manifest with the sha256 of every file are added. A step is restored only if
its files match its manifest.
"""

import concurrent.futures
import contextlib
import gc
import logging as standard_logging
import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from fr_jax.errors import UserError
from fr_jax.system import PyTree
from fr_jax.training import step_files
from fr_jax.training.identity import Identity


def _is_not_raised(record: standard_logging.LogRecord) -> bool:
    """False for errors in threads of orbax, which `Checkpoints` raises as well."""
    of_orbax = record.name == "asyncio" or "/orbax/" in record.pathname
    if not (of_orbax and record.exc_info and record.levelno >= standard_logging.ERROR):
        return True
    frames = traceback.walk_tb(record.exc_info[2])
    return not any("/orbax/" in frame.f_code.co_filename for frame, _ in frames)


class _Within(NamedTuple):
    """Preserves steps less than `span` before the newest one, and the last before."""

    span: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any):
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        oldest = max(steps, default=0) - self.span
        first = max((step for step in steps if step <= oldest), default=0)
        return [step >= first for step in steps]


class Checkpoints:
    """The checkpoints of one run, in `directory`.

    Args:
      keep: number of newest steps kept on disk.
      best: name of the score passed to `save`; the step with the highest score is kept
        as well. '' for no score.
      span: kept as well are steps less than `span` before the newest one, and the last
        step before these.

    Attributes:
      identity: stored with every step that is saved.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep: int = 3,
        best: str = "",
        span: int = 0,
    ):
        path = os.fspath(directory)
        if "://" not in path:  # orbax refuses relative paths, but only when it writes
            path = os.path.abspath(path)
        self._directory = epath.Path(path)
        step_files.check_layout(self._directory)
        self.identity = Identity()
        # Scores are not left to orbax, which cannot open a folder with a damaged one.
        self._best, self._scores = best, dict[int, float]()
        for step in step_files.steps(self._directory):
            scores = step_files.read(self._directory / str(step)).get("scores", {})
            self._scores[step] = scores.get(best, -math.inf)
        kept = [_Kept(keep, self._scores), _Within(span)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        if jax.process_index() == 0:
            (self._directory / step_files.LAYOUT_FILE).write_text(step_files.LAYOUT)
        for name in "absl", "asyncio":  # asyncio logs pending writes when one fails
            standard_logging.getLogger(name).addFilter(_is_not_raised)
        self._unsealed: int | None = None  # the step being written, without a manifest
        self._sealer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._sealing: concurrent.futures.Future | None = None

    def save(self, step: int, tree: PyTree, score: float = -math.inf):
        """Starts to write a step; waits only for the previous one.

        A step without a score is never the best. A step on disk is replaced.

        Raises:
          UserError: if this or an earlier step could not be written, such as on a full
            disk. Earlier steps are intact.
        """
        self.wait()
        self._scores[step] = score
        with self._writing():
            self._manager.save(step, args=ocp.args.StandardSave(tree), force=True)
        self._unsealed = step

    def rescore(self, step: int, score: float) -> None:
        """Gives a saved step another score."""
        self.wait()
        self._scores[step] = score
        if jax.process_index() == 0:
            with self._writing():
                self._seal(step)

    def poll(self) -> None:
        """Starts to seal the step being written if orbax has finished it; cheap.

        Raises like `check`.
        """
        if self._unsealed is not None and not self._manager.is_saving_in_progress():
            with self._writing():  # `check_for_errors` misses those of the last thread
                self._manager.wait_until_finished()
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

    def latest(
        self, like: PyTree, check: Callable[[Identity], None] = lambda _: None
    ) -> tuple[int, PyTree] | None:
        """Returns the newest undamaged step and its tree, or None if there is none.

        `like` has the tree's shapes, types and shardings. Damaged steps are moved to
        the folder `damaged` next to the checkpoints, with a warning.

        Args:
          check: called with the stored identity of the step before it is restored.

        Raises:
          UserError: if the step holds another tree.
        """
        for step in self._undamaged(sorted(self._manager.all_steps(), reverse=True)):
            about = step_files.read(self._directory / str(step))
            check(Identity.from_json(about["identity"]))
            return step, self._restore(step, like)
        return None

    def discard_after(self, last: int) -> None:
        """Deletes the steps after `last`."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            if step > last:
                self._manager.delete(step)

    def best(self, like: PyTree) -> tuple[int, float, PyTree] | None:
        """Returns the undamaged step with the highest score, the score and the tree.

        None if no step has a score. See `latest`.
        """
        scores = self._scores
        steps = self._manager.all_steps()
        scored = [n for n in steps if scores.get(n, -math.inf) > -math.inf]
        for step in self._undamaged(sorted(scored, key=lambda n: (-scores[n], -n))):
            return step, scores[step], self._restore(step, like)
        return None

    def _undamaged(self, steps: Iterable[int]) -> Iterator[int]:
        """Yields the undamaged steps; moves the damaged steps before them away."""
        for step in steps:
            problem = ""
            if jax.process_index() == 0:
                problem = step_files.damage(self._directory / str(step))
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
        if jax.process_index() == 0 and step is not None:
            self._sealing = self._sealer.submit(self._seal, step)

    def _seal(self, step: int) -> None:
        score = self._scores[step]
        scores = {self._best: score} if score > -math.inf else {}
        step_files.seal(self._directory / str(step), self.identity, scores)

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

    def _move_damaged(self, step: int, problem: str) -> None:
        folder = self._directory.parent / "damaged"
        while folder.exists() and not folder.is_dir():  # a file of the user
            folder = folder.with_name(f"{folder.name}_steps")
        target = folder / str(step)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmtree()
        (self._directory / str(step)).rename(target)
        text = "checkpoint %d is damaged (%s): moved to %s, using the previous one"
        logging.warning(text, step, problem, target)


class _Kept(checkpoint_managers.PreservationPolicy):
    """Keeps the newest steps, and that with the highest score."""

    def __init__(self, newest: int, scores: Mapping[int, float]):
        self._newest, self._scores = newest, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any):
        steps = sorted(one.step for one in checkpoints)
        kept = set(steps[-self._newest :])
        scored = [n for n in steps if self._scores.get(n, -math.inf) > -math.inf]
        if scored:
            kept.add(max(scored, key=lambda n: (self._scores[n], n)))
        return [one.step in kept for one in checkpoints]
