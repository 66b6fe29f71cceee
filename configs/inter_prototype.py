"""Inter-Prototype (BMVC 2021, arXiv 2110.11630): separated prototypes of children.

smoke        Rendered identities, some with child images, and a tiny network; nothing is
             downloaded. 2 cores: under two minutes.
    fr-jax train --config=configs/inter_prototype.py:smoke --workdir=runs/smoke

faces        3,000 rendered identities, 16 images each: a recogniser of rendered faces,
             which DR-GAN's recipes use. LFW 78.7 +- 1.0 %, CFP-FP 64.1 % in one run of
             these settings; 33 minutes.
    fr-jax train --config=configs/inter_prototype.py:faces --workdir=runs/recogniser

cfp          CFP, identities 001 to 450; 451 to 500 are held out. CFP has no ages: 50
             random identities stand in for the child identities. 36 minutes on 2
             cores; LFW 84.6, held-out CFP-FP 77.9 % (untrained: 65.4, 59.0).
    fr-jax data convert $FACES/cfp --layout cfp --to $RECORDS --name cfp
    fr-jax train --config=configs/inter_prototype.py:cfp --workdir=runs/cfp \
        --config.data.records.path=$RECORDS/cfp

own          Records of your own, the network of cfp, with plain margin softmax unless
             config.data.children.age_file is given. Warm-up (the first 5 %) and cosine
             take up the whole run, however long it is: shorten it with
             --config.train.epochs or num_steps alone.
    fr-jax data convert aligned --to $RECORDS --name mine
    fr-jax train --config=configs/inter_prototype.py:own --workdir=runs/mine \
        --config.data.records.path=$RECORDS/mine

paper_casia  CASIA-WebFace with the paper's settings (50 epochs, one GPU). Published:
             AgeDB-C20 83.55, FG-NET-C20 82.27, LAG 90.49 % (three runs; best threshold
             and best epoch of each list). Not run here at this scale.
    fr-jax data convert $DATA/faces_webface_112x112 --to $RECORDS --name casia
    fr-jax train --config=configs/inter_prototype.py:paper_casia --workdir=runs/casia \
        --config.data.records.path=$RECORDS/casia \
        --config.data.children.age_file=casia-webface.txt

paper_ms1m   MS1MV2, the same (25 epochs). Published: AgeDB-C20 87.36, FG-NET-C20 85.81,
             LAG 93.12 %. Not run here at this scale.
    fr-jax data convert $DATA/faces_emore --to $RECORDS --name ms1m
    fr-jax train --config=configs/inter_prototype.py:paper_ms1m --workdir=runs/ms1m \
        --config.data.records.path=$RECORDS/ms1m \
        --config.data.children.age_file=ms1m.txt

Options depend on the head; set both together:
    --config.system.head=adaface --config.system.head_options='{"margin": 0.4}'
"""

from typing import Any

from ml_collections import ConfigDict

from configs import run_defaults

VARIANTS = ("smoke", "faces", "cfp", "own", "paper_casia", "paper_ms1m")


def get_config(variant: str = "smoke") -> ConfigDict:
    """Returns the configuration of a variant; see the module's docstring."""
    config: Any = ConfigDict(
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
                    "warmup_share": 0.0,  # of the run, instead of warmup_epochs
                    "momentum": 0.9,
                    "weight_decay": 5e-4,
                    "clip_norm": 0.0,  # 0: none
                    "accumulate": 1,
                },
                "augmentation": (("flip", {}),),
            },
            "data": {
                # rendered once, generated for every batch, or discofacegan: the same,
                # by --given generator=GENERATOR
                "source": "records",
                "batch_size": 64,
                "images_per_identity": 0,  # in a batch; 0: any
                "records": {
                    "path": "",
                    "identities": "",  # 'first:last' or '@file'; empty: all
                    "expected_identities": 0,  # another number is an error; 0: any
                },
                "rendered": {
                    "num_identities": 60,
                    "num_images": 12,
                    "num_unseen": 100,  # identities for evaluation
                    "child_share": 0.2,  # of identities with child images, half of them
                    "max_yaw": 45.0,
                    "size": 64,
                },
                "discofacegan": {
                    "num_identities": 1000,
                    "num_images": 16,  # of an identity an epoch
                    "num_unseen": 100,  # identities for evaluation
                    "size": 112,
                    "factor": 0,  # of `fr-jax generate`
                    "truncation": 0.7,
                    "dtype": "float32",  # or bfloat16, of the convolutions
                },
                "children": {
                    "age_file": "",
                    "child_filter": 10,
                    "age_below": 13.0,
                    "published": "",  # 'casia' or 'ms1m': print the published counts
                    "stand_ins": 0,
                    "seed": 0,
                },
            },
            **run_defaults(epochs=50.0, seed=4885),
        }
    )
    system, train = config.system, config.train
    train.save_every = 2000
    if variant in ("smoke", "faces", "cfp", "own"):
        system.backbone = "iresnet18"
        system.head = "cosface"
        system.image_size = 48
        system.optimizer.schedule = "cosine"
        config.data.batch_size = 32
    if variant == "paper_casia":
        config.data.records.expected_identities = 10_572
        config.data.children.published = "casia"
    elif variant == "paper_ms1m":
        config.data.records.expected_identities = 85_742
        system.optimizer.milestones = (14, 19, 23)
        train.epochs = 25.0
        config.data.children.published = "ms1m"
    elif variant in ("cfp", "own", "faces"):
        system.backbone_options.update({"embedding_size": 256, "dropout": 0.3})
        system.head_options = ConfigDict({"margin": 0.3, "scale": 32.0})
        system.optimizer.learning_rate = 0.05
        system.augmentation = (
            ("flip", {}),
            ("similarity", {"probability": 1.0}),
            ("low_resolution", {}),
            ("colour_jitter", {"probability": 0.5}),
        )
        train.ema_decay = 0.995
        if variant != "faces":
            system.backbone_options.width = 0.5
            system.image_size = 56
            train.epochs = 20.0
            if variant == "own":
                system.optimizer.warmup_share = 0.05
            else:
                system.optimizer.warmup_epochs = 1.0
                config.data.records.identities = "001:450"
                config.data.children.stand_ins = 50
                train.evaluate_every = train.save_every = 985  # five epochs
        else:
            config.data.source = "rendered"
            rendered = config.data.rendered
            rendered.update({"num_identities": 3000, "num_images": 16, "size": 48})
            rendered.update({"child_share": 0.0, "max_yaw": 90.0})
            system.backbone_options.width = 0.25
            system.optimizer.warmup_epochs = 0.25
            train.num_steps = 8000
            train.evaluate_every = train.save_every = 2000
    elif variant == "smoke":
        config.data.source = "rendered"
        config.data.children.child_filter = 5
        system.backbone_options.update({"embedding_size": 128, "dropout": 0.0})
        system.backbone_options.width = 0.25
        system.head_options = ConfigDict({"margin": 0.2, "scale": 24.0})
        train.epochs = 24.0
        train.log_every = 20
        train.evaluate_every = train.save_every = 100
    return config
