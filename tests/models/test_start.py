"""Pretrained networks as starts: refused with the setting to change."""

import re

import pytest

from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.models.start import check_start
from fr_jax.system import Network, check_kinds

SMALL = {"width": 0.125, "embedding_size": 8, "stage_sizes": (2, 2, 2, 2)}


def network(architecture="iresnet18", kind="embedding", **options):
    return Network(architecture, {**SMALL, **options}, (), InputSpec(), kind)


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        (network("iresnet34"), "--config.system.backbone=iresnet34"),
        (network(width=0.25), "--config.system.backbone_options.width=0.25"),
        (
            network(embedding_size=16, dropout=0.1, stage_sizes=[2, 2, 2, 2]),
            "set --config.system.backbone_options.embedding_size=16",
        ),
    ],
)
def test_another_network_names_the_setting(given, setting):
    with pytest.raises(UserError, match=f"^--init-from: .*{re.escape(setting)}$"):
        check_start(given, "iresnet18", SMALL, 32)


def test_options_without_shapes_may_differ():
    check_start(network(bn_groups=4, dtype="bfloat16"), "iresnet18", SMALL, 32)


def test_networks_of_another_kind_name_the_flag():
    generator = network("dr_gan_generator", "generator")
    kinds = {"init": ["embedding"], "identity": ["embedding"]}
    with pytest.raises(UserError, match="^--init-from: a network of kind 'generator'"):
        check_kinds({"init": generator}, kinds)
    with pytest.raises(UserError, match="^--given identity=: a network of kind 'gen"):
        check_kinds({"identity": generator}, kinds)
    check_kinds({"init": network()}, kinds)
    check_kinds(None, kinds)
