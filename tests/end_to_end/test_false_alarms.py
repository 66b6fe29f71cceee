"""The guard rejects no update of a smoke configuration: three seeds of 500 steps."""

import json

import pytest

from tests.support.commands import CONFIGS, call, flags

pytestmark = pytest.mark.pod

GATED = {"system.update.name": "accuracy_gated"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("inter_prototype", {}),
        ("usynthface", {}),
        ("dr_gan", {}),
        ("dr_gan", GATED),
        ("fra", {}),
    ],
    ids=["inter_prototype", "usynthface", "dr_gan", "dr_gan gated", "fra"],
)
def test_smoke_configuration_raises_no_alarm(tmp_path, name, changes, seed):
    settings = {
        "train.num_steps": 500,
        "train.log_every": 25,
        "train.evaluate_every": 500,
        "train.save_every": 250,
        "train.seed": seed,
    }
    config = f"--config={CONFIGS[name]}:smoke"
    words = flags(settings | changes)
    assert call("train", config, "--workdir", tmp_path, *words) == 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["step"] == 500
    assert not any("skipped" in row for row in rows)
