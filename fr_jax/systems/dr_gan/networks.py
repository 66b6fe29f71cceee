"""DR-GAN's networks as its steps use them: modules, options, and pure functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fr_jax import models
from fr_jax.augment.diff_augment import diff_augment
from fr_jax.errors import UserError, check_range
from fr_jax.models import spectral
from fr_jax.models.dr_gan.generator import Encoder
from fr_jax.models.feature_maps import embedding_and_feature_maps
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.system import NetState, Network
from fr_jax.systems.dr_gan import targets as target_images
from fr_jax.systems.dr_gan import trunk
from fr_jax.systems.dr_gan.objective import Images, Objective, masked_mean
from fr_jax.systems.dr_gan.targets import Targets

Array = jax.Array
PyTree = Any
Net = tuple[PyTree, PyTree]  # parameters, statistics: a NetState's first two fields


class Networks:
    """Generator, discriminator and frozen recogniser.

    Args: see `systems.dr_gan.make`.

    Attributes:
      spec: input of encoder and discriminator.
      groups: number of BatchNorm groups.

    Raises:
      UserError: for options that exclude each other.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        targets: Targets,
        objective: Objective,
        *,
        num_classes: int,
        image_size: int,
        canvas_size: int | None,
        pretrained: Mapping[str, Network],
    ):
        check_range("image_size", image_size, 16)
        self._targets, self._objective = targets, objective
        self._pretrained = pretrained
        options = self._network_options(network, num_classes, image_size)
        self._spectral = options["discriminator"].pop("spectral_norm", False)
        self._options = options
        self._generator: Any = models.create("dr_gan_generator", **options["generator"])
        self._discriminator: Any = models.create(
            "dr_gan_discriminator", **options["discriminator"]
        )
        self.groups = self._generator.bn_groups
        self.spec = InputSpec(
            size=canvas_size or image_size,
            colour="GREY" if self._generator.channels == 1 else "RGB",
            crop=(image_size, image_size),
        )
        for name in ("init", "discriminator"):
            if (given := pretrained.get(name)) and given.input_spec[1:4] != self.spec[
                1:4
            ]:
                raise UserError(
                    f"the weights given as {name!r} take images of "
                    f"{given.input_spec.describe()}, and this system trains with "
                    f"{self.spec.describe()}, in which it generates images too; give "
                    "other weights"
                )
        fields = Encoder.__dataclass_fields__
        options["encoder"] = {
            k: v for k, v in options["generator"].items() if k in fields
        }
        self._recogniser = _recogniser(objective, pretrained)
        if canvas_size and canvas_size < image_size:
            raise UserError(
                f"canvas_size is {canvas_size}, from which {image_size} pixels "
                "(image_size) cannot be cropped"
            )
        if self._spectral and self._discriminator.norm != "none":
            raise UserError(
                f"the discriminator's norm={self._discriminator.norm!r} would undo "
                "spectral_norm: give it norm='none', and conv_bias=True"
            )
        if self._discriminator.norm == "group" and self._discriminator.extra_channel:
            raise UserError(
                "norm='group' needs channels in equal groups, which "
                "extra_channel=True prevents: use one of them"
            )
        mean, head = self._generator.normalise_fusion, self._generator.confidence_head
        if targets.fused and head == "none" and not mean:
            raise UserError(
                f"features of {targets.images_per_identity} images per identity would "
                "be summed without weights: set confidence_head='channel' (as kayamin) "
                "or 'branch', or normalise_fusion=True"
            )

    def _network_options(
        self, network: Mapping[str, Any], num_classes: int, image_size: int
    ) -> dict[str, dict[str, Any]]:
        """Returns options of `models.create` for generator and discriminator."""
        targets = self._targets
        if num_classes < 2:
            raise UserError(f"num_classes is {num_classes}; use 2 or more")
        heads = [["identity", num_classes], ["real", 1], ["pose", targets.poses]]
        if targets.illuminations:
            heads.append(["illumination", targets.illuminations])
        derived: dict[str, dict[str, Any]] = {
            "generator": {
                "poses": targets.poses,
                "illuminations": targets.illuminations,
                "size": image_size,
            },
            "discriminator": {
                "heads": heads,
                "cosine_identity": self._objective.cosine_identity,
            },
        }
        shared = {name: value for name, value in network.items() if name not in derived}
        for name, options in derived.items():
            chosen = shared | dict(network.get(name, {}))
            for option in options.keys() & chosen.keys():
                raise UserError(
                    f"{name} option {option!r} follows from data, image_size and "
                    "objective: leave it out"
                )
            options |= chosen
        return derived

    def init(self, key: Array, given: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """Returns {'params', 'batch_stats'} by network, generator and discriminator."""
        key_generator, key_discriminator, key_spectral = jax.random.split(key, 3)
        shapes = self._generator.example_inputs(self.groups)
        inputs = [jnp.zeros(shape.shape) for shape in shapes]
        generator, discriminator = trunk.start(
            self._generator,
            dict(self._generator.init(key_generator, *inputs)),
            dict(self._discriminator.init(key_discriminator, inputs[0])),
            given,
            self._pretrained,
        )
        params = discriminator["params"]
        statistics = dict(discriminator.get("batch_stats", {}))
        if self._spectral:
            statistics["spectral"] = spectral.vectors(key_spectral, params)
        discriminator = {"params": params, "batch_stats": statistics}
        return {"generator": generator, "discriminator": discriminator}

    def synthesise(
        self, net: Net, real: Mapping[str, Array], key: Array, train: bool = True
    ) -> tuple[Images, PyTree, Array]:
        """Returns synthesised images, statistics, and features [B, F] of real images.

        Statistics are the running statistics of BatchNorm, updated if `train`.
        """
        targets, generator = self._targets, self._generator
        key_codes, key_noise, key_dropout = jax.random.split(key, 3)
        labels, valid, codes = target_images.sample(real, targets, key_codes)
        noise = real.get("noise")
        if noise is None:
            shape = (len(valid), generator.noise)
            noise = jax.random.uniform(key_noise, shape, minval=-1.0)
        codes.insert(1, noise)

        def forward(module, images, train):
            features, confidence = module.encode(images, train)
            rows = target_images.rows_of(
                features, confidence, targets, normalise=module.normalise_fusion
            )
            return module.decode(rows, *codes, train=train), features

        encoded = real.get("degraded", real["image"])
        (image, features), statistics = _apply(
            generator, net, encoded, key_dropout, train, forward
        )
        fake = Images(
            image,
            labels,
            valid,
            self._mean_of_fakes,
            truth=target_images.ground_truth(real, targets),
            sources=functools.partial(target_images.source_embeddings, targets=targets),
        )
        return fake, statistics, features

    def as_fakes(self, fake: Images) -> Images:
        """Returns synthesised images without gradient, for the discriminator's step.

        Fused images are not valid there if `discriminate_fused` is False.
        """
        targets, valid = self._targets, fake.valid
        if targets.fused and not self._objective.discriminate_fused:
            number = jnp.arange(len(valid)) % targets.per_identity
            valid &= number < targets.images_per_identity
        return fake._replace(image=jax.lax.stop_gradient(fake.image), valid=valid)

    def real(self, real: Mapping[str, Array], logits: dict) -> Images:
        """Returns the real images of a step, all valid."""
        labels = {name: real[name] for name in self._targets.labels}
        valid = jnp.ones(len(real["image"]), bool)
        return Images(real["image"], labels, valid, masked_mean, logits)

    def discriminate(
        self, net: Net, images: Array, key: Array, train: bool = True
    ) -> tuple[dict[str, Array], PyTree]:
        """Returns logits by head, and statistics.

        Args:
          net: from `normalised`.
        """
        key_augment, key_dropout = jax.random.split(key)
        if train:
            kinds = self._objective.diff_augmentation
            images = diff_augment(key_augment, images, kinds)
        return _apply(self._discriminator, net, images, key_dropout, train)

    def normalised(self, net: Net) -> Net:
        """Returns the discriminator, spectrally normalised with `spectral_norm`."""
        params, statistics = net
        if not self._spectral:
            return net
        params, vectors = spectral.normalise(params, statistics["spectral"])
        return params, {**statistics, "spectral": vectors}

    def recognise(self, variables: PyTree) -> Callable | None:
        """Returns images in [-1, 1] -> (embeddings, feature maps), or None."""
        return self._recogniser and functools.partial(self._recogniser, variables)

    def encode(self, net: Net, images: Array) -> tuple[Array, Array]:
        """Returns features [B, F] and confidence [B, 1] of the generator's encoder."""
        variables = dict(zip(("params", "batch_stats"), net))
        return self._generator.apply(variables, images, method="encode")

    def hand_over(
        self, generator: NetState, discriminator: NetState
    ) -> dict[str, Network]:
        """Returns encoder, generator and, after adversarial training, discriminator."""
        whole = {"params": generator.params, "batch_stats": generator.batch_stats}
        encoder = {kind: tree["encoder"] for kind, tree in whole.items()}
        parts = {"embedding": ("encoder", encoder), "generator": ("generator", whole)}
        if self._objective.discriminator_loss is not None:
            params, statistics = self.normalised(discriminator[:2])
            variables = {"params": params, "batch_stats": _running(statistics)}
            variables = {kind: tree for kind, tree in variables.items() if tree}
            parts["discriminator"] = "discriminator", variables
        return {
            kind: Network(
                f"dr_gan_{name}",
                models.plain(self._options[name]),
                variables,
                self.spec,
                kind,
            )
            for kind, (name, variables) in parts.items()
        }

    def _mean_of_fakes(self, values: Array, mask: Array) -> Array:
        if not (self._objective.fused_sum and self._targets.fused):
            return masked_mean(values, mask)
        n, shape = self._targets.images_per_identity, (-1, self._targets.per_identity)
        values, mask = values.reshape(shape), mask.reshape(shape)
        single = masked_mean(values[:, :n], mask[:, :n])
        return single + masked_mean(values[:, n:], mask[:, n:])


def _apply(model, net, images, key, train, method=None):
    """Returns a network's output, and its statistics after it."""
    params, statistics = net
    out, updated = model.apply(
        {"params": params, "batch_stats": _running(statistics)},
        images,
        train,
        method=method,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    return out, {**statistics, **updated.get("batch_stats", {})}


def _running(statistics: PyTree) -> PyTree:
    """Returns BatchNorm's running statistics, without spectral norm's vectors."""
    return {name: tree for name, tree in statistics.items() if name != "spectral"}


def _recogniser(objective: Objective, pretrained: Mapping[str, Network]):
    """Returns (variables, images in [-1, 1]) -> (embeddings, feature maps), or None."""
    if objective.recogniser == "none":
        return None
    given = pretrained.get("identity")
    if given is None or given.kind != "embedding":
        got = f", got a {given.kind}" if given else ""
        raise UserError(
            f"the objective needs a pretrained recogniser{got}: give --given "
            "identity=EMBEDDER"
        )
    # Rematerialised blocks do not expose their feature maps.
    options = {k: v for k, v in given.options.items() if k != "remat"}
    network: Any = models.create(given.architecture, **options)

    def recognise(variables, images):
        pixels = jnp.repeat(127.5 * (images + 1), 3 // images.shape[3], axis=3)
        pixels = prepare(pixels, given.input_spec)
        if objective.recogniser == "maps":
            return embedding_and_feature_maps(network, variables, pixels)
        return network.apply(variables, pixels), []

    return recognise
