"""The choices of published DR-GAN programs, as arguments of `make`.

Each returns plain values, so that a configuration can hold them:

    dr_gan.make(num_classes, targets=targets, **presets.kayamin())

Where `make` and the published programs differ:

* features fused by a weighted mean; kayamin's: a sum (`normalise_fusion=False`).
* fused fakes are fakes to the discriminator too; kayamin's: not
  (`discriminate_fused=False`).
* its running statistics move in its own steps; kayamin's: in all
  (`statistics_in_generator_step`).
* its strength is a running accuracy; kayamin's: that of one batch
  (`accuracy_decay=0.0`).
* trunks are switched with statistics, and moments begin anew; milankinen's: parameters
  alone.
* the target pose is sampled anew each time, or is that of a ground truth; zhangjunh's:
  L1 to the input, whatever its pose.
* target yaws are uniform; the authors': the first of an identity's is normal, of 45
  degrees.
* images with a pose are mirrored with it; the authors': not at all, the others without.
* in the CVPR form an image of unknown identity costs -log(1 - p_fake); the paper has
  none.
* cosines are cosines; the authors' normalise along the batch.
"""

from typing import Any

Arguments = dict[str, Any]


def cvpr_2017() -> Arguments:
    """Returns the choices of CVPR 2017: grey images, a fake is one identity more."""
    return {
        "objective": {"name": "cvpr"},
        "network": {"generator": {"channels": 1}},
        "canvas_size": 100,
    }


def authors_2018() -> Arguments:
    """Returns those of the authors' last program: a yaw, branches, AM-softmax."""
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
    """Returns those of kayamin/DR-GAN, of which a training trace is published.

    Args:
      multi: several images of each identity are summed by their confidence.
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
