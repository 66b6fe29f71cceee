"""DR-GAN at half its width, 64 pixels: a step of each network, against PyTorch's.

The same networks, losses and Adam, 1:1, batches of 32 single images, float32.
"""

import sys

import numpy as np

from benchmarks import contest

PEOPLE, POSES, SIDE, BATCH, NOISE, WIDTH = 1000, 7, 64, 32, 16, 0.5


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8),
        "label": rng.integers(0, PEOPLE, BATCH).astype(np.int32),
        "pose": rng.integers(0, POSES, BATCH).astype(np.int32),
        "seed": np.arange(BATCH, dtype=np.uint32),
    }


class OneBatch:
    """A stream that says the same thing at every step."""

    batch_size = BATCH

    def batch_at(self, step: int):
        return batch()


def ours():
    """Two steps as the loop runs them, guard included: one of each network."""
    from fr_jax.backend import cpu, sharding
    from fr_jax.systems import dr_gan
    from fr_jax.training import loop as train

    cpu.keep_freed_memory()
    system = dr_gan.make(
        PEOPLE,
        poses=POSES,
        image_size=SIDE,
        canvas_size=None,
        network={"width": WIDTH},
        generator={"decoder_seed": SIDE // 16, "noise": NOISE},
        schedule="fixed",
    )
    stream = OneBatch()
    update = train._Update(system, stream, sharding.make_mesh(), 0, {}, train.Guard())
    loop = update.initial()
    update.compile(loop)
    placed = update.place(stream.batch_at(0))

    def both():
        nonlocal loop
        for _ in range(2):
            loop, bad = update(loop, placed, 0)
        return int(bad)

    return both


def pytorch():
    from benchmarks import torch_dr_gan

    return torch_dr_gan.both_steps(batch(), PEOPLE, POSES, NOISE, WIDTH)


def run(rounds: int) -> dict[str, float]:
    names = ["ours", "pytorch", "pytorch_keeping_memory"]
    tunables = {names[2]: contest.KEEP_FREED_MEMORY}
    seconds = contest.contest("benchmarks.dr_gan", names, rounds, tunables)
    rates = {
        f"dr_gan/{name}_seconds_of_both_steps": float(np.median(seconds[name]))
        for name in names
    }
    return rates | {
        f"dr_gan/times_{name}": contest.ratio(seconds[name], seconds["ours"])
        for name in names[1:]
    }


if __name__ == "__main__":
    contest.serve((ours if sys.argv[1] == "ours" else pytorch)())
