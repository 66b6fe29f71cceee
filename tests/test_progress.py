"""Progress of long loops, mostly if standard error is not a terminal."""

import io
import sys

import pytest

from fr_jax.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Returns a function that advances the time that progress bars read."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_lines_are_printed_every_30_seconds_and_at_the_end(capsys, clock):
    for _ in progress_bar(range(100), "embed", leave=False):
        clock(1)
    error = capsys.readouterr().err
    assert "\r" not in error and "\x1b" not in error
    lines = error.splitlines()
    assert [line.split(" [")[0] for line in lines] == [
        "embed:  30%| 30/100",
        "embed:  60%| 60/100",
        "embed:  90%| 90/100",
        "embed: 100%| 100/100",
    ]
    assert lines[1].endswith("[01:00<00:40,  1.00 images/s]")


def test_line_of_the_last_step_is_printed_once(capsys, clock):
    for _ in progress_bar(range(2), "render"):
        clock(50)
    assert capsys.readouterr().err.splitlines() == [
        "render:  50%| 1/2 [00:50<00:50,  0.02 images/s]",
        "render: 100%| 2/2 [01:40<00:00,  0.02 images/s]",
    ]


def test_short_loop_prints_one_line(capsys, clock):
    with progress_bar(total=20, label="render") as bar:
        for _ in range(2):
            clock(0.5)
            bar.update(10)
    assert (
        capsys.readouterr().err == "render: 100%| 20/20 [00:01<00:00, 20.00 images/s]\n"
    )


def test_loop_that_fails_in_its_first_iteration_prints_nothing(capsys):
    with pytest.raises(ValueError, match="damaged"), progress_bar(total=20):
        raise ValueError("damaged")
    assert capsys.readouterr().err == ""


def test_disabled_progress_prints_nothing(capsys):
    assert list(progress_bar(range(3), disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_terminal_has_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress_bar(range(3), "embed")) == [0, 1, 2]
    assert "\rembed: 100%|" in terminal.getvalue()
