"""Inter-Prototype (BMVC 2021): margin softmax whose child prototypes are pushed apart.

smoke        Rendered identities, some with child images, and a tiny network; nothing is
             downloaded. 2 cores: under two minutes.
    fr-jax train --config=configs/inter_prototype.py:smoke --workdir=runs/smoke

cfp          CFP, people 001 to 450; 451 to 500 are held out. CFP has no ages, so 50
             seeded people stand in for the child identities. 35 minutes on 2 cores; LFW
             85.0, held-out CFP-FP 77.7 % (untrained: 65.6, 59.1).
    fr-jax data convert $DATA/cfp --to $RECORDS --name cfp
    fr-jax train --config=configs/inter_prototype.py:cfp --workdir=runs/cfp \
        --config.data.records.path=$RECORDS/cfp

paper_casia  CASIA-WebFace with the paper's settings (50 epochs, one GPU). Published:
             AgeDB-C20 83.55, FG-NET-C20 82.27, LAG 90.49 % (three runs; best threshold
             and best epoch of each list). Not run here at this scale.
    fr-jax data convert $DATA/faces_webface_112x112 --to $RECORDS --name casia
    fr-jax train --config=configs/inter_prototype.py:paper_casia --workdir=runs/casia \
        --config.data.records.path=$RECORDS/casia --config.data.children.age_file=casia-webface.txt

paper_ms1m   MS1MV2 likewise (25 epochs). Published: AgeDB-C20 87.36, FG-NET-C20 85.81,
             LAG 93.12 %. Not run here at this scale.
    fr-jax data convert $DATA/faces_emore --to $RECORDS --name ms1m
    fr-jax train --config=configs/inter_prototype.py:paper_ms1m --workdir=runs/ms1m \
        --config.data.records.path=$RECORDS/ms1m --config.data.children.age_file=ms1m.txt

Another head takes other options; both are set together:
    --config.system.head=adaface --config.system.head_options='{"margin": 0.4}'
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
                    "width": 1.0,
                    "embedding_size": 512,
                    "dropout": 0.6,
                    "dtype": "float32",  # or bfloat16
                    "bn_groups": 1,
                    "remat": False,
                },
                "image_size": 112,
                "head": "arcface",
                "head_options": {"margin": 0.5, "scale": 64.0},
                "lambda_child": 1.0,
                "optimizer": {
                    "name": "sgd",
                    "learning_rate": 0.1,
                    "schedule": "step",
                    "milestones": (28, 38, 46),  # epochs
                    "warmup_epochs": 0.0,
                    "momentum": 0.9,
                    "weight_decay": 5e-4,
                    "clip_norm": 0.0,  # 0: none
                    "accumulate": 1,
                },
                "augmentation": (("flip", {}),),
            },
            "data": {
                "source": "records",  # or rendered, once; generated, every batch anew
                "batch_size": 64,
                "images_per_identity": 0,  # of records and generated batches; 0: any
                "records": {
                    "path": "",
                    "identities": "",  # 'first:last', '@file'; all
                    "expected_identities": 0,  # an error if there are others; 0: any
                },
                "rendered": {
                    "num_identities": 60,
                    "num_images": 12,
                    "num_unseen": 100,  # identities that it is evaluated on
                    "child_share": 0.2,  # of identities own child images, half of them
                    "max_yaw": 45.0,
                    "size": 64,
                },
                "children": {
                    "age_file": "",
                    "child_filter": 10,
                    "age_below": 13.0,
                    "published": "",  # 'casia' or 'ms1m': print their counts beside ours
                    "stand_ins": 0,
                    "seed": 0,
                },
            },
            "train": {
                "epochs": 50.0,
                "num_steps": 0,  # 0: as many as the epochs have
                "seed": 4885,
                "model_axis": 1,  # devices that share the classifier's rows
                "ema_decay": 0.0,
                "log_every": 100,
                "evaluate_every": 0,
                "save_every": 2000,
                "keep": 3,
                "best_metric": "",  # whose best step is handed over: 'lfw/accuracy'
                "guard": True,
                "profile": (),  # (first step, last step)
            },
            # NAME=PATH[,root=DIR][,protocol=P]; while training, `subset` pairs of each.
            "evaluation": {"sets": (), "subset": 600},
        }
    )
    if variant == "paper_casia":
        config.data.records.expected_identities = 10_572
        config.data.children.published = "casia"
    elif variant == "paper_ms1m":
        config.data.records.expected_identities = 85_742
        config.system.optimizer.milestones = (14, 19, 23)
        config.train.epochs = 25.0
        config.data.children.published = "ms1m"
    elif variant == "cfp":
        config.data.records.identities = "001:450"
        config.data.children.stand_ins = 50
        config.data.batch_size = 32
        config.system.backbone = "iresnet18"
        config.system.backbone_options.update(
            {"width": 0.5, "embedding_size": 256, "dropout": 0.3}
        )
        config.system.image_size = 56
        config.system.head = "cosface"
        config.system.head_options = ConfigDict({"margin": 0.3, "scale": 32.0})
        config.system.optimizer.learning_rate = 0.05
        config.system.optimizer.schedule = "cosine"
        config.system.optimizer.warmup_epochs = 1.0
        config.system.augmentation = (
            ("flip", {}),
            ("similarity", {"probability": 1.0}),
            ("low_resolution", {}),
            ("colour_jitter", {"probability": 0.5}),
        )
        config.train.epochs = 20.0
        config.train.ema_decay = 0.995
        config.train.evaluate_every = 985  # five epochs
        config.train.save_every = 985
    elif variant == "smoke":
        config.data.source = "rendered"
        config.data.batch_size = 32
        config.data.children.child_filter = 5
        config.system.backbone = "iresnet18"
        config.system.backbone_options.update(
            {"width": 0.25, "embedding_size": 128, "dropout": 0.0}
        )
        config.system.image_size = 48
        config.system.head = "cosface"
        config.system.head_options = ConfigDict({"margin": 0.2, "scale": 24.0})
        config.system.optimizer.schedule = "cosine"
        config.train.epochs = 24.0
        config.train.log_every = 20
        config.train.evaluate_every = 100
        config.train.save_every = 100
    return config
