"""The command line as a function, and configurations that train within seconds."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.paths import ROOT

CONFIGS = {
    name: ROOT / f"configs/{name}.py"
    for name in ("dr_gan", "fra", "inter_prototype", "usynthface")
}
_NETWORK = {
    "train.num_steps": 4,
    "train.log_every": 2,
    "system.image_size": 16,
    "data.rendered.num_unseen": 20,
}
_BACKBONE = {
    "stage_sizes": (1, 1, 1, 1),
    "width": 0.125,
    "embedding_size": 16,
}
INTER_PROTOTYPE = _NETWORK | {
    "train.evaluate_every": 0,
    "system.backbone_options": _BACKBONE
    | {"dropout": 0.0, "dtype": "float32", "bn_groups": 1},
    "data.batch_size": 8,
    "data.rendered.num_identities": 8,
    "data.rendered.num_images": 6,
    "data.rendered.child_share": 0.5,
    "data.rendered.size": 32,
    "data.children.child_filter": 3,
}
USYNTHFACE = _NETWORK | {
    "train.evaluate_every": 2,
    "system.backbone": "iresnet18",
    "system.backbone_options": _BACKBONE,
    "system.queue.size": 8,
    "data.batch_size": 4,
    "data.rendered.num_identities": 16,
    "data.rendered.num_images": 2,
    "data.rendered.size": 32,
    "evaluation.subset": 20,
}


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings as --config flags."""
    return [f"--config.{name}={value}" for name, value in settings.items()]


def call(*words: object) -> int:
    """Runs `fr-jax` in this process; returns its exit code."""
    from fr_jax.cli.main import main

    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    code = left.value.code
    assert isinstance(code, int)
    return code
