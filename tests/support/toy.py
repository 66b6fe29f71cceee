"""A System and a data set so small that tests see the loop itself."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from fr_jax.system import Input, NetState, System
from fr_jax.training.loop import train
from fr_jax.training.streams import ArrayStream

CLASSES, SIDE = 10, 8
EXPECTS = {
    "image": Input(np.uint8, (None, SIDE, SIDE, 3)),
    "label": Input(np.int32, (None,), low=0, below=CLASSES),
}


def make(learning_rate: float = 0.1, noise: float = 0.1, feedback=None) -> System:
    """Returns softmax on pixels; noise from the step's key makes keys matter."""
    optimizer = optax.sgd(learning_rate, momentum=0.9)

    def init(key, batch, given=None):
        weights = (given or {}).get("weights")
        if weights is None:
            weights = 0.01 * jax.random.normal(key, (SIDE * SIDE * 3, 128))
        params = {"prototypes": weights}
        return NetState.create(params, {"seen": jnp.float32(0)}, optimizer)

    def features(image):
        return image.reshape(len(image), -1).astype(jnp.float32) / 127.5 - 1

    def losses(params, x, label):
        logits = (x @ params["prototypes"])[:, :CLASSES]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return jnp.mean(entropy), jnp.mean(logits.argmax(1) == label)

    def train_step(state, batch, key):
        x = features(batch["image"])
        x += noise * jax.random.normal(key, x.shape)
        if "factor" in batch:  # of the pixels of each row
            x = x * batch["factor"][:, None]
        (loss, accuracy), gradients = jax.value_and_grad(losses, has_aux=True)(
            state.params, x, batch["label"]
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state)
        state = NetState(
            optax.apply_updates(state.params, updates),
            {"seen": state.batch_stats["seen"] + len(x)},
            opt_state,
            state.updates + 1,
        )
        return state, {"loss": loss, "accuracy": accuracy}

    def embed(state, batch):
        return {"embedding": features(batch["image"]) @ state.params["prototypes"]}

    def hand_over(state):
        return {}

    def eval_step(state, batch, key):
        image, label = features(batch["image"]), batch["label"]
        return {"loss": losses(state.params, image, label)[0]}

    return System(
        init,
        train_step,
        embed,
        hand_over,
        eval_step,
        feedback,
        {"prototypes": PartitionSpec(None, "model")},
        expects=EXPECTS,
    )


@functools.cache
def _arrays(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows).astype(np.int32)
    centres = np.random.default_rng(99).integers(40, 216, (CLASSES, SIDE, SIDE, 3))
    image = centres[label] + rng.integers(-40, 40, (rows, SIDE, SIDE, 3))
    return {"image": image.astype(np.uint8), "label": label}


def arrays(rows: int = 120, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns noisy images of ten classes, and their labels."""
    return dict(_arrays(rows, seed))


def stream(batch_size: int = 16, mesh=None, **extra) -> ArrayStream:
    """Returns a stream of `arrays()` and of more arrays."""
    return ArrayStream(arrays() | extra, batch_size, seed=1, mesh=mesh)


def leaves(tree) -> list[np.ndarray]:
    """Returns the arrays of a tree as NumPy's."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a, b) -> bool:
    """Returns whether two trees are equal bit for bit."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


class Poisoned:
    """The toy stream; in the batches of some steps, pixels of a row have a factor.

    `asked` lists the steps that were asked for.
    """

    batch_size = 16

    def __init__(self, bad=(), factor: float = np.nan):
        self._clean, self._bad, self._factor = stream(), set(bad), factor
        self.asked: list[int] = []

    def batch_at(self, step):
        self.asked.append(step)
        rows = np.ones(self.batch_size, np.float32)
        if step in self._bad:
            rows[3] = self._factor
        return dict(self._clean.batch_at(step)) | {"factor": jnp.array(rows)}


class Mislabelled(Poisoned):
    """A quarter of the labels are wrong, so that the loss does not fall to zero."""

    def batch_at(self, step):
        batch = super().batch_at(step)
        wrong = (np.arange(self.batch_size) < 4).astype(np.int32)
        return batch | {"label": (batch["label"] + wrong) % CLASSES}


def run(workdir, steps: int = 40, system=None, streams=None, **options):
    """Trains the toy system, or another one; logs and saves every ten steps."""
    return train(
        system or make(),
        streams or stream(),
        workdir,
        num_steps=steps,
        **{"log_every": 10, "save_every": 10, **options},
    )


def metrics(workdir) -> list[dict[str, float]]:
    """Returns the lines of a run's metrics.jsonl."""
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
