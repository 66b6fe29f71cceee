"""Exclusive use of a folder by one process."""

import contextlib
import contextvars
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import DataError

try:
    import fcntl
except ImportError:  # not on every platform
    fcntl = None

FILE = "lock"
_held: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("held")


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """A context in which no other process, or thread, enters the same for a folder.

    The file `lock` in the folder names the process and its host. The operating system
    releases it when the process ends in any way, so one that is left over does not
    hold. A missing folder is made, and removed again if it stays empty. Contexts for
    the same folder nest. Remote folders (gs://) and file systems without locks are not
    protected.

    Raises:
      DataError: if the folder is held; names the process and host.
    """
    path = os.fspath(folder)
    key = os.path.realpath(path)
    if "://" in path or fcntl is None or key in _held.get(()):
        yield
        return
    missing = [one for one in (Path(key), *Path(key).parents) if not one.exists()]
    os.makedirs(path, exist_ok=True)
    file = os.path.join(path, FILE)
    token = _held.set((*_held.get(()), key))
    handle = None
    try:
        handle = _taken(path, file)
        yield
    finally:
        _held.reset(token)
        if handle is not None:
            os.unlink(file)  # before the release: later it may be another process's
            os.close(handle)
        for one in missing:
            with contextlib.suppress(OSError):  # it is in use
                one.rmdir()


def _taken(path: str, file: str) -> int | None:
    """Returns a handle that holds the lock; None on file systems without locks."""
    assert fcntl is not None
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise DataError(
                f"{path} is in use by {holder}: wait for its end, or choose another "
                "folder"
            ) from None
        except OSError:
            os.close(handle)
            os.unlink(file)
            return None
        # A file that was removed since it was opened protects nothing.
        if os.path.exists(file) and os.path.samestat(os.fstat(handle), os.stat(file)):
            break
        os.close(handle)
    if os.fstat(handle).st_size:
        holder = _holder(handle)
        text = (
            f"{path}: took over the lock of {holder}, which ended without releasing it"
        )
        print(text, file=sys.stderr)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle


def _holder(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace") or "another process"
