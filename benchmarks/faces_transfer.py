"""A recogniser trained on drawn faces alone, judged on photographs.

    python -m benchmarks.faces_transfer --identities 3000 --images 16 \
        --set lfw=lfw.bin --set cfp_fp=cfp_fp.bin --to runs/transfer

The network and its augmentation are those of `configs/inter_prototype.py:cfp`, so the
scores stand beside CFP's. Several --identities train one network each, on the first so
many of the same people, for as many steps.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from fr_jax.cli.evaluate import judge_all
from tqdm import tqdm

from configs import inter_prototype as configs
from fr_jax import faces
from fr_jax.backend import cpu
from fr_jax.embedder import Embedder
from fr_jax.evaluation.sets import parse_set
from fr_jax.optim import ema as momentum
from fr_jax.systems import inter_prototype
from fr_jax.training import loop as train
from fr_jax.training.streams import ArrayStream

_CHUNK = 100


def drawn(seed: int, identities: int, images: int, size: int):
    """Returns `image` and `label` of people, `images` photographs of each."""
    key = jax.random.key(seed)
    people = faces.sample_identities(jax.random.fold_in(key, 0), identities)
    age = jnp.clip(38 + 14 * jax.random.normal(key, (identities,)), 16, 80)
    label = np.tile(np.arange(identities, dtype=np.int32), images)
    pictures = np.empty((len(label), size, size, 3), np.uint8)
    for start in tqdm(range(0, len(label), _CHUNK), unit=f" x {_CHUNK} faces"):
        rows = label[start : start + _CHUNK]
        codes = faces.sample_codes(
            jax.random.fold_in(key, start + 1), len(rows), identity=people[rows]
        )
        near = 3 * (codes.age - 36) / 15  # nobody is photographed on one day only
        codes = codes._replace(age=age[rows] + near)
        image = faces.render(codes, size, quality="fast").image
        pictures[start : start + _CHUNK] = np.asarray(image * 255 + 0.5)
    return {"image": pictures, "label": label}


def run(arrays, config, steps: int, seed: int, sets, to: Path) -> dict:
    """Trains a network and returns its scores."""
    stream = ArrayStream(arrays, config.data.batch_size, seed=seed)
    options = config.system.to_dict()
    epochs = steps * stream.batch_size / stream.num_examples
    system = inter_prototype.make(
        stream.num_classes,
        **(options | {"warmup_epochs": 0.05 * epochs}),
        epochs=epochs,
        steps_per_epoch=stream.num_examples / stream.batch_size,
    )
    result = train.train(
        momentum.with_ema(system, config.train.ema_decay),
        stream,
        to / "run",
        num_steps=steps,
        seed=seed,
        evaluation_sets=[chosen.first(600) for chosen in sets],
        evaluate_every=max(1, steps // 4),
        save_every=max(1, steps // 4),
    )
    system = momentum.with_ema(system, config.train.ema_decay)
    network = system.hand_over(result.state)["embedding"]
    embedder = Embedder(network, {"people": {"drawn": []}})
    embedder.save(to / "embedder")
    judge_all(embedder, sets, to)
    return json.loads((to / "results.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--identities", type=int, nargs="+", default=[3000])
    parser.add_argument("--images", type=int, default=16, help="of a person")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--width", type=float, default=0.5, help="of the network")
    parser.add_argument("--size", type=int, default=56, help="of its images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--to", type=Path, default=Path("runs/transfer"))
    arguments = parser.parse_args()
    cpu.keep_freed_memory()
    config = configs.get_config("cfp")
    config.system.image_size = arguments.size
    config.system.backbone_options.width = arguments.width
    sets = [parse_set(text) for text in arguments.set]
    arguments.to.mkdir(parents=True, exist_ok=True)
    asked = json.dumps({**vars(arguments), "to": ""}, default=str)
    stored = arguments.to / "arguments.json"
    if stored.exists() and stored.read_text() != asked:
        parser.error(f"{arguments.to} is a run of other arguments; use another --to")
    stored.write_text(asked)
    cache = arguments.to / "faces.npz"
    if not cache.exists():
        most = max(arguments.identities)
        np.savez(cache, **drawn(arguments.seed, most, arguments.images, arguments.size))
    pool = dict(np.load(cache))
    results = {}
    for number in arguments.identities:
        chosen = pool["label"] < number
        results[number] = run(
            {name: array[chosen] for name, array in pool.items()},
            config,
            arguments.steps,
            arguments.seed,
            sets,
            arguments.to / str(number),
        )
    (arguments.to / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
