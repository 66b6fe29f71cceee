"""What every run has, whatever the paper: its length, saves and evaluation."""

from typing import Any


def run_defaults(*, epochs: float, seed: int = 0) -> dict[str, Any]:
    """Returns the sections `train` and `evaluation` of a configuration."""
    return {
        "train": {
            "epochs": epochs,
            "num_steps": 0,  # 0: as many as the epochs have
            "seed": seed,
            "model_axis": 1,  # devices that share the classifier's rows
            "ema_decay": 0.0,  # of an average of the network that is handed over
            "log_every": 100,
            "evaluate_every": 0,
            "save_every": 1000,
            "keep": 3,
            "best_metric": "",  # whose best step is handed over: 'lfw/accuracy'
            "guard": True,
            "profile": (),  # (first step, last step)
        },
        # NAME=PATH[,root=DIR][,protocol=P]; while training, `subset` pairs of each.
        "evaluation": {"sets": (), "subset": 600},
    }
