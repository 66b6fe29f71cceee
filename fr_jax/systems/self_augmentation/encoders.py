"""What Stages I and III share: an encoder of identities, and how it learns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from fr_jax import augment, models
from fr_jax.errors import UserError, check_names, check_range, named
from fr_jax.losses import triplet
from fr_jax.losses.margin import length
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.optim import optimizers
from fr_jax.system import Input, NetState, Network, check_variables

ENCODER = "identity_encoder"
HEADS = ("dense", "none")
AUGMENTATION = (("flip", {}),)
_OPTIMIZER = {
    "name": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "constant",
}
_NAMES = ("image", "positive", "negative")

Array = jax.Array


class Encoder(NamedTuple):
    """An encoder of identities as a value: how it is built, and how it learns.

    Attributes:
      options: of `models.self_augmentation.IdentityEncoder`.
      slow, slow_factor: beginnings of the paths of parameters, and the factor of their
        learning rate.
    """

    options: dict[str, Any]
    spec: InputSpec
    slow: tuple[str, ...]
    slow_factor: float

    @property
    def model(self) -> Any:
        return models.create(ENCODER, **self.options)

    def factor(self, names: Sequence[str]) -> float:
        """Returns the factor of the learning rate of the parameter at a path."""
        path = "/".join(names) + "/"
        slow = any(path.startswith(f"{name}/") for name in self.slow)
        return self.slow_factor if slow else 1.0

    def embed(self, variables: Any, images: Array) -> Array:
        """Returns embeddings [B, D] of images [B, H, W, 3] in 0..255."""
        return self.model.apply(variables, prepare(images, self.spec))

    def network(self, variables: Any) -> Network:
        options = models.plain(self.options)
        return Network(ENCODER, options, variables, self.spec)


def check_codes(identity: Network, generating: Network) -> None:
    """Raises a UserError unless an augmentation network takes an encoder's codes."""
    size = code_size(identity)
    theirs = generating.options.get("identity_size", 64)
    if size != theirs:
        raise UserError(
            f"the encoder of identities has codes of {size} values, the augmentation "
            f"network was trained with {theirs}: give the encoder it was made with"
        )


def code_size(network: Network) -> int:
    """Returns D of an embedder's network; its variables are not needed."""
    model = models.create(network.architecture, **network.options)
    shapes = models.example_inputs(model, network.input_spec)
    variables = jax.eval_shape(model.init, jax.random.key(0), *shapes)
    output: Any = jax.eval_shape(model.apply, variables, *shapes)
    return output.shape[1]


class Learning(NamedTuple):
    start: Callable[[Any], NetState]
    views: Callable[[Any, Array], tuple[tuple[Array, Array, Array], Array]]
    update: Callable[..., tuple[NetState, dict[str, Array]]]


def learning(
    encoder: Encoder,
    *,
    loss: str | Callable[..., Array],
    margin: float,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]],
    optimizer: Mapping[str, Any] | optimizers.Optimizer | None,
    **run: Any,
) -> Learning:
    """Returns the start, the augmented views and the update of an encoder."""
    loss_of = named("triplet loss", loss, triplet.LOSSES)
    check_range("margin", margin, 0)
    augment.check(augmentation)
    optimiser = optimizers.from_options(optimizer, defaults=_OPTIMIZER, **run)
    optimiser = optimizers.with_rates(optimiser, encoder.factor)
    model = encoder.model

    def start(variables):
        paths = flatten_dict(variables["params"], sep="/")
        for name in encoder.slow:
            if not any(f"{path}/".startswith(f"{name}/") for path in paths):
                first = sorted({"/".join(path.split("/")[:2]) for path in paths})
                raise UserError(
                    f"slow: no parameter's path begins with {name!r}; there are "
                    f"{', '.join(first)}"
                )
        statistics = variables.get("batch_stats", {})
        return NetState.create(variables["params"], statistics, optimiser)

    def views(batch, key):
        key_views, key_dropout = jax.random.split(key)
        several = []
        for number, name in enumerate(_NAMES):
            keys = jax.random.fold_in(key_views, number)
            keys = augment.example_keys(keys, batch["seed"])
            images = batch[name].astype(jnp.float32)
            several.append(augment.augment(keys, images, augmentation))
        return tuple(several), key_dropout

    def cost(params, statistics, images, generated, key):
        # The three images of a triplet are neighbours, so that no row changes devices.
        parts = jnp.stack([prepare(part, encoder.spec) for part in images], axis=1)
        several = parts.reshape(-1, *parts.shape[2:])
        embeddings: Any
        embeddings, updated = model.apply(
            {"params": params, "batch_stats": statistics},
            several,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        triplets = embeddings.reshape(-1, 3, embeddings.shape[1])
        anchor, positive, negative = (triplets[:, n] for n in range(3))
        losses = loss_of(anchor, positive, negative, margin=margin)
        far = length(anchor - negative)
        real = 1.0 - generated
        metrics = {
            "loss": jnp.mean(losses),
            "active_triplets": jnp.mean(losses > 0),
            "positive_distance": jnp.mean(length(anchor - positive)),
            "negative_distance": jnp.sum(real * far) / jnp.maximum(jnp.sum(real), 1),
            "embedding_length": jnp.mean(length(embeddings)),
        }
        return metrics["loss"], (updated.get("batch_stats", {}), metrics)

    def update(net, images, generated, key):
        gradients, (statistics, metrics) = jax.grad(cost, has_aux=True)(
            net.params, net.batch_stats, images, 1.0 * generated, key
        )
        metrics["learning_rate"] = optimiser.rate(net.updates)
        net = optimizers.apply_gradients(net, gradients, statistics, optimiser)
        return net, metrics

    return Learning(start, views, update)


def encoder_of(
    given: Network | None,
    backbone: str | None,
    backbone_options: Mapping[str, Any] | None,
    *,
    head: str,
    embedding_size: int = 64,
    image_size: int | None = None,
    unit_length: bool = False,
    slow: Sequence[str],
    slow_factor: float,
) -> Encoder:
    """Returns the encoder of arguments of `identity.make`."""
    check_names("head", [head], HEADS)
    check_range("slow_factor", slow_factor, 0)
    options = dict(backbone_options or {})
    spec = InputSpec(size=image_size or 112)
    if given is not None:
        if backbone not in (None, given.architecture):
            raise UserError(
                f"--init-from: its network is {given.architecture!r}, this run trains "
                f"{backbone!r}; leave config.system.encoder.backbone empty"
            )
        backbone, options = given.architecture, {**given.options, **options}
        spec = given.input_spec
        if image_size and image_size != spec.size:
            spec = spec._replace(size=image_size)
    backbone = backbone or "mobilefacenet_v2"
    if backbone != ENCODER:
        check_range("embedding_size", embedding_size, 1)
        options = {
            "trunk": backbone,
            "trunk_options": options,
            "embedding_size": embedding_size if head == "dense" else None,
            "unit_length": unit_length,
        }
    models.create(options["trunk"], **(options.get("trunk_options") or {}))  # checks
    return Encoder(options, spec, tuple(slow), slow_factor)


def wrapped(variables: Any, architecture: str) -> dict[str, Any]:
    """Returns the variables of a network as those of an encoder without a layer."""
    if architecture == ENCODER:
        return dict(variables)
    return {name: {"network": tree} for name, tree in variables.items() if tree}


def started(variables: dict[str, Any], given: Any, architecture: str) -> dict[str, Any]:
    """Returns initial variables with those of a given network."""
    own, merged = wrapped(given, architecture), {}
    for name, tree in variables.items():
        taken = own.get(name, {})
        expected = tree if architecture == ENCODER else {"network": tree["network"]}
        check_variables("init", taken, expected)
        merged[name] = {**tree, **taken}
    return merged


def variables_of(net: NetState) -> dict[str, Any]:
    """Returns the collections of a network that are not empty."""
    variables = {"params": net.params, "batch_stats": net.batch_stats}
    return {name: value for name, value in variables.items() if value}


def expects() -> dict[str, Input]:
    """Returns `System.expects` of batches of triplets."""
    image = Input(np.uint8, (None, None, None, 3))
    seed = Input(np.uint32, (None,))
    return {**dict.fromkeys(_NAMES, image), "seed": seed}
