r"""Self-augmentation (ICRA 2020): the persons of one video, without labels.

Every variant has three stages, each a run of its own: VARIANT trains the encoder of
identities, VARIANT_augment the augmentation network, VARIANT_refine the encoder again,
with generated negatives. Each takes the networks of the stages before it.

smoke        A rendered clip of 4 identities and small networks; nothing is downloaded.
             It shows that everything runs, not that clusters are good.
    fr-jax train --config=configs/self_augmentation.py:smoke --workdir=runs/identity
    fr-jax train --config=configs/self_augmentation.py:smoke_augment \
        --workdir=runs/augment --given identity=runs/identity/embedder
    fr-jax train --config=configs/self_augmentation.py:smoke_refine \
        --workdir=runs/refine --given identity=runs/identity/embedder \
        --given augmentation=runs/augment/embedder_augmentation

rendered     A rendered video of 6 identities, 20 tracklets each, in bright and dark
             shots, at 64 pixels and quarter width. The encoder begins with a network
             trained without labels on rendered faces. Not run here.
    fr-jax train --config=configs/usynthface.py:faces_cpu --workdir=runs/faces
    fr-jax train --config=configs/self_augmentation.py:rendered \
        --workdir=runs/identity --init-from=runs/faces/embedder

video        A clip of one's own, with an embedder of faces. Not run here.
    fr-jax video tracks clip.mp4 --detector yunet.onnx --to tracks
    fr-jax train --config=configs/self_augmentation.py:video --workdir=runs/identity \
        --config.data.records.path=tracks --init-from=EMBEDDER

paper        As video, with VGG-16 at 224 pixels on faces with hair and shoulders, and
             128 pixels in the augmentation network. Rates, batch and steps are not
             published: those of Zhang et al. (ECCV 2016), or chosen. Not run here.
    fr-jax train --config=configs/self_augmentation.py:paper --workdir=runs/identity \
        --config.data.records.path=tracks --init-from=VGG_FACE
"""

from typing import Any

from ml_collections import ConfigDict

from configs import run_defaults

_STAGES = {"": "identity", "_augment": "augment", "_refine": "refine"}
_KINDS = ("smoke", "rendered", "video", "paper")
VARIANTS = tuple(kind + suffix for kind in _KINDS for suffix in _STAGES)
_VGG_SLOW = (  # all but fc7, which learns as fast as the new layer
    *(
        f"network/conv{stage}_{number}"
        for stage, count in enumerate((2, 2, 3, 3, 3), 1)
        for number in range(1, count + 1)
    ),
    "network/fc6",
)


def get_config(variant: str = "smoke") -> ConfigDict:
    """Returns the configuration of a variant; see the module's docstring."""
    kind, _, suffix = variant.partition("_")
    stage = _STAGES["_" + suffix if suffix else ""]
    config: Any = ConfigDict(
        {
            "system_name": "self_augmentation",
            "system": {
                "encoder": {
                    "backbone": None,  # None: that of --init-from, or a MobileFaceNet
                    "backbone_options": {},
                    "head": "dense",  # a new layer; none: without
                    "embedding_size": 64,
                    "image_size": None,  # None: that of --init-from, or 112
                    "unit_length": False,
                    "slow": ("network",),  # at slow_factor times the rate
                    "slow_factor": 0.1,
                    "loss": "sym_triplet",
                    "margin": 1.0,
                    "optimizer": {
                        "name": "sgd",
                        "learning_rate": 1e-3,
                        "momentum": 0.9,
                        "weight_decay": 1e-4,
                        "schedule": "constant",
                    },
                    "augmentation": (("flip", {}),),
                },
                "augment": {
                    "image_size": 128,
                    "appearance_size": 64,
                    "width": 1.0,
                    "weights": {
                        "reconstruction": 10.0,
                        "kl": 0.01,
                        "adversarial": 1.0,
                        "information": 1.0,
                    },
                    "kl_warmup": 2000,  # updates of the generator
                    "train_on_swaps": True,
                    "adversarial_loss": "hinge",
                    "update": {"name": "fixed", "ratio": (1, 1)},
                    "optimizer": {
                        "learning_rate": 1e-4,
                        "betas": (0.5, 0.999),
                        "discriminator": {"learning_rate": 2e-4},
                    },
                },
                "refine": {"augmented_share": 0.5, "gate": True},
            },
            "data": {
                "stage": stage,
                "source": "records",  # or rendered
                "faces": "aligned",  # or crops, with hair and shoulders
                "sampling": "online",  # enumerated: the published list of triplets
                "batch_size": 32,
                "records": {"path": ""},  # folder of fr-jax video tracks
                "rendered": {
                    "seed": -1,  # of the group and the shots; -1: train.seed
                    "num_identities": 6,
                    "shots": 40,
                    "shot_frames": 30,
                    "together": 3,  # identities in a shot
                    "frame_size": (320, 180),
                    "size": 64,  # of a face
                    "quality": "fast",  # or full
                },
            },
            **run_defaults(epochs=1.0),
        }
    )
    system, data, train = config.system, config.data, config.train
    train.ema_decay = 0.999 if stage == "augment" else 0.0
    train.num_steps = {"identity": 5000, "augment": 60_000, "refine": 5000}[stage]
    if kind == "paper":
        data.faces = "crops"
        system.encoder.backbone = "vgg16"
        system.encoder.backbone_options = {"embedding_size": None}
        system.encoder.image_size = 224
        system.encoder.slow = _VGG_SLOW
    elif kind == "video":
        system.augment.image_size = 64
    else:
        data.source = "rendered"
        system.augment.update(image_size=64, width=0.25)
        train.num_steps = {"identity": 1500, "augment": 6000, "refine": 1500}[stage]
    if kind == "smoke":
        data.batch_size = 8
        data.rendered.update(num_identities=4, shots=8, shot_frames=10, size=32)
        data.rendered.update(frame_size=(160, 120), together=2)
        system.encoder.update(backbone="sphere20", image_size=32, head="none")
        system.encoder.backbone_options = {"width": 0.125, "embedding_size": 32}
        system.encoder.slow = ()
        system.augment.update(image_size=32, width=0.125, appearance_size=16)
        train.num_steps = {"identity": 60, "augment": 120, "refine": 60}[stage]
        train.update(log_every=20, save_every=60)
    return config
