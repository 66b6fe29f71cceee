"""A program for tests that need processes of their own: kills, devices, hosts.

    python -m tests.subject WORKDIR STEPS [--slow S] [--model N] [--processes I N PORT]
        [--contrast]

Trains the toy system, or momentum contrast on noise, and prints a digest of the final
state as its last line.
"""

import argparse
import hashlib
import json
import time

import jax
import numpy as np


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("steps", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--model", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs=3)
    parser.add_argument("--contrast", action="store_true")
    arguments = parser.parse_args()
    if arguments.processes:
        index, count, port = arguments.processes
        jax.distributed.initialize(f"localhost:{port}", count, index)

    from fr_jax.backend import sharding
    from fr_jax.training import loop as train
    from tests import toy

    system, arrays = toy.make(), toy.arrays()
    if arguments.contrast:
        from tests import test_usynthface_system as contrast

        system, arrays = contrast.calm(), contrast.seeded_faces(120)
    mesh = sharding.make_mesh(model=arguments.model)
    rows = sharding.local_rows(mesh, 16)

    class Stream:
        """This process's NumPy rows, as a record stream gives them."""

        batch_size = 16

        def batch_at(self, step):
            time.sleep(arguments.slow)
            order = np.random.default_rng([1, step]).permutation(120)[:16]
            return {k: v[order[slice(*rows)]] for k, v in arrays.items()}

    result = train.train(
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
    params = [sharding.to_host(x).ravel() for x in jax.tree.leaves(result.state.params)]
    weights = np.concatenate(params)
    # Few, or a process that nobody reads yet waits for the room in its pipe.
    chosen = weights[:: 1 + len(weights) // 2000].astype(float).tolist()
    print(json.dumps({"step": result.step, "digest": digest, "weights": chosen}))


if __name__ == "__main__":
    main()
