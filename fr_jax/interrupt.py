"""Ctrl-C and SIGTERM: training saves first, a second Ctrl-C ends the process at once.

The program `fr-jax` calls `watch` when it starts. From then on a signal

* raises `Interrupted` in the main thread: commands remove their unfinished files;
* ends the process at once after `nothing_to_lose`: before the first training step;
* is recorded within `deferred`: the training loop saves the step, then ends.

Python runs signal handlers in the main thread, between two bytecodes: never while
native code compiles or waits. So a thread is told of every signal as well. It ends the
process at a second Ctrl-C, and when a command has not ended soon after a signal.

In a notebook, which never calls `watch`, `deferred` alone handles signals.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 8.0  # seconds for a command to remove its files, and for threads to end
_RESULT = TypeVar("_RESULT")
TEXT = "interrupted: no unfinished file is left; the same call starts again"
SAVING = "interrupted: finishing the step and saving; Ctrl-C again leaves at once"
AT_ONCE = "left at once; complete checkpoints and files are intact"


class Interrupted(KeyboardInterrupt):
    """Raised by a signal. The message says what was saved, and how to continue.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int, text: str = TEXT):
        super().__init__(text)
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """Returns 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + getattr(error, "number", signal.SIGINT)


def saved(step: int, workdir: Any, *, fresh: bool = False) -> str:
    """Returns the message of a training run that a signal has ended.

    Args:
      fresh: whether the call moved an earlier run aside, as it would do with this one.
    """
    if not step:
        return "interrupted before the first save; the same call starts again"
    call = "the same call without fresh" if fresh else "the same call"
    return f"interrupted: step {step:,} is saved in {workdir}; {call} resumes"


@contextlib.contextmanager
def explained(text: str) -> Iterator[None]:
    """Replaces the message of an interruption within the context."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(exit_code(error) - 128, text) from None


class _Program:
    """What signals do in the process of the program."""

    first = 0  # the first signal
    raised = 0  # the signal for which `Interrupted` was raised
    repeats = 0  # signals sent by `again`, not by the user
    leaves_with = ""  # not empty: signals end the process, with this line
    records = False  # the loop ends it after saving
    watched = acknowledged = False
    outcome = TEXT  # the last line, unless an error has another
    ending = False  # the last line is written
    lock = threading.RLock()

    def handle(self, number: int, _: Any) -> None:
        """The handler of Python."""
        if self.leaves_with:
            _leave(number, self.leaves_with)
        if self.records:  # by JAX, until the loop asks: it notices SIGTERM alone
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self.raised:
            self.raised = number
            raise Interrupted(number, self.outcome)

    def read(self, pipe: int) -> None:
        """The thread: reads the numbers of signals, written when they arrive."""
        while True:
            for number in os.read(pipe, 64):
                if number in SIGNALS:
                    self._arrived(number)

    def _arrived(self, number: int) -> None:
        if not self.first:
            self.first = number
            if self.leaves_with:
                _leave(number, self.leaves_with)
            if self.records:
                self.acknowledge()
            else:
                self.limit()
        elif self.repeats:
            self.repeats -= 1
        elif number == signal.SIGINT:
            _leave(number, AT_ONCE)

    def acknowledge(self) -> None:
        """Says, once, that the step will be saved."""
        with self.lock:
            if self.watched and not self.acknowledged:
                self.acknowledged = True
                _write(SAVING)

    def limit(self) -> None:
        """Ends the process soon, if it does not end by itself."""
        timer = threading.Timer(PATIENCE, lambda: _leave(self.first, self.outcome))
        timer.daemon = True
        timer.start()

    def unraisable(self, unraisable: Any) -> None:
        """Repeats an interruption that came in a destructor, which cannot raise."""
        if not isinstance(unraisable.exc_value, Interrupted):
            sys.__unraisablehook__(unraisable)
            return
        if self.records:  # the loop ends the run
            return
        self.raised = 0
        repeat = threading.Timer(0.01, self.again, (unraisable.exc_value.number,))
        repeat.start()

    def again(self, number: int) -> None:
        """Sends a signal again that this process has received before."""
        self.repeats += 1
        os.kill(os.getpid(), number)


_program = _Program()


def watch() -> None:
    """Handles the signals of the process of a program, from its main thread."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=_program.read, args=(reads,), daemon=True).start()
    _program.watched = True
    for number in SIGNALS:
        signal.signal(number, _program.handle)
    sys.unraisablehook = _program.unraisable


def nothing_to_lose(text: str) -> None:
    """Lets a signal end the program at once, with a line, until `deferred` is entered.

    '' undoes it.
    """
    _program.leaves_with = text


def record() -> None:
    """Lets several processes finish what they have begun together, until `deferred`.

    A process that left alone would abort the others. For after the start of
    `jax.distributed`, whose coordination service takes SIGTERM over.
    """
    _program.leaves_with, _program.records = "", True


def restore() -> None:
    """Raises an interruption again that native code has turned into another error.

    As an import does: 'ImportError: numpy._core.multiarray failed to import'.
    """
    if _program.raised:
        raise Interrupted(_program.raised)


def ignore() -> None:
    """Ignores signals from now on: the command is complete."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """Ends the program without waiting for threads, some of which wait for others."""
    _program.ending = True
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    if jax := sys.modules.get("jax"):
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()  # or the other processes abort
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            file.flush()
    os._exit(code)


def _write(text: str) -> None:
    os.write(2, f"fr-jax: {text}\n".encode())  # `print` may wait for the main thread


def _leave(number: int, text: str) -> NoReturn:
    _program.lock.acquire()  # by one of two threads: there is one line
    if not _program.ending:
        _write(text)
    os._exit(128 + number)


class Deferral:
    """The signals received since `deferred` was entered.

    Attributes:
      number: of the first signal; 0 if there was none.
      outcome: what was saved, set by the loop.
    """

    outcome = TEXT

    def __init__(self, several: bool):
        self._several, self._raises, self._ends = several, False, False
        self.number = _program.first

    def ends(self, step: int) -> bool:
        """Returns True, in all processes at one step, after one received a signal."""
        if not self._several:
            self._ends = bool(self.number)
            return self._ends
        import numpy as np
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            received = multihost_utils.process_allgather(np.int32(self.number))
            # JAX alone has seen SIGTERM; every Ctrl-C is among the numbers.
            any_sigint = (received == signal.SIGINT).any()
            self.number = signal.SIGINT if any_sigint else signal.SIGTERM
            self._ends = True
        return self._ends

    def completed(self, function: Callable[[], _RESULT]) -> _RESULT | None:
        """Returns function(), or None if a signal arrives before it has ended.

        One of several processes cannot end alone what they do together: a function that
        has begun there is completed.
        """
        if self._ends:
            return None
        if self._several:
            return function()
        try:
            self._raises = True
            try:
                if not self.number:
                    return function()
            finally:
                self._raises = False
        except Interrupted:
            pass
        except Exception:  # into which native code may turn it
            if not self.number:
                raise
        self._ends = True
        return None

    def handle(self, number: int, _: Any) -> None:
        """The handler of Python; a second Ctrl-C raises KeyboardInterrupt."""
        if self.number:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        _program.acknowledge()
        if self._several:  # JAX's coordination service notices SIGTERM alone
            os.kill(os.getpid(), signal.SIGTERM)
        if self._raises:
            raise Interrupted(number, self.outcome)


@contextlib.contextmanager
def deferred(several: bool) -> Iterator[Deferral]:
    """Yields a `Deferral`: signals are recorded instead of raised, until it is left.

    Args:
      several: whether the training has several processes.

    Threads other than the main thread cannot handle signals: nothing is recorded there.
    """
    deferral = Deferral(several)
    if threading.current_thread() is not threading.main_thread():
        yield deferral
        return
    numbers = SIGNALS[:1] if several else SIGNALS
    before = {number: signal.signal(number, deferral.handle) for number in numbers}
    _program.leaves_with, _program.records = "", True
    try:
        yield deferral
        # A signal after the last question is left to the handlers from before.
        repeated = deferral.number if not (several or deferral._ends) else 0
    finally:
        _program.records, _program.outcome = False, deferral.outcome
        for number, handler in before.items():
            signal.signal(number, handler)
        if _program.first and not several:
            _program.limit()
    if repeated:
        _program.again(repeated)
