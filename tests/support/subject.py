"""A program for tests that need processes of their own: kills, devices, hosts.

    python -m tests.support.subject WORKDIR STEPS [--slow S] [--model N]
        [--processes I N PORT] [--contrast] [--bad FIRST END]

Trains the toy system, or momentum contrast on noise, and prints a digest of the final
state as its last line.
"""

import argparse
import hashlib
import json
import time

import jax
import numpy as np


def contrast():
    """Returns momentum contrast in small steps, where roundings do not grow."""
    from fr_jax.systems import usynthface

    return usynthface.make(
        300,
        backbone="iresnet18",
        backbone_options={
            "stage_sizes": (1, 1, 1, 1),
            "width": 0.125,
            "embedding_size": 16,
            "bn_groups": 4,
        },
        image_size=16,
        queue={"size": 100, "mask_unfilled": False},  # padded to 128 rows
        loss_options={"temperature": 0.2},
        optimizer={
            "learning_rate": 0.01,
            "schedule": "constant",
            "weight_decay": 0.0,
        },
        augmentation=(),
    )


def pairs_of_noise(rows: int = 120) -> dict[str, np.ndarray]:
    """Returns pairs of similar images, their labels and seeds."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    noise = rng.integers(-20, 20, image.shape)
    return {
        "image": image,
        "positive": np.clip(image + noise, 0, 255).astype(np.uint8),
        "label": np.arange(rows, dtype=np.int32),
        "seed": np.arange(rows, dtype=np.uint32),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("steps", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--model", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs=3)
    parser.add_argument("--contrast", action="store_true")
    bad = {"nargs": 2, "default": (0, 0), "help": "batches with non-finite pixels"}
    parser.add_argument("--bad", type=int, **bad)
    arguments = parser.parse_args()
    if arguments.processes:
        index, count, port = arguments.processes
        jax.distributed.initialize(f"localhost:{port}", count, index)

    from fr_jax.backend import sharding
    from fr_jax.optim.ema import network
    from fr_jax.training.loop import train
    from tests.support import toy

    if arguments.contrast:
        system, arrays = contrast(), pairs_of_noise()
    else:
        system, arrays = toy.make(), toy.arrays()
    mesh = sharding.make_mesh(model=arguments.model)
    rows = sharding.local_rows(mesh, 16)

    class Stream:
        """This process's NumPy rows, as a record stream gives them."""

        batch_size = 16

        def batch_at(self, step):
            time.sleep(arguments.slow)
            order = np.random.default_rng([1, step]).permutation(120)[:16]
            batch = {k: v[order[slice(*rows)]] for k, v in arrays.items()}
            if any(arguments.bad):
                bad = arguments.bad[0] <= step < arguments.bad[1]
                factor = np.full(len(batch["label"]), np.nan if bad else 1, np.float32)
                batch |= {"factor": factor}
            return batch

    result = train(
        system,
        Stream(),
        arguments.workdir,
        num_steps=arguments.steps,
        mesh=mesh,
        log_every=5,
        save_every=arguments.save_every,
    )
    leaves = [sharding.to_host(leaf) for leaf in jax.tree.leaves(result.state)]
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
    params = jax.tree.leaves(network(result.state).params)
    weights = np.concatenate([sharding.to_host(x).ravel() for x in params])
    # Few, or the process waits for room in a pipe that is read only at its end.
    chosen = weights[:: 1 + len(weights) // 2000].astype(float).tolist()
    print(json.dumps({"step": result.step, "digest": digest, "weights": chosen}))


if __name__ == "__main__":
    main()
