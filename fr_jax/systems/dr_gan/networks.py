"""DR-GAN's networks as its steps use them: modules, options, and pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fr_jax import models
from fr_jax.augment.diff_augment import diff_augment
from fr_jax.errors import UserError
from fr_jax.models import spectral
from fr_jax.models.dr_gan.generator import Encoder
from fr_jax.models.feature_maps import embedding_and_feature_maps
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.system import NetState, Network
from fr_jax.systems.dr_gan import targets as target_images
from fr_jax.systems.dr_gan import trunk
from fr_jax.systems.dr_gan.objective import Images, Objective, masked_mean
from fr_jax.systems.dr_gan.targets import Targets

PyTree = Any


class Networks:
    """Generator, discriminator and frozen recogniser.

    Args:
      network: see `systems.dr_gan.make`, as are the others.

    Attributes:
      spec: the input of encoder and discriminator.
      groups: of BatchNorm.

    Raises:
      UserError: for options that do not fit together.
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
        self._targets, self._objective = targets, objective
        self._pretrained = pretrained
        options = _options(network, targets, objective, num_classes, image_size)
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
        fields = Encoder.__dataclass_fields__
        options["encoder"] = {
            k: v for k, v in options["generator"].items() if k in fields
        }
        self._encoder: Any = models.create("dr_gan_encoder", **options["encoder"])
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
                "norm='group' cuts channels into equal groups, of which "
                "extra_channel=True leaves none: leave one of them out"
            )
        if targets.fused and not self._generator.weighs_images:
            raise UserError(
                f"{targets.images_per_identity} images of each identity would be "
                "summed, not weighted: give confidence_head='channel' (as kayamin) or "
                "'branch', or normalise_fusion"
            )

    def init(self, key: jax.Array, given: Mapping[str, PyTree]) -> dict[str, PyTree]:
        """Returns {'params', 'batch_stats'} of generator and discriminator."""
        key_generator, key_discriminator, key_spectral = jax.random.split(key, 3)
        inputs = [
            jnp.zeros(x.shape) for x in self._generator.example_inputs(self.groups)
        ]
        generator, discriminator = trunk.start(
            self._generator,
            dict(self._generator.init(key_generator, *inputs)),
            dict(self._discriminator.init(key_discriminator, inputs[0])),
            given,
            self._pretrained,
        )
        statistics = discriminator.get("batch_stats", {})
        if self._spectral:
            vectors = spectral.vectors(key_spectral, discriminator["params"])
            statistics = {**statistics, "spectral": vectors}
        discriminator = {"params": discriminator["params"], "batch_stats": statistics}
        return {"generator": generator, "discriminator": discriminator}

    def synthesise(
        self,
        params: PyTree,
        statistics: PyTree,
        real: Mapping[str, jax.Array],
        key: jax.Array,
        train: bool = True,
    ) -> tuple[Images, PyTree, jax.Array]:
        """Returns images of the targets, statistics, features [B, F] of real ones."""
        targets, generator = self._targets, self._generator
        key_codes, key_noise, key_dropout = jax.random.split(key, 3)
        labels, valid, codes = target_images.sample(real, targets, key_codes)
        noise = real.get("noise")
        if noise is None:
            shape = (len(valid), generator.noise)
            noise = jax.random.uniform(key_noise, shape, minval=-1.0)
        codes.insert(1, noise)

        def forward(module, images):
            features, confidence = module.encode(images, train)
            rows = target_images.rows_of(
                features, confidence, targets, normalise=module.normalise_fusion
            )
            return module.decode(rows, *codes, train=train), features

        encoded = real.get("degraded", real["image"])
        (image, features), statistics = _apply(
            generator, params, statistics, encoded, key_dropout, train, forward
        )
        fake = Images(
            image,
            labels,
            valid,
            self._mean_of_fakes,
            {},
            target_images.ground_truth(real, targets),
            lambda embeddings: target_images.source_embeddings(embeddings, targets),
        )
        return fake, statistics, features

    def as_fakes(self, fake: Images) -> Images:
        """Returns synthesised images as the discriminator's step sees them."""
        targets, valid = self._targets, fake.valid
        if targets.fused and not self._objective.discriminate_fused:
            place = jnp.arange(len(valid)) % targets.per_identity
            valid &= place < targets.images_per_identity
        return fake._replace(image=jax.lax.stop_gradient(fake.image), valid=valid)

    def real(self, real: Mapping[str, jax.Array], logits: dict) -> Images:
        """Returns the real images of a step."""
        labels = {name: real[name] for name in self._targets.labels}
        valid = jnp.ones(len(real["image"]), bool)
        return Images(real["image"], labels, valid, masked_mean, logits)

    def discriminate(
        self,
        params: PyTree,
        statistics: PyTree,
        images: jax.Array,
        key: jax.Array,
        train: bool = True,
    ) -> tuple[dict[str, jax.Array], PyTree]:
        """Returns logits by head, and statistics.

        Args:
          params: as `normalised` gives them.
        """
        key_augment, key_dropout = jax.random.split(key)
        if train:
            kinds = self._objective.diff_augmentation
            images = diff_augment(key_augment, images, kinds)

        def forward(module, images):
            return module(images, train)

        return _apply(
            self._discriminator, params, statistics, images, key_dropout, train, forward
        )

    def normalised(self, params: PyTree, statistics: PyTree) -> tuple[PyTree, PyTree]:
        """Returns the discriminator's parameters as used, and its statistics."""
        if not self._spectral:
            return params, statistics
        params, vectors = spectral.normalise(params, statistics["spectral"])
        return params, {**statistics, "spectral": vectors}

    def recognise(self, variables: PyTree) -> Callable | None:
        """Returns images in [-1, 1] -> (embeddings, feature maps), or None."""
        recogniser = self._recogniser
        return recogniser and (lambda images: recogniser(variables, images))

    def encode(
        self, params: PyTree, statistics: PyTree, images: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns features [B, F] and confidence [B, 1], of the generator's encoder."""
        variables = _of_encoder(params, statistics)
        return self._encoder.apply(variables, images, method="with_confidence")

    def hand_over(
        self, generator: NetState, discriminator: NetState
    ) -> dict[str, Network]:
        """Returns encoder, generator and, where it was trained, discriminator."""
        whole = {"params": generator.params, "batch_stats": generator.batch_stats}
        encoder = _of_encoder(*generator[:2])
        parts = {"embedding": ("encoder", encoder), "generator": ("generator", whole)}
        if self._objective.discriminator_loss is not None:
            params, statistics = self.normalised(*discriminator[:2])
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

    def _mean_of_fakes(self, values: jax.Array, mask: jax.Array) -> jax.Array:
        if not (self._objective.fused_sum and self._targets.fused):
            return masked_mean(values, mask)
        n, shape = self._targets.images_per_identity, (-1, self._targets.per_identity)
        values, mask = values.reshape(shape), mask.reshape(shape)
        single = masked_mean(values[:, :n], mask[:, :n])
        return single + masked_mean(values[:, n:], mask[:, n:])


def _apply(model, params, statistics, images, key, train, forward):
    """What a network gives, and its statistics after it."""
    variables = {"params": params, "batch_stats": _running(statistics)}
    if not train:
        return model.apply(variables, images, method=forward), statistics
    out, updated = model.apply(
        variables,
        images,
        method=forward,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    return out, {**statistics, **updated.get("batch_stats", {})}


def _of_encoder(params: PyTree, statistics: PyTree) -> PyTree:
    return {"params": params["encoder"], "batch_stats": statistics["encoder"]}


def _running(statistics: PyTree) -> PyTree:
    """The running statistics of BatchNorm, without spectral normalisation's vectors."""
    return {name: tree for name, tree in statistics.items() if name != "spectral"}


def _options(
    network: Mapping[str, Any],
    targets: Targets,
    objective: Objective,
    num_classes: int,
    image_size: int,
) -> dict[str, dict[str, Any]]:
    """Options of `models.create` for generator and discriminator."""
    shared = dict(network)
    own = {name: shared.pop(name, {}) for name in ("generator", "discriminator")}
    if num_classes < 2 or (targets.poses < 2 and not targets.continuous):
        raise UserError(
            f"{num_classes} identities in {targets.poses} poses; at least 2 of each "
            "are needed"
        )
    heads = [["identity", num_classes], ["real", 1], ["pose", targets.poses]]
    if targets.illuminations:
        heads.append(["illumination", targets.illuminations])
    decided: dict[str, dict[str, Any]] = {
        "generator": {
            "poses": targets.poses,
            "illuminations": targets.illuminations,
            "size": image_size,
        },
        "discriminator": {
            "heads": heads,
            "cosine_identity": objective.cosine_identity,
        },
    }
    for name, options in own.items():
        for option in decided[name].keys() & (options.keys() | shared.keys()):
            raise UserError(
                f"{name} option {option!r} follows from data, image_size and "
                "objective: leave it out"
            )
    return {name: decided[name] | shared | own[name] for name in own}


def _recogniser(objective: Objective, pretrained: Mapping[str, Network]):
    """Returns (variables, images in [-1, 1]) -> (embeddings, feature maps), or None."""
    if objective.recogniser == "none":
        return None
    given = pretrained.get("identity")
    if given is None or given.kind != "embedding":
        found = f", not a {given.kind}" if given else ""
        raise UserError(
            f"the objective compares faces by a recogniser{found}: give --given "
            "identity=EMBEDDER"
        )
    # Blocks that are computed again cannot be looked into.
    options = {k: v for k, v in given.options.items() if k != "remat"}
    network: Any = models.create(given.architecture, **options)

    def recognise(variables, images):
        pixels = jnp.repeat(127.5 * (images + 1), 3 // images.shape[3], axis=3)
        pixels = prepare(pixels, given.input_spec)
        if objective.recogniser == "maps":
            return embedding_and_feature_maps(network, variables, pixels)
        return network.apply(variables, pixels), []

    return recognise
