"""DR-GAN of half width on 64 pixels: one step of each network, against PyTorch.

The same networks, losses and Adam, 1:1, batches of 32 single images, float32.
"""

import numpy as np

from benchmarks import contest

IDENTITIES, POSES, SIDE, BATCH, NOISE, WIDTH = 1000, 7, 64, 32, 16, 0.5


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8),
        "label": rng.integers(0, IDENTITIES, BATCH).astype(np.int32),
        "pose": rng.integers(0, POSES, BATCH).astype(np.int32),
        "seed": np.arange(BATCH, dtype=np.uint32),
    }


def ours():
    """Returns a function: one step of each network."""
    from benchmarks.training_step import stepping
    from fr_jax.systems import dr_gan
    from fr_jax.systems.dr_gan.targets import Targets

    generator = {"decoder_seed": SIDE // 16, "noise": NOISE}
    system = dr_gan.make(
        IDENTITIES,
        targets=Targets(angles=tuple(range(-45, 46, 15))),
        update="fixed",
        network={"width": WIDTH, "generator": generator},
        image_size=SIDE,
        canvas_size=None,
    )
    return stepping(system, batch(), steps=2)[0]


def pytorch():
    from benchmarks import torch_dr_gan

    return torch_dr_gan.both_steps(batch(), IDENTITIES, POSES, NOISE, WIDTH)


def run(rounds: int) -> dict[str, float]:
    return contest.figures("dr_gan", contest.contest("dr_gan", rounds), 2 * BATCH)
