"""Presets: the choices of published programs, and the configurations that use them.

`test_system` traces a step of the others, `end_to_end/test_traces` runs kayamin's.
"""

import pytest

from configs import dr_gan as configs
from fr_jax.systems.dr_gan import objective_options, presets


@pytest.mark.parametrize(("multi", "head"), [(False, "none"), (True, "channel")])
def test_kayamins_program(multi, head):
    preset = presets.kayamin(multi=multi)
    assert preset["network"]["generator"] == {
        "confidence_head": head,
        "normalise_fusion": False,
        "bn_before_crop": True,
    }
    chosen = objective_options.from_options(preset["objective"], paired=True)
    assert chosen.fused_sum and chosen.statistics_in_generator_step
    assert not chosen.discriminate_fused
    assert preset["update"] == {"name": "accuracy_gated", "accuracy_decay": 0.0}


@pytest.mark.parametrize(
    ("variant", "preset"),
    [
        ("paper_cvpr_multipie", presets.cvpr_2017()),
        ("authors_2018", presets.authors_2018()),
        ("kayamin", presets.kayamin()),
        ("kayamin_multi", presets.kayamin(multi=True)),
    ],
)
def test_configurations_use_their_preset(variant, preset):
    system = configs.get_config(variant).system.to_dict()

    def check(node, expected):
        for name, value in expected.items():
            if isinstance(value, dict):
                check(node[name], value)
            else:
                assert node[name] == value, name

    check(system, preset)


def test_presets_are_independent_copies():
    """A configuration may change its preset."""
    presets.kayamin()["network"]["generator"].clear()
    assert presets.kayamin()["network"]["generator"]
