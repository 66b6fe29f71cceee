"""68-point landmark regressor, trained on rendered faces alone.

smoke        A tiny network on 80 rendered faces; nothing is downloaded. It shows that
             everything runs, not that points are good.
    fr-jax train --config=configs/landmarks.py:smoke --workdir=runs/smoke

faces        16,000 rendered faces of 4,000 identities, each cropped anew in every
             epoch; 9,000 steps, set for an hour on 2 cores by an estimate of the
             operations (0.46 billion an image, and rendering). Not run here yet.
    fr-jax train --config=configs/landmarks.py:faces --workdir=runs/landmarks

With photographs that have a .pts each, the errors on them are among the results:
    --config.data.photographs.path=$DATA/300w
    --config.data.photographs.detector=face_detection_yunet_2026may.onnx
"""

from typing import Any

from ml_collections import ConfigDict

from configs import run_defaults

VARIANTS = ("smoke", "faces")


def get_config(variant: str = "smoke") -> ConfigDict:
    """Returns the configuration of a variant; see the module's docstring."""
    config: Any = ConfigDict(
        {
            "system_name": "landmarks",
            "system": {
                "backbone": "landmark_regressor",
                "backbone_options": {
                    "width": 1.0,
                    "head": "heatmap",  # or dense
                    "dropout": 0.0,
                    "dtype": "float32",  # or bfloat16
                    "bn_groups": 1,
                    "remat": False,
                },
                "image_size": 112,
                "crop": {  # squares around the points, as detectors may place them
                    "margin": 1.3,  # times the longer side of the box
                    "raised": 0.35,  # share of its height added above, at most
                    "scale": 0.15,
                    "shift": 0.08,
                    "degrees": 15.0,
                    "mirrored": 0.5,
                },
                "loss": "wing",
                "loss_options": {"width": 10.0, "curvature": 2.0},  # percent
                "optimizer": {
                    "name": "adam",
                    "learning_rate": 1e-3,
                    "schedule": "cosine",
                    "betas": (0.9, 0.999),
                    "warmup_epochs": 0.0,
                    "warmup_share": 0.02,
                    "clip_norm": 0.0,  # 0: none
                    "accumulate": 1,
                },
                "augmentation": (
                    ("colour_jitter", {"probability": 0.7}),
                    ("grey", {"probability": 0.2}),
                    ("cover", {"probability": 0.3}),
                    ("blur", {"probability": 0.4}),
                    ("noise", {"probability": 0.3}),
                    ("jpeg", {"probability": 0.4}),
                ),
            },
            "data": {
                "source": "rendered",
                "batch_size": 32,
                "rendered": {
                    "num_identities": 4000,
                    "num_images": 4,
                    "num_unseen": 200,  # identities for evaluation
                    "max_yaw": 60.0,
                    "size": 160,
                    "quality": "fast",  # or full
                    "contour": True,  # jaw as annotated; False: hidden points too
                },
                "photographs": {
                    "path": "",  # folder or .tar of images with .pts
                    "detector": "",  # YuNet .onnx
                },
            },
            **run_defaults(epochs=30.0),
        }
    )
    train = config.train
    train.ema_decay = 0.999
    if variant == "faces":
        train.num_steps = 9000  # 18 epochs
        train.evaluate_every = train.save_every = 1500
    else:
        config.data.rendered.update({"num_identities": 40, "num_images": 2, "size": 96})
        config.data.rendered.num_unseen = 10
        config.data.batch_size = 16
        config.system.backbone_options.width = 0.25
        config.system.image_size = 48
        config.system.augmentation = (("grey", {}), ("cover", {}))  # compile sooner
        train.num_steps = 60
        train.log_every = 20
        train.evaluate_every = train.save_every = 60
    return config
