"""DR-GAN: an identity feature without pose, and the face in any pose made from it.

Tran, Yin, Liu: Disentangled Representation Learning GAN for Pose-Invariant Face
Recognition (CVPR 2017) and Representation Learning by Rotating Your Faces (TPAMI 2018).
The generator encodes one image of a person, or fuses several by learned confidence, and
decodes them in a pose that is asked for; the discriminator tells who it is, in what
pose, and whether it is real. The encoder is the recogniser.

A step updates one of the two networks (`fr_jax.turns`), or, where nothing is asked of
the discriminator, the generator alone. Published programs differ much;
`configs/dr_gan.py` names their choices.

| here | the paper, or a program |
|---|---|
| features fused by a weighted mean | kayamin's: a sum (`normalise_fusion=False`) |
| fused fakes are fakes to the discriminator too | kayamin's: not (`discriminate_fused=False`) |
| its running statistics move in its own steps | kayamin's: in all (`discriminator_stats_in_generator_step`) |
| its strength is a running accuracy | kayamin's: that of one batch (`accuracy_decay=0.0`) |
| trunks move with statistics, and moments begin anew | milankinen's: parameters alone |
| the target pose is drawn anew each time, or is that of a true image beside it | zhangjunh's: L1 to the input, whatever its pose |
| target yaws are uniform | the authors': the first of a person's is normal, of 45 degrees |
| images with a pose are mirrored with it | the authors': not at all, the others without |
| in the CVPR form an image of nobody in particular costs -log(1 - p_fake) | the paper has none |
| cosines are cosines | the authors' normalise along the batch |

    fr-jax train --config=configs/dr_gan.py:smoke --workdir=runs/smoke
"""  # noqa: E501 - a table

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import optax

from fr_jax import models
from fr_jax.augment import diff_augment
from fr_jax.errors import UserError
from fr_jax.losses import dr_gan as losses
from fr_jax.losses.adversarial import r1
from fr_jax.losses.margin import unit
from fr_jax.models import spectral
from fr_jax.models.dr_gan import trunk as dr_gan_trunk
from fr_jax.models.dr_gan.generator import Encoder, fuse
from fr_jax.models.feature_maps import embedding_and_feature_maps
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.optim import update_schedule as turns
from fr_jax.optim.ema import ema
from fr_jax.system import NetState, Network, System, check_given
from fr_jax.systems.dr_gan import options as dr_gan_options
from fr_jax.systems.dr_gan import targets as rotations
from fr_jax.systems.dr_gan.targets import Rotations

WEIGHTS = {
    "identity": 1.0,
    "gan": 1.0,
    "pose": 1.0,
    "illumination": 1.0,
    "paired": 0.0,
    "identity_preserving": 0.0,
    "perceptual": 0.0,
}
_GIVEN = ("init", "discriminator", "identity")


class State(NamedTuple):
    """Both networks and what decides whose turn it is."""

    generator: NetState
    discriminator: NetState
    average: Any  # of the generator's parameters and statistics, or ()
    recogniser: Any  # frozen variables of the network given as 'identity', or ()
    spectral: dict[str, jax.Array]
    turn: turns.Turn
    accuracy: jax.Array  # the discriminator's, running
    seen: dict[str, jax.Array]  # the last value of every metric
    step: jax.Array


class Made(NamedTuple):
    """Made images, what they should show, and which rows are valid."""

    image: jax.Array
    labels: dict[str, jax.Array]
    valid: jax.Array


def make(
    num_classes: int,
    *,
    poses: int = 13,
    pose_mode: str = "classes",
    max_yaw: float = 90.0,
    illuminations: int = 0,
    images_per_identity: int = 1,
    batch_size: int | None = None,
    steps_per_epoch: float | None = None,
    image_size: int = 96,
    canvas_size: int | None = 110,
    channels: int = 3,
    network: Mapping[str, Any] | None = None,
    generator: Mapping[str, Any] | None = None,
    discriminator: Mapping[str, Any] | None = None,
    given_networks: Mapping[str, Network] | None = None,
    loss: str = "tpami",
    gan_loss: str = "cross_entropy",
    real_target: float = 1.0,
    weights: Mapping[str, float] | None = None,
    paired_loss: str = "l1",
    am_softmax: Mapping[str, float] | None = None,
    fused_weight: str = "mean",
    discriminate_fused: bool = True,
    interpolate: bool = False,
    schedule: str = "accuracy_gated",
    ratio: tuple[int, int] = (1, 1),
    strong_ratio: tuple[int, int] = (1, 4),
    threshold: float = 0.9,
    accuracy_decay: float = 0.9,
    stages: Sequence[tuple[float, tuple[int, int]]] = (),
    learning_rate: float = 2e-4,
    discriminator_learning_rate: float | None = None,
    betas: tuple[float, float] = (0.5, 0.999),
    r1_weight: float = 0.0,
    r1_every: int = 16,
    spectral_norm: bool = False,
    diff_augmentation: Sequence[str] = (),
    generator_ema: float = 0.0,
    switch: str = "none",
    switch_every: int = 0,
    discriminator_stats_in_generator_step: bool = False,
    flip: str = "none",
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = (),
    degradation: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> System:
    """Returns the system; the defaults are those of the TPAMI form, single image.

    Batches have `image` uint8 [B, H, W, 3], the images of a person one after the other;
    `label` int32 [B], -1 where nobody knows; `pose` int32 [B] in [0, poses), -1 where
    unknown (`yaw` float32 degrees, NaN, for continuous poses); `light` int32 [B]
    likewise where there are illuminations; `seed` uint32 [B]. Where the true image in
    another pose exists: `target_image`, `target_pose` (`target_yaw`) and
    `target_light`, with -1 (NaN) where it does not; that pose is asked for then.
    `noise` [B, Z] is drawn unless it is there.

    Metrics are those of the last step that had them, the two networks taking turns:
    discriminator/ and generator/ identity_loss, gan_loss, pose_loss,
    illumination_loss, loss (the weighted sum), identity_accuracy and pose_accuracy (of
    real images and of made ones, as the discriminator sees them);
    discriminator/real_accuracy, /accuracy (running) and /r1_loss;
    generator/paired_loss, /identity_preserving_loss, /perceptual_loss and /spread (how
    much made images differ from each other, over how much real ones do: a collapse is
    near 0); discriminator_turn. Without a game there are those of the generator's own
    terms alone. None is called `loss`, for two networks that play against each
    other have none that should fall: the loop's guard then looks for numbers that are
    not finite, and for no leap.

    Args:
      num_classes: identities.
      pose_mode: 'classes', or 'continuous': one yaw, regressed; `max_yaw` degrees then
        bounds those that are asked for.
      illuminations: lights that are told apart and asked for; 0: none.
      images_per_identity: n; above 1 each person's images are fused too, and n + 1
        images made.
      batch_size: rows of a batch, to learn at once whether it will do.
      image_size, canvas_size: images are brought to the canvas and cut at random to
        the size (in the middle when they are judged); None: no cutting.
      network: fields of `models.dr_gan.Generator` and of the discriminator; `generator`
        and `discriminator` have those of one alone.
      given_networks: architecture, options and input specification of what `init` will
        be given; 'identity' is the frozen recogniser of `identity_preserving` and
        `perceptual`.
      loss: 'tpami', a head for real or fake; 'cvpr', fakes are one identity more.
      gan_loss: a key of `losses.gan.GAN_LOSSES`, of the TPAMI form.
      real_target: below 1 smooths the label of real images, of the TPAMI form.
      weights: of the terms, over `WEIGHTS`, of both networks. With none for what the
        discriminator says there is no game: every step is the generator's.
      paired_loss: a key of `losses.dr_gan.PAIRED`.
      am_softmax: margin and scale of an identity head of cosines.
      fused_weight: 'mean', every made image alike; 'sum', the mean of the single ones
        and that of the fused ones (kayamin).
      discriminate_fused: fused images are fakes in the discriminator's steps.
      interpolate: what is decoded half-way between two people must look real too, or
        at least, in the CVPR form, not fake.
      schedule, ratio, strong_ratio, threshold: see `turns.schedule`.
      accuracy_decay: weight of the old running accuracy.
      stages: (first epoch, ratio) of 'staged'; in steps if no `steps_per_epoch`.
      learning_rate: Adam's; the discriminator may have its own.
      r1_weight, r1_every: gamma of `losses.gan.r1`, applied so rarely.
      diff_augmentation: see `diff_augment`.
      generator_ema: decay of an average of the generator, which is handed over; lower
        in the first updates, as in `momentum.with_ema`; 0: no.
      switch, switch_every: see `dr_gan_trunk.switch`; every so many steps.
      flip: 'none'; 'remap' mirrors half of the images and their poses; 'keep' mirrors
        images whose poses have no side.
      augmentation: see `augment.augment`; the true image is changed alike.
      degradation: likewise, of what the encoder sees alone, so that it learns which of
        several images to trust.

    `init` takes as given: 'init', an encoder's variables or a generator's, with whose
    trunk the discriminator begins too, as far as their layers are alike;
    'discriminator', which has precedence; 'identity'. What takes a generator's poses,
    lights or noise begins anew if there were more or fewer of them, provided that
    `given_networks` says how many.

    Raises:
      UserError: for what does not fit together, and unknown names; see
        `dr_gan_options`.
    """
    options = SimpleNamespace(**locals())
    continuous = pose_mode == "continuous"
    asked = Rotations(
        0 if continuous else poses,
        max_yaw,
        illuminations,
        images_per_identity,
        interpolate,
    )
    each, decodes = asked.images, asked.decodes
    shares = {**WEIGHTS, **(weights or {})}
    game = any(shares.get(name) for name in [*asked.labels, "gan"])
    recognises = bool(shares.get("identity_preserving") or shares.get("perceptual"))
    made_options = {
        "poses": 1 if continuous else poses,
        "illuminations": illuminations,
        "size": image_size,
        "channels": channels,
        **(network or {}),
        **(generator or {}),
    }
    heads = [["identity", num_classes], ["real", 1], ["pose", made_options["poses"]]]
    heads += [["illumination", illuminations]] if illuminations else []
    judged_options = {
        "heads": heads,
        "cosine_identity": am_softmax is not None,
        **(network or {}),
        **(discriminator or {}),
    }
    networks = dict(given_networks or {})
    dr_gan_options.check_choices(options)
    dr_gan_options.check_names(
        ("weight", shares, WEIGHTS), ("given network", networks, _GIVEN)
    )
    maker: Any = models.create("dr_gan_generator", **made_options)
    judge: Any = models.create("dr_gan_discriminator", **judged_options)
    dr_gan_options.check(options, shares, maker, judge, game=game)
    groups = made_options.get("bn_groups", 1)
    spec = InputSpec(
        size=canvas_size or image_size,
        colour="GREY" if channels == 1 else "RGB",
        crop=(image_size, image_size),
    )
    take_turn = turns.schedule(
        schedule,
        ratio=ratio,
        strong_ratio=strong_ratio,
        threshold=threshold,
        stages=[(round(at * (steps_per_epoch or 1)), pair) for at, pair in stages],
    )
    optimizers = {
        "generator": optax.adam(learning_rate, *betas),
        "discriminator": optax.adam(
            discriminator_learning_rate or learning_rate, *betas
        ),
    }
    metric_names = ["generator/spread", "generator/loss"]
    for name in ("paired", "identity_preserving", "perceptual"):
        metric_names += [f"generator/{name}_loss"] * bool(shares[name])
    if game:
        metric_names += ["discriminator/real_accuracy", "discriminator/loss"]
        metric_names += ["discriminator/r1_loss"] * bool(r1_weight)
        for part in ("discriminator", "generator"):
            metric_names += [f"{part}/{name}_loss" for name in [*asked.labels, "gan"]]
            metric_names += [f"{part}/identity_accuracy", f"{part}/pose_accuracy"]

    def check_rows(rows):
        if rows % (each * groups):
            raise UserError(
                f"a batch of {rows} images cannot be {each} of each person"
                + f" in {groups} equal BatchNorm groups" * (groups > 1)
                + f"; use a multiple of {each * groups}"
            )

    check_rows(batch_size or each * groups)

    def init(key, batch, given=None):
        check_rows(len(batch["image"]))
        given = dict(given or {})
        dr_gan_options.check_names(("given network", given, _GIVEN))
        if recognises and "identity" not in given:
            raise UserError(
                "weights 'identity_preserving' and 'perceptual' need "
                "given={'identity': variables}"
            )
        key_generator, key_discriminator, key_spectral = jax.random.split(key, 3)
        inputs = [jnp.zeros(x.shape) for x in maker.example_inputs(groups)]
        made = dict(maker.init(key_generator, *inputs))
        judged = dict(judge.init(key_discriminator, inputs[0]))
        start = given.get("init")
        if start and "encoder" in start["params"]:
            if known := networks.get("init"):
                teacher: Any = models.create(known.architecture, **known.options)
                lengths = teacher.code_lengths, maker.code_lengths
                start = dr_gan_trunk.from_generator(start, made, *lengths)
            check_given("init", start, made)
            made, start = start, {kind: tree["encoder"] for kind, tree in start.items()}
        elif start:
            encoder = {kind: tree["encoder"] for kind, tree in made.items()}
            check_given("init", start, encoder)
            made = {k: {**tree, "encoder": start[k]} for k, tree in made.items()}
        if start:
            judged = dr_gan_trunk.from_recogniser(start, judged)
            judged = jax.tree.map(jnp.copy, judged)  # two networks, two buffers
        if "discriminator" in given:
            check_given("discriminator", given["discriminator"], judged)
            judged = given["discriminator"]
        states = [
            NetState(
                variables["params"],
                variables.get("batch_stats", {}),
                optimizers[name].init(variables["params"]),
            )
            for name, variables in (("generator", made), ("discriminator", judged))
        ]
        vectors = spectral.vectors(key_spectral, judged["params"])
        return State(
            *states,
            average=jax.tree.map(jnp.copy, states[0][:2]) if generator_ema else (),
            recogniser=given["identity"] if recognises else (),
            spectral=vectors if spectral_norm else {},
            turn=jax.tree.map(jnp.int32, turns.Turn()),
            accuracy=jnp.float32(0),
            seen={name: jnp.float32(0) for name in metric_names},
            step=jnp.int32(0),
        )

    def rotate(params, statistics, real, key, train):
        """Made images, statistics after them, and features [B, F] of real ones."""
        key_codes, key_noise, key_dropout = jax.random.split(key, 3)
        labels, valid, codes = rotations.targets(real, asked, key_codes)
        noise, seen = real.get("noise"), real.get("degraded", real["image"])
        if noise is None:
            shape = (len(valid), maker.noise)
            noise = jax.random.uniform(key_noise, shape, minval=-1.0)
        codes.insert(1, noise)

        def forward(module, images):
            features, confidence = module.encode(images, train)
            sets, trust = (
                einops.rearrange(x, "(p n) f -> p n f", n=each)
                for x in (features, confidence)
            )
            rows = [sets]
            if asked.fused or interpolate:
                whole = fuse(sets, trust, normalise=module.normalise_fusion)
                rows += [whole[:, None]] * asked.fused
                rows += [losses.interpolated(whole)[:, None]] * interpolate
            rows = einops.rearrange(jnp.concatenate(rows, 1), "p k f -> (p k) f")
            return module.decode(rows, *codes, train=train), features

        (image, features), statistics = apply(
            maker, params, statistics, seen, key_dropout, train, forward
        )
        return Made(image, labels, valid), statistics, features

    def judged_by(params, statistics, images, key, train=True):
        key_change, key_dropout = jax.random.split(key)
        if train:
            images = diff_augment.diff_augment(key_change, images, diff_augmentation)

        def forward(module, images):
            return module(images, train)

        return apply(judge, params, statistics, images, key_dropout, train, forward)

    def discriminating(state):
        """The discriminator's parameters as they are used."""
        params = state.discriminator.params
        if spectral_norm:
            params, _ = spectral.normalise(params, state.spectral)
        return params

    def apply(model, params, statistics, images, key, train, forward):
        """What a network gives, and its statistics after it."""
        variables = {"params": params, "batch_stats": statistics}
        if not train:
            return model.apply(variables, images, method=forward), statistics
        out, moved = model.apply(
            variables,
            images,
            method=forward,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return out, moved.get("batch_stats", {})

    def over_made(values, valid) -> jax.Array:
        """The mean over made images; or of single and of fused ones, added."""
        if fused_weight == "mean" or not asked.fused:
            return losses.masked_mean(values, valid)
        values, valid = (x.reshape(-1, decodes) for x in (values, valid))
        single, fused = (
            losses.masked_mean(values[:, part], valid[:, part])
            for part in (slice(each), slice(each, None))
        )
        return single + fused

    def weighed(found, part):
        """The weighted sum of the terms, and all of them as metrics."""
        value = sum(shares.get(name, 1.0) * term for name, term in found.items())
        metrics = {f"{part}/{name}_loss": term for name, term in found.items()}
        return value, metrics | {f"{part}/loss": value}

    def discriminator_step(state, real, key):
        key_make, key_real, key_fake = jax.random.split(key, 3)
        net = state.discriminator
        maker_net = state.generator
        made, made_statistics, _ = rotate(
            maker_net.params, maker_net.batch_stats, real, key_make, train=True
        )
        made = jax.lax.stop_gradient(made)
        shown = made.valid
        if asked.fused and not discriminate_fused:
            shown &= jnp.arange(len(shown)) % decodes < each

        def cost(params):
            vectors = state.spectral
            if spectral_norm:
                params, vectors = spectral.normalise(params, vectors)
            of_real, after = judged_by(params, net.batch_stats, real["image"], key_real)
            of_fake, after = judged_by(params, after, made.image, key_fake)
            labels = {name: real[name] for name in asked.labels}
            terms = losses.recognition(
                of_real, labels, form=loss, am_softmax=am_softmax
            )
            found = {name: losses.masked_mean(*term) for name, term in terms.items()}
            as_real = losses.judged_real(
                of_real,
                real["identity"],
                form=loss,
                kind=gan_loss,
                target=real_target,
            )
            as_fake = losses.judged_fake(of_fake, form=loss, kind=gan_loss)
            found["gan"] = jnp.mean(as_real) + over_made(as_fake, shown)
            if r1_weight:
                found["r1"] = slope(params, net, real["image"], key_real)
            value, metrics = weighed(found, "discriminator")
            scores = losses.accuracies(of_real, labels)
            halves = [
                jnp.mean(losses.taken_for_real(of_real, form=loss)),
                losses.masked_mean(
                    1.0 - losses.taken_for_real(of_fake, form=loss), shown
                ),
            ]
            for name, (share, _) in scores.items():
                metrics[f"discriminator/{name}_accuracy"] = share
            metrics["discriminator/real_accuracy"] = sum(halves) / 2
            scores = [*scores.values(), *((half, True) for half in halves)]
            accuracy = sum(share * there for share, there in scores)
            accuracy /= sum(1.0 * there for _, there in scores)
            return value, (metrics, after, vectors, accuracy)

        gradient, (metrics, after, vectors, accuracy) = jax.grad(cost, has_aux=True)(
            net.params
        )
        return state._replace(
            generator=maker_net._replace(batch_stats=made_statistics),
            discriminator=updated("discriminator", net, gradient, after),
            spectral=vectors,
            accuracy=ema(state.accuracy, accuracy, accuracy_decay),
            seen=state.seen | metrics,
        )

    def slope(params, net, images, key):
        """R1 in every `r1_every`-th step, so much the heavier; 0 in the others."""

        def score(images):
            return judged_by(params, net.batch_stats, images, key)[0]["real"][:, 0]

        def penalty(images):
            return 0.5 * r1_weight * r1_every * jnp.mean(r1(score, images))

        due = optax.tree.get(net.opt_state, "count") % r1_every == 0
        return jax.lax.cond(due, penalty, lambda _: jnp.float32(0), images)

    def generator_step(state, real, key):
        key_make, key_judge = jax.random.split(key)
        net, judging = state.generator, state.discriminator
        fixed = discriminating(state)

        def cost(params):
            made, statistics, _ = rotate(
                params, net.batch_stats, real, key_make, train=True
            )
            found, metrics, after = {}, {}, judging.batch_stats
            if game:
                logits, after = judged_by(fixed, after, made.image, key_judge)
                found, metrics = played(logits, made)
            if shares["paired"]:
                found["paired"] = beside_truth(made, real)
            if recognises:
                found |= recognised(state.recogniser, made, real)
            value, terms = weighed(found, "generator")
            metrics["generator/spread"] = _spread(made.image, real["image"])
            return value, (metrics | terms, statistics, after)

        gradient, (metrics, statistics, after) = jax.grad(cost, has_aux=True)(
            net.params
        )
        new, average = updated("generator", net, gradient, statistics), state.average
        if generator_ema:
            done = optax.tree.get(net.opt_state, "count")
            warm = jnp.minimum(generator_ema, (1 + done) / (10 + done))
            average = ema(average, new[:2], warm)
        if discriminator_stats_in_generator_step:
            judging = judging._replace(batch_stats=after)
        return state._replace(
            generator=new,
            discriminator=judging,
            average=average,
            seen=state.seen | metrics,
        )

    def updated(name, net, gradient, statistics):
        updates, opt_state = optimizers[name].update(gradient, net.opt_state)
        return NetState(optax.apply_updates(net.params, updates), statistics, opt_state)

    def played(logits, made):
        """What the discriminator says of made images, and how often it agrees."""
        terms = losses.recognition(
            logits, made.labels, form=loss, am_softmax=am_softmax
        )
        found = {
            name: over_made(values, there & made.valid)
            for name, (values, there) in terms.items()
        }
        as_real = losses.fooled(
            logits, made.labels["identity"], form=loss, kind=gan_loss
        )
        found["gan"] = over_made(as_real, made.valid)
        scores = losses.accuracies(logits, made.labels, made.valid)
        return found, {
            f"generator/{name}_accuracy": share for name, (share, _) in scores.items()
        }

    def true_images(real, weight):
        """The true image of each made one, and where there is one."""
        if "target_image" not in real:
            raise UserError(
                f"weight '{weight}' needs true images in the pose that is asked for: "
                "set config.data.paired, with people who were photographed in several "
                "poses"
            )
        return rotations.truth(real, asked)

    def beside_truth(made, real):
        images, there = true_images(real, "paired")
        return over_made(
            losses.paired(made.image, images, paired_loss), there & made.valid
        )

    def recognised(variables, made, real):
        """Whom and what a frozen recogniser takes made images for."""
        given = networks["identity"]
        # Nobody could look into blocks that are computed again.
        plain = {k: v for k, v in given.options.items() if k != "remat"}
        recogniser: Any = models.create(given.architecture, **plain)

        def look(images):
            pixels = jnp.repeat(127.5 * (images + 1), 3 // channels, axis=3)
            pixels = prepare(pixels, given.input_spec)
            if not shares["perceptual"]:
                return recogniser.apply(variables, pixels), []
            return embedding_and_feature_maps(recogniser, variables, pixels)

        embeddings, maps = look(made.image)
        found = {}
        if shares["identity_preserving"]:
            of, _ = look(real["image"])
            of = einops.rearrange(unit(of), "(p n) d -> p n d", n=each)
            whole = jnp.sum(of, axis=1, keepdims=True)
            of = jnp.concatenate([of, *[whole] * (decodes - each)], axis=1)
            of = jax.lax.stop_gradient(einops.rearrange(of, "p k d -> (p k) d"))
            of_one = jnp.arange(len(of)) % decodes < each + asked.fused
            found["identity_preserving"] = over_made(
                losses.identity_preserving(embeddings, of), of_one & made.valid
            )
        if shares["perceptual"]:
            images, there = true_images(real, "perceptual")
            _, of_truth = look(images)
            found["perceptual"] = over_made(
                losses.perceptual(maps, of_truth), there & made.valid
            )
        return found

    def train_step(state, batch, key):
        key_views, key_step = jax.random.split(key)
        real = rotations.views(
            batch,
            asked,
            key_views,
            spec,
            flip=flip,
            augmentation=augmentation,
            degradation=degradation,
        )
        if "noise" in batch:
            real["noise"] = batch["noise"]
        mine, turn = take_turn(state.turn, state.step, state.accuracy)
        if game:
            state = jax.lax.cond(
                mine, discriminator_step, generator_step, state, real, key_step
            )
        else:
            state = generator_step(state, real, key_step)
        step = state.step + 1
        if switch_every:
            pair = jax.lax.cond(
                step % switch_every == 0,
                lambda pair: dr_gan_trunk.switch(switch, *pair),
                lambda pair: pair,
                (state.generator, state.discriminator),
            )
            state = state._replace(generator=pair[0], discriminator=pair[1])
        metrics = dict(state.seen)
        if game:
            metrics["discriminator/accuracy"] = state.accuracy
            metrics["discriminator_turn"] = 1.0 * mine
        return state._replace(turn=turn, step=step), metrics

    def best(state):
        """Parameters and statistics of the generator that is handed over."""
        return state.average if generator_ema else state.generator[:2]

    def encoder_variables(state):
        params, statistics = best(state)
        return {"params": params["encoder"], "batch_stats": statistics["encoder"]}

    fields = Encoder.__dataclass_fields__
    encoder_options = {k: v for k, v in made_options.items() if k in fields}
    encoder: Any = models.create("dr_gan_encoder", **encoder_options)

    def embed(state, batch):
        images = prepare(batch["image"], spec)
        features, confidence = encoder.apply(
            encoder_variables(state), images, method="with_confidence"
        )
        return {"embedding": features, "quality": confidence[:, 0]}

    def eval_step(state, batch, key):
        """Of people whom no network need know: are they turned, and do they differ?"""
        real = rotations.labelled(batch, asked)
        for name in ("image", "target_image"):
            if name in batch:
                real[name] = prepare(batch[name], spec)
        params, statistics = best(state)
        made, _, features = rotate(params, statistics, real, key, train=False)
        again = encoder.apply(encoder_variables(state), made.image)
        first = unit(again)[::decodes]  # of each person
        who = batch["label"][::each]
        strangers = who[:, None] != who[None]
        metrics = {
            "feature_cosine": jnp.mean(jnp.sum(first * unit(features)[::each], axis=1)),
            # Near 1 all people are made to look alike: a collapse.
            "strangers_cosine": losses.masked_mean(first @ first.T, strangers),
            "spread": _spread(made.image, real["image"]),
        }
        if "target_image" in real:
            metrics["paired_loss"] = beside_truth(made, real)
        if game:
            judging = discriminating(state), state.discriminator.batch_stats
            logits, _ = judged_by(*judging, made.image, key, train=False)
            scores = losses.accuracies(logits, made.labels, made.valid)
            metrics["pose_accuracy"] = scores["pose"][0]
        return metrics

    def hand_over(state):
        params, statistics = best(state)
        whole = {"params": params, "batch_stats": statistics}
        judging = {
            "params": discriminating(state),
            "batch_stats": state.discriminator.batch_stats,
        }
        judging = {kind: tree for kind, tree in judging.items() if tree}
        parts = {
            "embedding": ("encoder", encoder_options, encoder_variables(state)),
            "generator": ("generator", made_options, whole),
        }
        if game:
            parts["discriminator"] = "discriminator", judged_options, judging
        return {
            kind: Network(f"dr_gan_{name}", _plain(fields), variables, spec, kind)
            for kind, (name, fields, variables) in parts.items()
        }

    return System(init, train_step, embed, eval_step=eval_step, hand_over=hand_over)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them."""
    if "dtype" in options:
        return options | {"dtype": jnp.dtype(options["dtype"]).name}
    return options


def _spread(made: jax.Array, real: jax.Array) -> jax.Array:
    """How much made images differ from each other, over how much real ones do."""

    def spread(images):
        return jnp.sqrt(jnp.mean(jnp.var(images, axis=0)))

    return spread(made) / (spread(real) + 1e-6)
