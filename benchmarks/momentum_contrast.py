"""USynthFace: a training step against PyTorch's, and what its queue costs.

Same network, queue and batch, float32, BatchNorm over the whole batch; in either the
images come augmented. `--network iresnet50` for the paper's network on 112x112 instead
of half an iResNet-18 on 56x56.
"""

import statistics
import sys

import numpy as np

from benchmarks import contest
from benchmarks.training_step import stepping

NETWORKS = {  # depth, size, width, features, batch
    "iresnet18": (18, 56, 0.5, 256, 64),
    "iresnet50": (50, 112, 1.0, 512, 16),
}
QUEUE = 32_768
LONG_QUEUE, DEVICE_BATCH = 65_536, 128  # the batch is that of one of the paper's GPUs


def views(rows: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image, positive = rng.integers(0, 256, (2, rows, size, size, 3), np.uint8)
    label = np.arange(rows, dtype=np.int32)
    seed = label.astype(np.uint32)
    return {"image": image, "positive": positive, "label": label, "seed": seed}


def ours(backbone: str, options: dict, size: int, rows: int, queue: int, groups=1):
    from fr_jax.systems import usynthface

    rate = {"schedule": "constant", "learning_rate": 0.01, "reference_batch": rows}
    system = usynthface.make(
        1_000_000,
        backbone=backbone,
        backbone_options={**options, "bn_groups": groups},
        image_size=size,
        queue={"size": queue},
        optimizer=rate,
    )
    return stepping(system, views(rows, size))[0]


def contestant(network: str, name: str):
    """Returns the function that a contestant is timed by."""
    depth, size, width, features, rows = NETWORKS[network]
    if name.startswith("pytorch"):
        from benchmarks import torch_moco

        arrays = views(rows, size)
        images = arrays["image"], arrays["positive"]
        return torch_moco.training_step(*images, depth, width, features, QUEUE)
    if name in ("queue", "no_queue"):  # behind next to no network
        options = {"stage_sizes": (1, 1, 1, 1), "width": 0.125}
        keys = LONG_QUEUE if name == "queue" else DEVICE_BATCH
        return ours("iresnet18", options, 16, DEVICE_BATCH, keys)
    options = {"width": width, "embedding_size": features}
    queue = rows if name == "network" else QUEUE
    groups = 4 if name == "ours_four_groups" else 1
    return ours(network, options, size, rows, queue, groups)


def run(rounds: int, network: str = "iresnet18") -> dict[str, float]:
    names = [*contest.AGAINST_PYTORCH, "ours_four_groups"]
    seconds = contest.contest(f"momentum_contrast {network}", rounds, names)
    groups = contest.ratio(seconds.pop("ours_four_groups"), seconds["ours"])
    part, rows = f"momentum_contrast/{network}", NETWORKS[network][-1]
    found = contest.figures(part, seconds, rows, "pairs")
    return found | {f"{part}_four_groups_cost": groups} | _share_of_the_queue(rounds)


def _share_of_the_queue(rounds: int) -> dict[str, float]:
    """Queue, loss, its gradient, metrics and guard, against iResNet-50 on 112x112.

    The same step with a queue of 65,536 keys and of one batch, the difference, against
    the step of iResNet-50 with as short a queue, for as many pairs.
    """
    names = ["queue", "no_queue", "network"]
    seconds = contest.contest("momentum_contrast iresnet50", rounds, names)
    batches = DEVICE_BATCH / NETWORKS["iresnet50"][-1]
    shares, costs = [], []
    for long, short, step in zip(*seconds.values()):
        costs.append(1000 * (long - short))
        shares.append(100 * (long - short) / (batches * step))
    return {
        "momentum_contrast/queue_65536_milliseconds": statistics.median(costs),
        "momentum_contrast/queue_65536_percent_of_step": statistics.median(shares),
    }


if __name__ == "__main__":
    contest.serve(contestant(*sys.argv[1:3]))
