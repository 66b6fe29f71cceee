"""The choices of published DR-GAN programs, as arguments of `make`.

Each preset consists of plain values, so that a configuration can hold it:

    dr_gan.make(num_classes, targets=targets, **presets.kayamin())

Differences between `make` and the published programs, options in brackets:

* Fusion is a weighted mean; kayamin: a sum (`normalise_fusion=False`).
* Fused images are fakes for the discriminator; kayamin: not
  (`discriminate_fused=False`).
* The discriminator's running statistics are updated in its own steps; kayamin: in all
  steps (`statistics_in_generator_step=True`).
* Update schedules use a running accuracy; kayamin: that of one batch
  (`accuracy_decay=0.0`).
* Trunks are switched with running statistics, and their moments are reset; milankinen:
  parameters only.
* Target poses are random, or those of the ground truth; zhangjunh: L1 to the input in
  every target pose.
* Target yaws are uniform; the authors: the first of each identity is normal with a
  deviation of 45 degrees.
* Mirrored images have mirrored poses; the authors: only images without pose are
  mirrored.
* In the CVPR form images of unknown identity have the loss -log(1 - p_fake); the paper:
  no such images.
* Cosines are normalised over features; the authors: over the batch.
"""

from typing import Any

Arguments = dict[str, Any]


def cvpr_2017() -> Arguments:
    """Returns the choices of CVPR 2017: grey images, fakes are an additional class."""
    return {
        "objective": {"name": "cvpr"},
        "network": {"generator": {"channels": 1}},
        "canvas_size": 100,
    }


def authors_2018() -> Arguments:
    """Returns those of the authors' last program: yaws, branches, AM-softmax."""
    similarity = {"probability": 1.0, "degrees": 10.0, "scale": 0.0, "shift": 0.0}
    return {
        "network": {
            "conv_bias": True,
            "final_elu": False,
            "dropout": 0.4,
            "generator": {
                "noise": 20,
                "decoder_seed": 3,
                "pose_features": 320,
                "seed_bn": True,
            },
            "discriminator": {"branch_heads": True},
        },
        "objective": {
            "name": "tpami",
            "real_target": 0.999,
            "am_softmax": {"margin": 0.35, "scale": 30.0},
        },
        "update": {"name": "fixed", "ratio": (5, 11)},
        "augmentation": (("similarity", similarity),),
        "flip": "remap",
    }


def kayamin(*, multi: bool = False) -> Arguments:
    """Returns those of kayamin/DR-GAN, which `test_traces` follows.

    Args:
      multi: several images per identity, summed with their confidence as weight.
    """
    return {
        "network": {
            "generator": {
                "confidence_head": "channel" if multi else "none",
                "normalise_fusion": False,
                "bn_before_crop": True,
            }
        },
        "objective": {
            "name": "tpami",
            "fused_sum": True,
            "discriminate_fused": False,
            "statistics_in_generator_step": True,
        },
        "update": {"name": "accuracy_gated", "accuracy_decay": 0.0},
    }
