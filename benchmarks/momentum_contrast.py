"""USynthFace: a training step against PyTorch, and the cost of its queue.

Same network, queue and batch, float32, BatchNorm over the whole batch, images already
augmented. `--network iresnet50`: the paper's network on 112x112 pixels instead of an
iResNet-18 of half width on 56x56.
"""

import numpy as np

from benchmarks import contest
from benchmarks.training_step import random_batch, stepping

NETWORKS = {  # depth, size, width, features, batch
    "iresnet18": (18, 56, 0.5, 256, 64),
    "iresnet50": (50, 112, 1.0, 512, 16),
}
QUEUE = 32_768
LONG_QUEUE, DEVICE_BATCH = 65_536, 128  # the batch of one of the paper's GPUs
SMALL = {"stage_sizes": (1, 1, 1, 1), "width": 0.125}  # negligible against the queue


def views(rows: int, size: int) -> dict[str, np.ndarray]:
    image, positive = np.split(random_batch(2 * rows, size)["image"], 2)
    label = np.arange(rows, dtype=np.int32)
    return {"image": image, "positive": positive, "label": label}


def _step(backbone: str, options: dict, size: int, rows: int, queue: int):
    from fr_jax.systems import usynthface

    rate = {"schedule": "constant", "learning_rate": 0.01, "reference_batch": rows}
    system = usynthface.make(
        1_000_000,
        backbone=backbone,
        backbone_options=options,
        image_size=size,
        queue={"size": queue},
        optimizer=rate,
    )
    return stepping(system, views(rows, size))[0]


def ours(network: str, queue: int = QUEUE, groups: int = 1):
    _, size, width, features, rows = NETWORKS[network]
    options = {"width": width, "embedding_size": features, "bn_groups": groups}
    return _step(network, options, size, rows, queue)


def ours_four_groups(network: str):
    return ours(network, groups=4)


def ours_short_queue(network: str):
    return ours(network, queue=NETWORKS[network][-1])


def small_long_queue(_: str):
    return _step("iresnet18", SMALL, 16, DEVICE_BATCH, LONG_QUEUE)


def small_short_queue(_: str):
    return _step("iresnet18", SMALL, 16, DEVICE_BATCH, DEVICE_BATCH)


def pytorch(network: str):
    from benchmarks import torch_moco

    depth, size, width, features, rows = NETWORKS[network]
    arrays = views(rows, size)
    images = arrays["image"], arrays["positive"]
    return torch_moco.training_step(*images, depth, width, features, QUEUE)


def run(rounds: int, network: str = "iresnet18") -> dict[str, float]:
    names = [*contest.AGAINST_PYTORCH, "ours_four_groups"]
    seconds = contest.contest("momentum_contrast", rounds, names, [network])
    groups = contest.ratio(seconds.pop("ours_four_groups"), seconds["ours"])
    part, rows = f"momentum_contrast/{network}", NETWORKS[network][-1]
    rates = contest.figures(part, seconds, rows, "pairs")
    return rates | {f"{part}_four_groups_cost": groups} | _queue_cost(rounds)


def _queue_cost(rounds: int) -> dict[str, float]:
    """Returns the cost of a queue of 65,536 keys, as a share of iResNet-50's step.

    The cost is the difference between the steps with this queue and with one of a
    batch; iResNet-50's step is on 112x112 pixels, scaled to the same number of pairs.
    """
    names = ["small_long_queue", "small_short_queue", "ours_short_queue"]
    seconds = contest.contest("momentum_contrast", rounds, names, ["iresnet50"])
    long, short, step = map(np.array, seconds.values())
    cost, step = long - short, step * DEVICE_BATCH / NETWORKS["iresnet50"][-1]
    return {
        "momentum_contrast/queue_65536_milliseconds": 1000 * np.median(cost),
        "momentum_contrast/queue_65536_percent_of_step": 100 * np.median(cost / step),
    }
