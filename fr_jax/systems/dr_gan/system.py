"""DR-GAN: an identity feature without pose, and the face in any pose from it.

Tran, Yin, Liu: Disentangled Representation Learning GAN for Pose-Invariant Face
Recognition (CVPR 2017, DOI 10.1109/CVPR.2017.141) and Representation Learning by
Rotating Your Faces (TPAMI 2018, arXiv 1705.11136).
The generator encodes one image of an identity, or fuses several by learned confidence,
and decodes them in a target pose; the discriminator classifies identity and pose, and
real or fake. The encoder is the recogniser. A step updates one of the two networks
(`optim.update_schedule`), or the generator alone. Published programs differ much;
`presets` names their choices. With x real and x' synthesised images, r, d and p the
discriminator's heads of real or fake, identity and pose, the losses of TPAMI are

    L_D = BCE(r(x), 1) + BCE(r(x'), 0) + CE(d(x), identity) + CE(p(x), pose)
    L_G = BCE(r(x'), 1) + CE(d(x'), identity) + CE(p(x'), target pose)

    fr-jax train --config=configs/dr_gan.py:smoke --workdir=runs/smoke
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import UserError
from fr_jax.models.preprocess import prepare
from fr_jax.optim import optimizers, update_schedule
from fr_jax.system import NetState, Network, System, check_given, check_kinds
from fr_jax.systems.dr_gan import objective_options, scores, trunk
from fr_jax.systems.dr_gan import targets as target_images
from fr_jax.systems.dr_gan.networks import Networks
from fr_jax.systems.dr_gan.objective import Objective
from fr_jax.systems.dr_gan.targets import Policy, Targets

PRETRAINED = {  # kinds of each pretrained network
    "init": ("generator", "embedding"),
    "discriminator": ("discriminator",),
    "identity": ("embedding",),
}


class State(NamedTuple):
    """Both networks, the frozen recogniser's variables or (), and the update cycle."""

    generator: NetState
    discriminator: NetState
    recogniser: Any
    turn: update_schedule.Turn
    step: jax.Array


def make(
    num_classes: int,
    *,
    targets: Targets = Targets(),  # noqa: B008 - immutable
    objective: Objective | str | Mapping[str, Any] = "tpami",
    update: update_schedule.UpdateSchedule | str | Mapping[str, Any] = "accuracy_gated",
    network: Mapping[str, Any] | None = None,
    image_size: int = 96,
    canvas_size: int | None = 110,
    optimizer: Mapping[str, Any] | None = None,
    flip: str = "none",
    augmentation: Policy = (),
    degradation: Policy = (),
    trunk_switching: Mapping[str, Any] | None = None,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system; the defaults are the TPAMI form with a single image.

    Batches have `image` uint8 [B, H, W, 3], the n images of each identity in
    consecutive rows; `label` int32 [B], -1 if unknown; `pose` int32 [B], -1 if unknown
    (`yaw` float32 in degrees, NaN if unknown, for continuous poses); `light` int32 [B],
    -1 if unknown, with illuminations; `seed` uint32 [B]. Paired batches add ground
    truth in another pose, which is then the target: `target_image`, `target_pose`
    (`target_yaw`) and `target_light`, -1 (NaN) for rows without. `noise` [B, Z] is
    optional, random by default.

    Metrics, from the steps that update their network: discriminator/ and generator/
    NAME_loss and loss (the weighted sum), identity_accuracy and pose_accuracy (the
    discriminator's, of real images and of synthesised ones);
    discriminator/real_accuracy and /accuracy (running); generator/spread (the standard
    deviation of synthesised images over that of real ones: near 0 in a collapse);
    discriminator_turn. The guard watches the losses of both networks, unless their
    trunks are switched.

    Args:
      num_classes: number of identities.
      targets: poses, lights and images per identity, from `load`.
      objective: an `Objective`, 'tpami' or 'cvpr', or options of
        `objective_options.from_options`.
      update: an `UpdateSchedule`, or name and options of one.
      network: fields of the generator and discriminator in `models.dr_gan`; those of
        one network under 'generator' and 'discriminator'.
      image_size, canvas_size: images are resized to the canvas and cropped at random to
        the size (centrally in evaluation); None: no cropping.
      optimizer: options of `optim.optimizers.adam`; those of one network under
        'generator' and 'discriminator'.
      flip: 'none'; 'remap' mirrors half of the images and their poses; 'keep' mirrors
        images with unsigned poses.
      augmentation: see `augment.augment`; also applied to the ground truth.
      degradation: augmentation of the encoder's input only.
      trunk_switching: arguments of `trunk.with_trunk_switching`.
      num_steps, steps_per_epoch: of the run, for schedules that need them.
      pretrained: networks whose variables `init` will be given: 'init', an encoder or a
        generator, whose trunk also initialises the discriminator's layers of the same
        shape; 'discriminator', which takes precedence; 'identity', the objective's
        recogniser. Layers of a generator for other poses, lights or noise that depend
        on these are initialised at random.

    Raises:
      UserError: for unknown names, invalid numbers and incompatible networks.
    """
    check_kinds(pretrained, PRETRAINED)
    pretrained = dict(pretrained or {})
    objective = objective_options.from_options(objective, paired=targets.paired)
    schedule = update_schedule.from_options(update, steps_per_epoch)
    targets = targets._replace(interpolate=objective.interpolate)
    targets.check(flip)
    target_images.check_policies(augmentation, degradation)
    changes = {"flip": flip, "augmentation": augmentation, "degradation": degradation}
    adversarial = objective.discriminator_loss is not None
    with_trunks = trunk.from_options(trunk_switching or {}, adversarial)
    networks = Networks(
        network or {},
        targets,
        objective,
        num_classes=num_classes,
        image_size=image_size,
        canvas_size=canvas_size,
        pretrained=pretrained,
    )
    run = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch}
    adam = optimizers.by_network(optimizer, ("generator", "discriminator"), **run)

    def init(key, batch, given=None):
        del batch
        given = check_given(given, PRETRAINED)
        if objective.recogniser != "none" and "identity" not in given:
            raise UserError("the objective needs given={'identity': variables}")
        generator, discriminator = (
            NetState.create(variables["params"], variables["batch_stats"], adam[name])
            for name, variables in networks.init(key, given).items()
        )
        recogniser = given["identity"] if objective.recogniser != "none" else ()
        turn = update_schedule.Turn()
        return State(generator, discriminator, recogniser, turn, jnp.int32(0))

    def discriminator_step(state, real, key):
        discriminator_loss = objective.discriminator_loss
        assert discriminator_loss is not None
        key_synthesis, key_real, key_fake = jax.random.split(key, 3)
        net, other = state.discriminator, state.generator
        fake, statistics, _ = networks.synthesise(other[:2], real, key_synthesis)
        fake, image = networks.as_fakes(fake), real["image"]

        def cost(params):
            params, after = networks.normalised((params, net.batch_stats))
            logits, after = networks.discriminate((params, after), image, key_real)
            reals = networks.real(real, logits)
            logits, after = networks.discriminate((params, after), fake.image, key_fake)
            fakes = fake._replace(logits=logits)
            losses = discriminator_loss(reals, fakes)
            if objective.penalty:

                def score(images):
                    logits, _ = networks.discriminate(
                        (params, net.batch_stats), images, key_real
                    )
                    return logits["real"][:, 0]

                losses["r1"] = objective.penalty(score, image, net.updates)
            total, metrics = objective.weighted(losses, "discriminator")
            shares, accuracy = scores.discriminator_accuracy(objective, reals, fakes)
            return total, (metrics | shares, after, accuracy)

        gradient, (metrics, after, accuracy) = jax.grad(cost, has_aux=True)(net.params)
        net = optimizers.apply_gradients(net, gradient, after, adam["discriminator"])
        return state._replace(
            generator=other._replace(batch_stats=statistics),
            discriminator=net,
            turn=update_schedule.observe(schedule, state.turn, accuracy),
        ), metrics

    def generator_step(state, real, key):
        key_synthesis, key_fake = jax.random.split(key)
        net, other = state.generator, state.discriminator
        fixed, _ = networks.normalised(other[:2])

        def cost(params):
            fake, statistics, _ = networks.synthesise(
                (params, net.batch_stats), real, key_synthesis
            )
            after, metrics = other.batch_stats, {}
            if adversarial:
                logits, after = networks.discriminate(
                    (fixed, after), fake.image, key_fake
                )
                fake = fake._replace(logits=logits)
                metrics = {
                    f"generator/{name}_accuracy": share
                    for name, (share, _) in scores.accuracies(fake).items()
                }
            recognise = networks.recognise(state.recogniser)
            reals = networks.real(real, {})
            losses = objective.generator_loss(reals, fake, recognise)
            total, terms = objective.weighted(losses, "generator")
            metrics["generator/spread"] = scores.spread(fake.image, real["image"])
            return total, (metrics | terms, statistics, after)

        gradient, out = jax.grad(cost, has_aux=True)(net.params)
        metrics, statistics, after = out
        if objective.statistics_in_generator_step:
            other = other._replace(batch_stats=after)
        net = optimizers.apply_gradients(net, gradient, statistics, adam["generator"])
        return state._replace(generator=net, discriminator=other), metrics

    def train_step(state, batch, key):
        key_views, key_step = jax.random.split(key)
        real = target_images.views(batch, targets, key_views, networks.spec, **changes)
        if adversarial:
            chosen, turn = update_schedule.next_turn(schedule, state.turn, state.step)
            state = state._replace(turn=turn)
            state, metrics = update_schedule.alternate(
                chosen, discriminator_step, generator_step, state, real, key_step
            )
            metrics |= {
                "discriminator/accuracy": state.turn.accuracy,
                "discriminator_turn": 1.0 * chosen,
            }
        else:
            state, metrics = generator_step(state, real, key_step)
        return state._replace(step=state.step + 1), metrics

    def embed(state, batch):
        images = prepare(batch["image"], networks.spec)
        features, confidence = networks.encode(state.generator[:2], images)
        return {"embedding": features, "quality": confidence[:, 0]}

    def hand_over(state):
        return networks.hand_over(state.generator, state.discriminator)

    expects = target_images.expects(targets, num_classes, networks.groups)
    eval_step = scores.on_unseen(networks, targets, objective)
    trained = ("generator", "discriminator") if adversarial else ("generator",)
    watch = [f"{name}/loss" for name in trained]
    return with_trunks(
        System(
            init, train_step, embed, hand_over, eval_step, expects=expects, watch=watch
        )
    )
