"""A System and a set so small that the loop itself is what the tests see."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from fr_jax.system import NetState, System, partition_named
from fr_jax.training.streams import ArrayStream

CLASSES, SIDE = 10, 8


def make(learning_rate: float = 0.1, noise: float = 0.1, feedback=None) -> System:
    """Softmax on pixels with noise from the step's key, so that keys matter too."""
    optimizer = optax.sgd(learning_rate, momentum=0.9)

    def init(key, batch, given=None):
        weights = (given or {}).get("weights")
        if weights is None:
            weights = 0.01 * jax.random.normal(key, (SIDE * SIDE * 3, 128))
        params = {"prototypes": weights}
        return NetState(params, {"seen": jnp.float32(0)}, optimizer.init(params))

    def features(image):
        return image.reshape(len(image), -1).astype(jnp.float32) / 127.5 - 1

    def losses(params, x, label):
        logits = (x @ params["prototypes"])[:, :CLASSES]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return jnp.mean(entropy), jnp.mean(logits.argmax(1) == label)

    def train_step(state, batch, key):
        x = features(batch["image"])
        x += noise * jax.random.normal(key, x.shape)
        if "poison" in batch:  # rows that are not numbers
            x = jnp.where(batch["poison"][:, None] > 0, jnp.nan, x)
        (loss, accuracy), gradients = jax.value_and_grad(losses, has_aux=True)(
            state.params, x, batch["label"]
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        stats = {"seen": state.batch_stats["seen"] + len(x)}
        return NetState(params, stats, opt_state), {"loss": loss, "accuracy": accuracy}

    def embed(state, batch):
        return {"embedding": features(batch["image"]) @ state.params["prototypes"]}

    def eval_step(state, batch, key):
        return {
            "loss": losses(state.params, features(batch["image"]), batch["label"])[0]
        }

    def partition(state):
        return partition_named(state, {"prototypes": PartitionSpec(None, "model")})

    return System(init, train_step, embed, eval_step, feedback, partition)


def arrays(rows: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows).astype(np.int32)
    centres = np.random.default_rng(99).integers(40, 216, (CLASSES, SIDE, SIDE, 3))
    image = centres[label] + rng.integers(-40, 40, (rows, SIDE, SIDE, 3))
    return {"image": image.astype(np.uint8), "label": label}


def stream(batch_size: int = 16, mesh=None, **extra) -> ArrayStream:
    return ArrayStream(arrays() | extra, batch_size, seed=1, mesh=mesh)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a, b) -> bool:
    """Whether two trees are equal bit for bit."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
