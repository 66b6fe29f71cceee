"""USynthFace (FG 2023, arXiv 2211.07371): momentum contrast on unlabelled faces.

The scores of smoke, faces_cpu and cfp were measured with keys of the query's identity
as negatives (--config.system.queue.mask_identity=False), those of smoke and faces_cpu
with an earlier version of the renderer; docs/results.md has the full commands.

smoke        Rendered identities and a tiny network; nothing is downloaded. 2 cores:
             two minutes; accuracy on unseen rendered identities 79 % (untrained: 59).
    fr-jax train --config=configs/usynthface.py:smoke --workdir=runs/smoke

faces        Rendered identities, every pair new, for an accelerator: iResNet-50,
             K 32,768. Not run here at this scale. faces_cpu renders once and trains a
             smaller network on smaller images: 49 minutes on 2 cores; LFW 77.3, CFP-FP
             63.2 % (untrained 61.4, 55.4).
    fr-jax train --config=configs/usynthface.py:faces --workdir=runs/faces
    fr-jax train --config=configs/usynthface.py:faces_cpu --workdir=runs/faces_cpu

cfp          CFP without its labels, one folder = one identity: identities 001 to
             450; 451 to 500 are held out. 2 cores: 22 minutes; LFW 79.3, held-out
             CFP-FP 78.7 % (untrained 61.4, 56.9).
    fr-jax data convert $FACES/cfp --layout cfp --to $RECORDS --name cfp
    fr-jax train --config=configs/usynthface.py:cfp --workdir=runs/cfp \
        --config.data.records.path=$RECORDS/cfp

own          Records of your own without identities: each image is paired with itself,
             augmented twice. The network and settings of cfp, a queue of 1,024.
    fr-jax data convert aligned --to $RECORDS --name flat --flat
    fr-jax train --config=configs/usynthface.py:own --workdir=runs/flat \
        --config.data.records.path=$RECORDS/flat

paper_100k, paper_200k, paper_400k
             DiscoFaceGAN images of that number of identities, one folder of up to 128
             images each; the paper's settings (four GPUs). Published: LFW 92.12, 91.93,
             92.23, AgeDB-30 71.08, 71.23, 71.62, CFP-FP 78.19, 78.03, 78.56 %. Not run
             here at this scale. Learning rate, stop and the step handed over are
             selected on 200 held-out identities; as published, on the test sets (second
             command). Published images of 256 pixels are aligned by `fr-jax data
             align`, as published with --legacy-bgr, and converted:
    fr-jax generate --generator disco --identities 100000 --to $RECORDS \
        --format records --name disco
    fr-jax train --config=configs/usynthface.py:paper_100k --workdir=runs/100k \
        --config.data.records.path=$RECORDS/disco
    fr-jax train --config=configs/usynthface.py:paper_100k --workdir=runs/legacy \
        --config.data.records.path=$RECORDS/disco \
        --config.data.records.template=train96 \
        --config.system.queue.mask_unfilled=False \
        --config.system.queue.mask_identity=False \
        --config.system.backbone_options.bn_first_group=True \
        --config.data.records.held_out=0 \
        --config.train.best_metric=lfw/accuracy,agedb_30/accuracy,cfp_fp/accuracy \
        --config.data.selection.kind=legacy \
        "--config.data.selection.sets=('lfw', 'agedb_30', 'cfp_fp')" \
        "--config.evaluation.sets=('lfw=$DATA/lfw.bin',
        'agedb_30=$DATA/agedb_30.bin', 'cfp_fp=$DATA/cfp_fp.bin')" \
        --config.evaluation.subset=0

An epoch has one pair of every identity; without identities, of every image.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import run_defaults

_PAPER = {"paper_100k": 100_000, "paper_200k": 200_000, "paper_400k": 400_000}
VARIANTS = ("smoke", "faces", "faces_cpu", "cfp", "own", *_PAPER)


def get_config(variant: str = "smoke") -> ConfigDict:
    """Returns the configuration of a variant; see the module's docstring."""
    config: Any = ConfigDict(
        {
            "system_name": "usynthface",
            "system": {
                "backbone": "iresnet50",
                "backbone_options": {
                    "width": 1.0,
                    "embedding_size": 512,
                    "dropout": 0.0,
                    "dtype": "float32",  # or bfloat16
                    "bn_groups": 4,
                    "bn_first_group": False,  # True: as published, of one device
                    "remat": False,
                },
                "projection": None,  # or {'features': 128}, an MLP for training only
                "image_size": 112,
                "queue": {
                    "size": 32_768,
                    "policy": "normal",  # or simQ, dissimQ
                    "mask_unfilled": True,
                    "mask_identity": True,
                    "force": False,
                },
                "key_momentum": 0.999,
                "shuffle_keys": True,
                "loss": "margin_nce",
                "loss_options": {"margin": 0.1, "temperature": 0.07},
                "symmetric": False,
                "optimizer": {
                    "name": "sgd",
                    "learning_rate": 0.1,  # times batch_size / reference_batch
                    "reference_batch": 512,
                    "schedule": "plateau",
                    "milestones": (8, 16, 24, 32),  # epochs
                    "warmup_epochs": 0.0,
                    "plateau": {
                        "factor": 0.1,
                        "patience": 10,
                        "cooldown": 10,
                        "threshold": 1e-4,
                        "stop_after": 20,
                    },
                    "momentum": 0.9,
                    "weight_decay": 5e-4,
                    "clip_norm": 0.0,  # 0: none
                    "accumulate": 1,
                },
            },
            "data": {
                # rendered once, generated for every batch, or discofacegan: the same,
                # by --given generator=GENERATOR
                "source": "records",
                "batch_size": 512,
                "pairing": "disco",  # or disco_HF, flat
                "augment": "auto",  # host, device or none
                "num_ops": 4,
                "magnitude": 16,
                "records": {
                    "path": "",
                    "identities": "",  # 'first:last' or '@file'; empty: all
                    "num_identities": 0,  # the first ones; 0: all
                    "held_out": 200,  # identities for evaluation
                    "template": "arcface112",  # train96: 8 px to the left, as published
                },
                "rendered": {
                    "num_identities": 3000,
                    "num_images": 16,
                    "num_unseen": 200,  # identities for evaluation
                    "max_yaw": 60.0,
                    "size": 64,
                },
                "discofacegan": {
                    "num_identities": 1000,
                    "num_unseen": 100,  # identities for evaluation
                    "size": 112,
                    "factor": 0,  # of `fr-jax generate`
                    "truncation": 0.7,
                    "dtype": "float32",  # or bfloat16, of the convolutions
                },
                # Sets whose mean accuracy (on the subset) lowers the rate and stops.
                "selection": {"kind": "clean", "sets": ("heldout",)},
            },
            **run_defaults(epochs=200.0),
        }
    )
    data, system = config.data, config.system
    num_identities = _PAPER.get(variant, 100_000)
    config.train.evaluate_every = num_identities // 512  # an epoch
    config.train.save_every = 5 * config.train.evaluate_every
    if variant in _PAPER:
        data.records.num_identities = num_identities
        config.train.best_metric = "heldout/accuracy"
    elif variant in ("cfp", "own"):
        data.batch_size = 64
        data.records.held_out = 0
        data.selection.sets = ()
        _small(config, epochs=250.0 if variant == "cfp" else 20.0)
        if variant == "cfp":
            data.records.identities = "001:450"
            system.queue.size = 192
        else:
            data.pairing = "flat"
            system.queue.size = 1024
    else:
        data.source = "rendered"
        data.batch_size = 64
        data.selection.sets = ("unseen",)
        if variant == "faces":
            data.source = "generated"
            data.batch_size = 512
            data.rendered.update({"num_identities": num_identities, "num_images": 0})
            data.rendered.size = 112
        elif variant == "faces_cpu":
            data.rendered.size = 48
            system.queue.size = 1024
            _small(config, epochs=100.0)
        else:
            data.rendered.update({"num_identities": 400, "num_images": 4, "size": 48})
            data.rendered.update({"num_unseen": 100, "max_yaw": 45.0})
            system.queue.size = 128
            _small(config, epochs=24.0)
            data.num_ops = 1
            system.backbone_options.embedding_size = 128
            config.train.log_every = 15
            config.train.evaluate_every = config.train.save_every = 75
    return config


def _small(config: Any, epochs: float) -> None:
    """Sets a narrow network, small images and settings for training on two cores.

    Two operations instead of four, larger BatchNorm groups and a higher temperature:
    with the paper's settings a small network learns nothing in a few hundred steps.
    """
    config.data.num_ops = 2
    config.system.backbone_options.bn_groups = 2
    config.system.loss_options.temperature = 0.1
    config.system.backbone = "iresnet18"
    config.system.backbone_options.update({"width": 0.25, "embedding_size": 256})
    config.system.image_size = 48
    config.system.key_momentum = 0.99
    config.system.optimizer.reference_batch = 64
    config.system.optimizer.learning_rate = 0.05
    config.system.optimizer.schedule = "cosine"
    config.train.epochs = epochs
    config.train.evaluate_every = config.train.save_every = 500
