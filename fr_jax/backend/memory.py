"""Memory of devices and of the host: what is free, and errors that say what would fit.

Linux grants more memory than it has, and ends a process without a word when it uses it:
large allocations are compared with the free memory before they are made.
"""

import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax import local_device_count, local_devices

from fr_jax.errors import UserError

_CGROUPS = (  # limit and usage, in bytes: of version 2, of version 1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_on_host(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process can still use; None if that is unknown.

    The least of: free memory and swap, the limit of the control group, `ulimit -v`.

    Args:
      root: of the folders proc and sys.
    """
    found = []
    counts = _counts(root / "proc/meminfo")
    if "MemAvailable" in counts:
        found.append(counts["MemAvailable"] + counts.get("SwapFree", 0))
    for limit, used in _CGROUPS:
        folder = root / "sys/fs/cgroup"
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None:
            found.append(max(most - now, 0))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    size = _counts(root / "proc/self/status").get("VmSize")
    if limit != resource.RLIM_INFINITY and size is not None:
        found.append(max(limit - size, 0))
    return min(found, default=None)


def free(device: Any) -> int | None:
    """Returns the free bytes of a device, of a CPU its share; None if unknown."""
    if stats := device.memory_stats():
        limit = stats.get("bytes_limit")
        return limit and max(limit - stats.get("bytes_in_use", 0), 0)
    if device.platform != "cpu" or (host := free_on_host()) is None:
        return None
    return host // local_device_count()


def check(what: str, needed: int, available: int | None, fits: Callable[[], str]):
    """Raises a UserError if more bytes are needed than available.

    Args:
      what: what needs them, as in 'a training step'.
      fits: returns what would fit, as in 'a batch of 16 rows would fit'.
    """
    if available is not None and needed > available:
        raise UserError(
            f"{what} needs {gigabytes(needed)} of memory, {gigabytes(available)} are "
            f"free: {fits()}"
        )


def of_program(compiled: Any) -> int:
    """Returns the bytes that a compiled program adds to those of its arguments.

    0 if the backend does not say.
    """
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.temp_size_in_bytes + max(results, 0)


def explained(error: BaseException) -> str | None:
    """Returns the message for an allocation that has failed; None for other errors."""
    text = " ".join(str(error).split())
    of_jax = "RESOURCE_EXHAUSTED" in text and "memory" in text.lower()
    if not (of_jax or isinstance(error, MemoryError)):
        return None
    match = re.search(r"allocat\w+ (?:of )?([\d.]+) ?([KMGTPE]?i?B|bytes)", text)
    needed = "too much memory was"
    if match:
        number, unit = match.groups()
        amount = gigabytes(float(number)) if unit == "bytes" else f"{number} {unit}"
        needed = f"{amount} were"
    available = free(local_devices()[0])
    left = f", {gigabytes(available)} are free" if available is not None else ""
    return (
        f"out of memory: {needed} needed in one piece{left}; use smaller batches or "
        "images, a smaller network, or fewer images at a time"
    )


def gigabytes(count: float) -> str:
    """Returns bytes as text: '12.3 GB', '45 MB'."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _counts(path: Path) -> dict[str, int]:
    """Returns the counts in kB of a file of /proc, in bytes, by name."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    pairs = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(number) * 1024 for name, number in pairs}


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
