"""Targets that cannot be written, and full disks."""

import errno
import subprocess
import sys

import pytest

from fr_jax.cli.main import Parser
from fr_jax.cli.targets import check_writable, full_disk
from fr_jax.errors import UserError
from tests.support.paths import ROOT

# On /sys not even root can create a file.
READ_ONLY = "/sys/kernel/fr_jax"


def test_a_writable_target_is_left_as_it_was(tmp_path):
    check_writable("--to", tmp_path / "new/deeper")
    check_writable("--to", tmp_path / "new/file.npz", file=True, needed=1000)
    check_writable("--to", "gs://bucket/folder")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="1,000,000,000 MB are needed, .* MB are free"):
        check_writable("--to", tmp_path, needed=10**15)


@pytest.mark.parametrize(
    "words",
    [
        ("embed", "{faces}", "--embedder", "nowhere", "--to", "{target}/f.npz"),
        ("evaluate", "--embedder", "nowhere", "--set", "a=b", "--to", "{target}"),
        ("evaluate", "--generator", "nowhere", "--to", "{target}"),
        ("templates", "{table}", "--embedder", "nowhere", "--to", "{target}"),
        ("export", "nowhere", "--format", "jax", "--to", "{target}"),
        ("data", "convert", "{faces}", "--name", "a", "--to", "{target}"),
        ("train", "--config=inter_prototype:smoke", "--workdir={target}"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("kind", ["read-only", "a file"])
def test_targets_are_refused_before_the_work(
    mistake, identities, tmp_path, words, kind
):
    (tmp_path / "file").write_text("")
    table = tmp_path / "splits.csv"
    rows = "split,part,template,identity,file", "1,gallery,1,a,a", "1,probe,2,a,a"
    table.write_text("\n".join(rows))
    target = tmp_path / "file" if kind == "a file" else READ_ONLY
    names = {"target": target, "faces": identities, "table": table}
    match = "is no folder" if kind == "a file" else "cannot write there"
    mistake(match, *(word.format(**names) for word in words))


def test_full_disks_are_named_whatever_wraps_the_error(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = ValueError("a checkpoint was not written")
    wrapped.__cause__ = full
    texts = RuntimeError("RESOURCE_EXHAUSTED: write failed; No space left on device")
    for error in (full, wrapped, texts, OSError(errno.EDQUOT, "quota")):
        line = full_disk(error, tmp_path)
        assert line.startswith("the disk at /") and line.endswith("is full")
    assert not full_disk(OSError(errno.ENOENT, "nothing"), tmp_path)


MOUNTED = "mount -t tmpfs -o size={size} none {folder} && exec {command}"


def run_on_small_disk(folder, size, *words):
    """Runs `fr-jax` with a disk of this size at `folder`; skips where none can be."""
    inside = ["unshare", "-rm", "sh", "-c"]
    probe = subprocess.run(
        [*inside, f"mount -t tmpfs none {folder}"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("needs the right to mount a small disk")
    command = " ".join([sys.executable, "-m", "fr_jax", *map(str, words)])
    script = MOUNTED.format(size=size, folder=folder, command=command)
    done = subprocess.run(
        [*inside, script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.long
@pytest.mark.parametrize("command", ["convert", "export", "train"])
def test_a_full_disk_is_one_line(command, identities, embedder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size, words = {
        "convert": ("200k", ("data", "convert", identities, "--name", "faces", "--to")),
        "export": ("200k", ("export", embedder, "--format", "jax", "--to")),
        "train": ("2m", ("train", "--config=inter_prototype:smoke", "--workdir")),
    }[command]
    code, error = run_on_small_disk(disk, size, *words, disk / "new")
    lines = [line for line in error.splitlines() if line.startswith("fr-jax: ")]
    assert code == 2, error
    assert len(lines) == 1 and f"the disk at {disk} is full" in lines[0]
    assert "Traceback" not in error


@pytest.mark.parametrize("value", ["-45,0,45", "-45", "-.5,1e-3", "-30:30"])
def test_values_may_begin_with_a_minus(value):
    parser = Parser()
    parser.add_argument("--angles")
    parser.add_argument("--flag", action="store_true")
    assert parser.parse_args(["--angles", value, "--flag"]).angles == value
