r"""FRA (ESWA 2023, arXiv 2301.11986): embeddings of a face in other poses.

smoke        Rendered identities with KDEF's expressions and poses; the embedder is 64
             eigenfaces of the training images, for a trial only: nothing is downloaded.
             2 cores: about a minute, half of it compilation.
    fr-jax train --config=configs/fra.py:smoke --workdir=runs/smoke

faces        48 rendered identities, 70 images each, and a recogniser of rendered faces.
             8 others for validation, 14 for evaluation. Not run here.
    fr-jax train --config=configs/inter_prototype.py:faces --workdir=runs/recogniser
    fr-jax train --config=configs/fra.py:faces --workdir=runs/fra \
        --given embedder=runs/recogniser/embedder

cmu          CMU Face Images, from photographs to figures: 13 persons, 3 for validation,
             4 for evaluation; poses left, right, straight, up. The landmarks are those
             of a regressor (configs/landmarks.py). 936 steps, set for 15 minutes on 2
             cores by an estimate of the operations. Not run here.
    fr-jax train --config=configs/fra.py:cmu --workdir=runs/cmu \
        --config.data.photographs.path=$DATA/cmu_faces \
        --config.data.photographs.detector=face_detection_yunet_2026may.onnx \
        --given embedder=EMBEDDER --given landmarks=runs/landmarks/embedder_landmarks

paper_kdef_magface
             KDEF with the settings of the published program: 10,000 tuples of few
             donors, a third of them for validation, sessions as identities, shifted
             landmarks, inputs, dropout in validation. Published gain in the accuracy of
             identities: 9.52 points (abstract). Not run here.
paper_kdef_arcface
             The same for ArcFace; published gain 10.04. Not run here.
paper_kdef_cosface
             The same for CosFace, dropout 0.05; published gain 16.60. Not run here.
    fr-jax data align $DATA/KDEF --detector yunet.onnx --to aligned/kdef
    fr-jax data convert aligned/kdef --layout kdef --to $RECORDS --name kdef
    fr-jax import magface_epoch_00025.pth --to embedders/magface
    fr-jax train --config=configs/fra.py:paper_kdef_magface --workdir=runs/magface \
        --config.data.records.path=$RECORDS/kdef --given embedder=embedders/magface

68 landmarks are read from NAME.pts (iBUG), NAME.npy or NAME.npz beside NAME.jpg, or
from the columns x0, y0 to x67, y67 of a labels.csv; align moves those of files with the
image. Those of other images are computed by a regressor (--given landmarks=REGRESSOR);
without one these images are dropped, and counted.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import run_defaults

# AE dropout and rows of the position table by embedder, as published.
_PAPER: dict[str, tuple[float, int | None]] = {
    "paper_kdef_magface": (0.4, 33),
    "paper_kdef_arcface": (0.4, 33),
    "paper_kdef_cosface": (0.05, None),
}
VARIANTS = ("smoke", "faces", "cmu", *_PAPER)


def get_config(variant: str = "smoke") -> ConfigDict:
    """Returns the configuration of a variant; see the module's docstring."""
    config: Any = ConfigDict(
        {
            "system_name": "fra",
            "system": {
                "network": {
                    "decoder": "published",  # or sane
                    "dropout": 0.4,  # of the autoencoder
                    "vit_dropout": 0.05,
                    "width": 1.0,  # of the autoencoder; its code has 512 * width values
                    "inner_size": 512,  # of embeddings; with the code a square number
                    "patch": 8,
                    "vit_width": 256,
                    "vit_depth": 4,
                    "positions": None,  # rows of the position table; None: as needed
                },
                "margin": "auto",  # published, scaled or a number
                "triplet_loss": "triplet_margin",
                "reconstruction_loss": "cross_entropy",  # or clamped_cross_entropy
                "weights": {
                    "reconstruction": 1.0,
                    "identity": 1.0,
                    "pose": 1.0,
                    "expression": 1.0,
                },
                "dropout_in_validation": False,
                "plateau_loss": "mean",  # or last
                "optimizer": {
                    "name": "adam",
                    "learning_rate": 1e-3,
                    "betas": (0.9, 0.999),
                    "weight_decay": 1e-4,
                    "schedule": "plateau",
                    "plateau": {
                        "factor": 0.5,
                        "patience": 5,  # evaluations
                        "cooldown": 0,
                        "min_factor": 0.0,
                        "stop_after": 15,  # 0: never
                    },
                },
            },
            "data": {
                "source": "records",  # or photographs, rendered
                "batch_size": 256,
                "sampling": "uniform",  # original: the first tuples, few donors
                "num_tuples": 10_000,  # in a list (original) or an epoch (uniform)
                "faithful_negatives": False,
                "landmark_frame": "aligned",  # loose: landmarks of a wider frame
                "faithful_landmarks": False,
                "faithful_inputs": False,  # those of the published program
                "embeddings": "",  # folder of stored embeddings; empty: the workdir
                "eigenfaces": 0,  # components; 0: --given embedder=EMBEDDER is needed
                "split": {
                    "kind": "person",  # or image, tuple
                    "validation_identities": 8,
                    "held_out": 14,  # identities for evaluation
                    "validation_share": 0.2,  # of each identity's images
                },
                "records": {
                    "path": "",
                    "identities": "",  # 'first:last' or '@file'; empty: all
                    "pose_step": 15.0,  # degrees that make one pose
                    "faithful_ids": False,  # a session is an identity
                },
                "photographs": {  # aligned and converted to records in the workdir
                    "path": "",  # folder
                    "layout": "auto",  # as of fr-jax data convert
                    "detector": "",  # YuNet .onnx
                },
                "rendered": {"num_identities": 48, "size": 48},
                "evaluation": {  # after training, of held-out identities
                    "protocol": "clean",  # original: as published; empty: none
                    "classifiers": ("svm", "knn", "logistic"),
                    "repeats": 5,  # of protocol clean, each with another seed
                },
            },
            **run_defaults(epochs=100.0),
        }
    )
    system, data, train = config.system, config.data, config.train
    train.evaluate_every = 39  # an epoch
    train.save_every = 390
    train.best_metric = "-validation/loss"
    if variant in _PAPER:
        dropout, positions = _PAPER[variant]
        system.network.update(dropout=dropout, positions=positions)
        system.update(margin="published", reconstruction_loss="clamped_cross_entropy")
        system.update(dropout_in_validation=True, plateau_loss="last")
        system.optimizer.plateau.update(patience=30, min_factor=1e-4, stop_after=0)
        data.update(sampling="original", faithful_negatives=True)
        data.update(faithful_landmarks=True, faithful_inputs=True)
        data.evaluation.update(protocol="original", classifiers=("svm",))
        data.split.kind = "tuple"
        data.records.faithful_ids = True
        train.epochs = 3.0
        train.evaluate_every = 26  # an epoch
    elif variant == "cmu":
        data.update(source="photographs", batch_size=64, num_tuples=5000)
        data.photographs.layout = "cmu"
        data.split.update(validation_identities=3, held_out=4)
        train.epochs = 12.0
        train.evaluate_every = 78  # an epoch
    else:
        data.source = "rendered"
        if variant == "smoke":
            data.update(batch_size=32, num_tuples=640, eigenfaces=64)
            data.rendered.update(num_identities=6, size=32)
            data.split.update(validation_identities=2, held_out=3)
            system.network.update(width=0.125, inner_size=192, patch=4)
            # Masks of dropout take most of the compilation.
            system.network.update(dropout=0.0, vit_dropout=0.0)
            system.network.update(vit_width=64, vit_depth=1)
            data.evaluation.update(classifiers=("svm",), repeats=2)
            train.epochs = 4.0
            train.update(log_every=20, evaluate_every=40, save_every=80)
            train.best_metric = ""
    return config
