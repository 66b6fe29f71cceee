"""DR-GAN of half width on 64 pixels: one step of each network, against PyTorch.

The same networks, losses and Adam, 1:1, batches of 32 single images, float32.
"""

from benchmarks import contest
from benchmarks.training_step import random_batch, stepping

IDENTITIES, POSES, SIDE, BATCH, NOISE, WIDTH = 1000, 7, 64, 32, 16, 0.5


def batch():
    return random_batch(BATCH, SIDE, label=IDENTITIES, pose=POSES)


def ours():
    """Returns a function: one step of each network."""
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
