"""A folder is used by one process at a time, and by the next after a death."""

import errno
import os
import socket
import subprocess
import sys
import threading

import pytest

from data_pipelines import DataError, lock
from tests.support.paths import ROOT

HOLD = """
import sys
from data_pipelines.lock import exclusive
with exclusive(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_folder_in_use_is_refused_naming_process_and_host(tmp_path, holder):
    expected = f"in use by process {holder.pid} on {socket.gethostname()}: wait"
    with pytest.raises(DataError, match=expected) as caught, lock.exclusive(tmp_path):
        pytest.fail("entered")
    assert len(str(caught.value).splitlines()) == 1
    holder.communicate("")  # ends
    with lock.exclusive(tmp_path):
        assert os.listdir(tmp_path) == ["lock"]
    assert not os.listdir(tmp_path)


def test_lock_of_a_killed_process_is_taken_over(tmp_path, holder, capsys):
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == ["lock"]
    with lock.exclusive(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
    assert f"lock of process {holder.pid} on" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_another_thread_is_refused_and_the_same_nests(tmp_path):
    errors = []

    def enter():
        try:
            with lock.exclusive(tmp_path):
                pass
        except DataError as error:
            errors.append(str(error))

    with lock.exclusive(tmp_path):
        with lock.exclusive(tmp_path / "x" / ".."):
            pass
        assert (tmp_path / "lock").exists()
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    (error,) = errors
    assert f"process {os.getpid()} on" in error
    enter()
    assert len(errors) == 1


def test_missing_folders_are_removed_again_if_they_stay_empty(tmp_path):
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), lock.exclusive(tmp_path / "a/b/c"):
            raise error
        assert not os.listdir(tmp_path)
    with lock.exclusive(tmp_path / "a/b"):
        (tmp_path / "a/file").touch()
    assert os.listdir(tmp_path / "a") == ["file"]


def test_lock_that_was_removed_while_it_was_awaited_is_taken_anew(
    tmp_path, monkeypatch
):
    """The holder ends between the opening of its file and the request of its lock."""
    calls, real = [], lock.fcntl.flock

    def flock(handle, operation):
        if not calls:
            os.unlink(tmp_path / "lock")
        calls.append(handle)
        real(handle, operation)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.exclusive(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / "lock").read_text().startswith("process ")


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_used_without(tmp_path, monkeypatch, error):
    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.exclusive(tmp_path), lock.exclusive(tmp_path):
        assert not os.listdir(tmp_path)


def test_remote_folder_is_used_without(monkeypatch):
    monkeypatch.setattr(os, "makedirs", lambda *_, **__: pytest.fail("made"))
    with lock.exclusive("gs://bucket/run"):
        pass
