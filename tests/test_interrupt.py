"""Signals: deferral while training, and what the program does at each of them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from fr_jax import interrupt
from fr_jax.interrupt import Interrupted, deferred
from tests.support.paths import ROOT


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def received():
    """The signals that reach the handlers from before; they are restored at the end."""
    numbers: list[int] = []
    before = {n: signal.getsignal(n) for n in interrupt.SIGNALS}
    for number in before:
        signal.signal(number, lambda n, _: numbers.append(n))
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_signal_is_recorded_and_handlers_are_restored(received, number):
    before = signal.getsignal(number)
    with deferred(False) as signals:
        assert not signals.ends(1)
        send(number)
        assert signals.ends(2)
    assert signals.number == number
    assert signal.getsignal(number) is before
    assert received == []


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_signal_after_the_last_question_reaches_the_handlers_from_before(
    received, number
):
    with deferred(False) as signals:
        assert not signals.ends(1)
        send(number)
    assert received == [number]


def test_native_code_that_turns_an_interruption_into_an_error_is_abandoned(received):
    def native(number):
        try:
            send(number)
        except KeyboardInterrupt:
            raise ImportError("multiarray failed to import") from None

    with deferred(False) as signals:
        assert signals.completed(lambda: native(signal.SIGTERM)) is None
        assert signals.ends(1)
    assert received == []
    with deferred(False) as signals, pytest.raises(ValueError, match="its own"):
        signals.completed(lambda: int("its own"))


def test_the_message_names_the_call_that_goes_on():
    assert interrupt.saved(500, "w").endswith("saved in w; the same call resumes")
    fresh = interrupt.saved(500, "w", fresh=True)
    assert fresh.endswith("saved in w; the same call without fresh resumes")
    assert "saved in" not in interrupt.saved(0, "w")


def test_a_second_ctrl_c_is_raised_and_a_second_sigterm_is_not(received):
    with pytest.raises(KeyboardInterrupt), deferred(False):
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert received == []


@pytest.mark.parametrize("moment", ["before", "within", "after", "never"])
def test_a_function_is_abandoned_at_a_signal(received, moment):
    def function():
        if moment == "within":
            send(signal.SIGINT)
            pytest.fail("the signal was not raised")
        return "result"

    with deferred(False) as signals:
        if moment == "before":
            send(signal.SIGINT)
        result = signals.completed(function)
        if moment == "after":
            send(signal.SIGINT)
        assert result == (None if moment in ("before", "within") else "result")
        assert signals.ends(1) == (moment != "never")


def test_threads_cannot_defer_and_train_without_it(received):
    ended = []

    def train():
        with deferred(False) as signals:
            ended.append(signals.ends(1))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert ended == [False]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Interrupted(signal.SIGINT), 130),
        (Interrupted(signal.SIGTERM), 143),
    ],
)
def test_messages_are_replaced_and_codes_stay(error, code):
    with pytest.raises(Interrupted, match="in x.part") as raised:  # noqa: SIM117
        with interrupt.explained("in x.part"):
            raise error
    assert interrupt.exit_code(raised.value) == code


# --- the program --------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading, time
from fr_jax import interrupt

interrupt.PATIENCE = {patience}

def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)

def forever():
    threading.Event().wait()

try:
    interrupt.watch()
{body}
except KeyboardInterrupt as error:
    print("cleaned", flush=True)
    {cleanup}
    print(error, file=sys.stderr)
    interrupt.leave(interrupt.exit_code(error))
"""

NATIVE = """
import ctypes
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
lock(mutex)
threading.Timer(0.1, send).start()
lock(mutex)  # never returns to Python: no handler runs in the main thread
"""


def program(body: str, cleanup: str, patience: float) -> tuple[int, str, str]:
    """Runs a program; returns its exit code, output and errors."""
    body = textwrap.indent(body.strip(), "    ")
    code = PROGRAM.format(body=body, cleanup=cleanup, patience=patience)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


DESTRUCTOR = """
class Last:
    def __del__(self):
        send()
        time.sleep(0.1)  # the handler runs here, where nothing can be raised

last = Last()
del last
forever()
"""
THREADS = """
threading.Thread(target=forever).start()
send()
forever()
"""
AT_ONCE = "interrupt.nothing_to_lose('nothing lost')\nsend()\nforever()"
SAVING = """
with interrupt.deferred(False) as signals:
    send()
    while not signals.ends(1):
        pass
    signals.outcome = "saved"
raise interrupt.Interrupted(signals.number, "saved")
"""
DESTRUCTOR_WHILE_EVALUATING = """
class Last:
    def __del__(self):
        send()
        time.sleep(0.1)

def evaluation():
    last = Last()
    del last
    time.sleep(0.3)

with interrupt.deferred(False) as signals:
    signals.completed(evaluation)
    assert signals.ends(1)
raise interrupt.Interrupted(signals.number, "saved")
"""
TWICE_WHILE_SAVING = """
with interrupt.deferred(False) as signals:
    send()
    while not signals.ends(1):
        pass
    send()
    forever()
"""


@pytest.mark.parametrize(
    ("body", "code", "cleaned", "line"),
    [
        ("send()\nforever()", 130, True, "no unfinished file"),
        ("send(signal.SIGTERM)\nforever()", 143, True, "no unfinished file"),
        (THREADS, 130, True, "no unfinished file"),
        (DESTRUCTOR, 130, True, "no unfinished file"),
        (AT_ONCE, 130, False, "nothing lost"),
        (SAVING, 130, True, "saved"),
        (DESTRUCTOR_WHILE_EVALUATING, 130, True, "saved"),
    ],
    ids=[
        *("ctrl-c", "sigterm", "threads_hang", "destructor", "at_once", "saving"),
        "destructor_while_evaluating",
    ],
)
def test_the_program_ends_with_its_code_and_one_line(body, code, cleaned, line):
    actual, out, error = program(body, "pass", patience=300)
    assert actual == code, error
    assert out == ("cleaned\n" if cleaned else "")
    *first, last = error.splitlines()
    assert line in last
    assert first == [f"fr-jax: {interrupt.SAVING}"] * ("deferred" in body)


@pytest.mark.parametrize(
    ("body", "cleanup", "line"),
    [
        ("send()\nforever()", "forever()", interrupt.TEXT),
        (NATIVE, "pass", interrupt.TEXT),
        (SAVING, "forever()", "saved"),
    ],
    ids=["cleanup", "native_code", "after_saving"],
)
def test_a_program_that_hangs_after_a_signal_is_ended(body, cleanup, line):
    code, _, error = program(body, cleanup, patience=0.2)
    assert code == 130
    assert error.endswith(f"fr-jax: {line}\n")


def test_a_tear_down_that_hangs_is_ended_with_one_line():
    hangs = "import atexit; atexit.register(forever)"
    code, _, error = program("send()\nforever()", hangs, patience=2)
    assert code == 130
    assert error == f"{interrupt.TEXT}\n"


@pytest.mark.parametrize(
    ("body", "cleanup"),
    [("send()\nforever()", "send(); forever()"), (TWICE_WHILE_SAVING, "forever()")],
    ids=["cleanup", "saving"],
)
def test_a_second_ctrl_c_ends_the_program_at_once(body, cleanup):
    code, _, error = program(body, cleanup, patience=300)
    assert code == 130
    assert error.endswith(f"fr-jax: {interrupt.AT_ONCE}\n")
