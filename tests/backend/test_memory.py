"""Free memory of the host, and messages of allocations that failed or cannot fit."""

import resource

import jax
import numpy as np
import pytest

from fr_jax.backend import memory
from fr_jax.errors import UserError
from fr_jax.faces import sets

MEMINFO = "MemTotal: 9000 kB\nMemAvailable:   3000 kB\nSwapFree:  500 kB\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": MEMINFO}, 3500 * 1024),
        ({"sys/fs/cgroup/memory.max": "900", "sys/fs/cgroup/memory.current": "1"}, 899),
        ({"sys/fs/cgroup/memory.max": "5", "sys/fs/cgroup/memory.current": "9"}, 0),
        (
            {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "1"},
            None,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000",
            },
            1000,
        ),
    ],
    ids=["nothing", "machine", "group", "used_up", "unlimited_group", "version_1"],
)
def test_free_memory_is_the_least_of_the_limits(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.free_on_host(tmp_path) == expected


def test_a_limit_of_the_address_space_counts(tmp_path, monkeypatch):
    limits = (10_000 * 1024, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nVmSize:\t  9000 kB\n")
    assert memory.free_on_host(tmp_path) == 1000 * 1024


def test_devices_of_a_cpu_share_the_memory_of_the_host(monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 1000)
    monkeypatch.setattr(memory, "local_device_count", lambda: 4)
    assert memory.free(jax.devices("cpu")[0]) == 250

    class Accelerator:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 700, "bytes_in_use": 300}

    assert memory.free(Accelerator()) == 400


@pytest.mark.parametrize(
    ("fail", "amount"),
    [
        (lambda: np.empty((1 << 60,), np.uint8), "1.00 EiB"),
        (
            lambda: jax.jit(lambda: jax.numpy.zeros(1 << 50, "uint8") + 1)(),
            "1,125,899.9",
        ),
    ],
    ids=["numpy", "jax"],
)
def test_a_failed_allocation_says_how_much_was_needed(
    command, monkeypatch, fail, amount
):
    from fr_jax.cli import main as program

    monkeypatch.setattr(program, "call", lambda argv: fail())
    code, _, error = command("info")
    (line,) = error.splitlines()
    assert code == 2
    assert line.startswith(f"fr-jax: out of memory: {amount}")
    assert "are free; use smaller batches" in line


@pytest.mark.parametrize(
    "text",
    ["RESOURCE_EXHAUSTED: Received message larger than max", "a fault"],
)
def test_other_errors_are_not_taken_for_it(text):
    assert memory.explained(RuntimeError(text)) is None


def test_messages_of_accelerators_are_understood():
    text = (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."
    )
    assert "out of memory: 17.2 GB were needed" in str(
        memory.explained(RuntimeError(text))
    )


def test_rendered_images_that_cannot_fit_are_refused_before_rendering(monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 3 * 64 * 64 * 100 + 5)
    match = r"120 rendered images of 64x64 pixels needs 1.5 MB .* 100 images would fit"
    with pytest.raises(UserError, match=match):
        sets.arrays(sets.default(), num_identities=30, images=4, size=64)
