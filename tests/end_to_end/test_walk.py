"""The walk from argv to the first step: no module calls into a higher layer."""

import pytest

from tests.support.walk import DOCUMENT, table, walk

# Functions of a system's folder that lower layers receive as arguments.
PASSED = ("load", "make", "augment")


@pytest.mark.long
@pytest.mark.parametrize("system", ["inter_prototype", "usynthface", "dr_gan"])
def test_no_module_calls_into_a_higher_layer(system):
    calls = walk(system)
    room = f"fr_jax/systems/{system}"
    entries = {f"{room}/data.py": set(), f"{room}/system.py": set()}
    for call in calls:
        inside = call.caller.startswith(room)
        passed = "<locals>" in call.function or call.function in PASSED
        if call.callee.startswith("fr_jax/cli"):
            assert call.caller == "argv" or call.caller.startswith("fr_jax/cli"), call
        if call.callee.startswith("fr_jax/systems/") and not inside:
            from_above = call.caller.startswith(
                ("fr_jax/cli", "configs/", "fr_jax/lazy")
            )
            assert from_above or passed, call
        if call.callee in entries and call.entry and not inside:
            entries[call.callee].add(call.function)
    steps = {f.rpartition(".")[2] for f in entries[f"{room}/system.py"]}
    assert steps == {"make", "init", "train_step"}
    assert 2 <= len(entries[f"{room}/data.py"]) <= 3, entries
    document = DOCUMENT.read_text()
    assert "\n".join(table(calls)) in document, "run python -m tests.support.walk"
