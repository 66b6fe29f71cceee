"""Inter-Prototype (BMVC 2021).

smoke
"""

from ml_collections import ConfigDict

VARIANTS = ("smoke", "cfp", "paper_casia", "paper_ms1m")


def get_config(variant: str = "smoke") -> ConfigDict:
    """Returns the configuration of a variant; see the module's text."""
    config = ConfigDict(
        {
            "system_name": "inter_prototype",
            "system": {
                "backbone": "ir_se50",
                "backbone_options": {
                    "dropout": 0.6,
                    "dtype": "float32",
                    "bn_groups": 1,
                },
                "image_size": 112,
                "head": "arcface",
                "head_options": {"margin": 0.5, "scale": 64.0},
                "lambda_child": 1.0,
                "learning_rate": 0.1,
                "schedule": "step",
                "milestones": (28, 38, 46),
                "warmup_epochs": 0.0,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "accumulate": 1,
                "augmentation": (("flip", {}),),
            },
            "data": {
                "source": "records",
                "path": "",
                "batch_size": 64,
                "identities": "",
                "images_per_identity": 0,
            },
            "children": {
                "age_file": "",
                "child_filter": 10,
                "age_below": 13.0,
                "published": "",
                "stand_ins": 0,
                "seed": 0,
            },
            "train": {
                "epochs": 50.0,
                "num_steps": 0,
                "seed": 4885,
                "model_axis": 1,
                "ema_decay": 0.0,
                "log_every": 100,
                "evaluate_every": 0,
                "save_every": 2000,
                "keep": 3,
                "best_metric": "",
                "guard": True,
                "profile": (),
            },
            "evaluation": {"sets": (), "subset": 600},
        }
    )
    if variant == "smoke":
        config.data = ConfigDict(
            {
                "source": "drawn",
                "batch_size": 32,
                "num_identities": 60,
                "num_images": 12,
                "size": 64,
            }
        )
        config.children.stand_ins = 10
        config.system.backbone = "iresnet18"
        config.system.backbone_options = ConfigDict(
            {"width": 0.25, "embedding_size": 128}
        )
        config.system.image_size = 48
        config.system.head = "cosface"
        config.system.head_options = ConfigDict({"margin": 0.2, "scale": 24.0})
        config.system.schedule = "cosine"
        config.train.epochs = 12.0
        config.train.log_every = 20
        config.train.evaluate_every = 100
        config.train.save_every = 100
    return config
