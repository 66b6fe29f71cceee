"""Configuration shared by all systems: length of a run, checkpoints, evaluation."""

from typing import Any


def run_defaults(*, epochs: float, seed: int = 0) -> dict[str, Any]:
    """Returns the sections `train` and `evaluation` of a configuration."""
    return {
        "train": {
            "epochs": epochs,
            "num_steps": 0,  # 0: by epochs
            "seed": seed,
            "model_axis": 1,  # devices over which classifier rows are sharded
            "ema_decay": 0.0,  # of the average handed over; 0: none
            "log_every": 100,
            "evaluate_every": 0,
            "save_every": 1000,
            "keep": 3,
            "best_metric": "",  # 'lfw/accuracy', '-validation/loss': its best step
            "guard": True,
            "profile": (),  # (first step, last step)
        },
        # NAME=PATH[,root=DIR][,protocol=P][,missing=drop]; during training, `subset`
        # pairs per set; `unaligned` accepts images of any size.
        "evaluation": {"sets": (), "subset": 600, "unaligned": False},
    }
