"""The folder of a run: set aside, and its config.json."""

import json

import pytest

from fr_jax.errors import UserError
from fr_jax.training import workdir as workdirs


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_runs_are_set_aside_one_after_the_other(tmp_path):
    for number in (1, 2):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/step").write_text(str(number))
        (tmp_path / "metrics.jsonl").touch()
        (tmp_path / "lock").touch()
        moved = workdirs.set_aside(tmp_path)
        assert moved == str(tmp_path / f"previous-{number}")
        assert (tmp_path / moved / "checkpoints/step").read_text() == str(number)
    assert names(tmp_path) == [
        "lock",
        "previous-1/checkpoints/step",
        "previous-1/metrics.jsonl",
        "previous-2/checkpoints/step",
        "previous-2/metrics.jsonl",
    ]


def test_folder_without_a_run_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").touch()
    assert workdirs.set_aside(tmp_path) == ""
    assert workdirs.set_aside(tmp_path / "missing") == ""
    assert names(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("before", [None, "{", '{"a": 2}', b"\xff\xfe"])
def test_config_json_is_that_of_the_run(tmp_path, before):
    file = tmp_path / "config.json"
    if before is not None:
        file.write_bytes(before if isinstance(before, bytes) else before.encode())
    workdirs.write_config(tmp_path, {"a": 1, "b": (1, 2)})
    assert json.loads(file.read_text()) == {"a": 1, "b": [1, 2]}
    written = file.stat().st_mtime_ns
    workdirs.write_config(tmp_path, {"a": 1, "b": (1, 2)})
    assert file.stat().st_mtime_ns == written
    assert names(tmp_path) == ["config.json"]


def test_held_folder_is_refused_as_a_users_error(tmp_path):
    import threading

    errors = []

    @workdirs.holding
    def train(system, workdir, *, fail=False):
        if fail:
            return system
        thread = threading.Thread(target=refused)
        thread.start()
        thread.join()
        return system

    def refused():
        with pytest.raises(UserError, match="is in use by process") as caught:
            train(1, tmp_path, fail=True)
        errors.append(caught.value)

    assert train(7, workdir=tmp_path) == 7
    assert len(errors) == 1
    assert train(8, tmp_path, fail=True) == 8
