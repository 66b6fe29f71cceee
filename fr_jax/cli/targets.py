"""Where a command writes: checked before the work, and a full disk named after it."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from fr_jax.errors import UserError

_PROBE = bytes(1 << 16)
_FULL = ("No space left on device", "Disk quota exceeded")


def check_writable(
    flag: str, target: str | os.PathLike, *, file: bool = False, needed: int = 0
) -> None:
    """Raises a UserError if nothing can be written to a target; leaves nothing there.

    Remote targets (gs://) are not checked.

    Args:
      flag: the flag that names the target.
      file: whether the target is a file in a folder, and not a folder.
      needed: bytes that will be written, as far as known.
    """
    if "://" in str(target):
        return
    folder = Path(target).parent if file else Path(target)
    place = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    name = f"{flag} {target}"
    if not place.is_dir():
        raise UserError(f"{name}: {place} is no folder; choose another {flag}")
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".fr_jax_") as probe:
            probe.write(_PROBE)
            probe.flush()
        free = shutil.disk_usage(place).free
    except OSError as error:
        reason = full_disk(error, place) or f"cannot write there ({error.strerror})"
        raise UserError(f"{name}: {reason}; choose another {flag}") from None
    if needed > free:
        raise UserError(
            f"{name}: about {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB "
            f"are free on the disk at {_mount(place)}"
        )


def full_disk(error: BaseException, target: str | os.PathLike) -> str:
    """Returns a line that names the disk if an error is that of a full one, else ''.

    TensorFlow and orbax wrap the error of the system, as text or as the cause.
    """
    seen: BaseException | None = error
    while seen is not None:
        code = seen.errno if isinstance(seen, OSError) else None
        text = str(seen)
        if code in (errno.ENOSPC, errno.EDQUOT) or any(one in text for one in _FULL):
            return f"the disk at {_mount(Path(target))} is full"
        seen = seen.__cause__ or seen.__context__
    return ""


def _mount(path: Path) -> Path:
    """Returns the folder where the disk of a path is mounted."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.ismount(p))
