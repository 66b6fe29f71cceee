"""Stage II: a conditional VAE-GAN separates the appearance of a face from its identity.

Lee et al. (ICRA 2020), after CVAE-GAN (Bao et al., ICCV 2017) and InfoGAN (Chen et al.,
NeurIPS 2016). With the frozen encoder E of identities, c = sqrt(d) E(x) / |E(x)|, the
appearance code z ~ N(mean, variance) of the encoder E_CVAE(x, c), the generator G and
the discriminator D with its outputs r (real or fake) and c~ (identity):

    L_E,G = 10 |x - G(c, z)|_1 + 0.01 KL(z || N(0, 1)) - mean r(x^) + |c~(x^) - c|^2 / d
    L_D   = hinge(r(x), 1) + hinge(r(x^), -1) + |c~ - c|^2 / d  of x and of x^

x^ are three images of each identity code: with the appearance of the same face, of
another face, and of a random code. The figure of the paper has the first alone, but
Stage III needs the second. L_E,G of x^ moves the generator alone: an encoder that it
moved would learn to put identity into z.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import augment, models
from fr_jax.errors import UserError, check_names, check_range
from fr_jax.losses import adversarial
from fr_jax.models import self_augmentation as networks
from fr_jax.models import spectral
from fr_jax.models.preprocess import InputSpec, prepare, resize
from fr_jax.optim import optimizers, update_schedule
from fr_jax.system import (
    Input,
    NetState,
    Network,
    System,
    check_given,
    check_kinds,
    check_variables,
)
from fr_jax.systems.self_augmentation.encoders import check_codes, code_size

ARCHITECTURE = "self_augmentation"
_KINDS = {"identity": ["embedding"], "init": ["augmentation"]}
_WEIGHTS = {"reconstruction": 10.0, "kl": 0.01, "adversarial": 1.0, "information": 1.0}
_OPTIMIZER = {"learning_rate": 1e-4, "betas": (0.5, 0.999)}
_OF_DISCRIMINATOR = {"learning_rate": 2e-4}

Array = jax.Array


class State(NamedTuple):
    """Both networks, the frozen encoder of identities, and the update cycle.

    The `batch_stats` of the discriminator are the vectors of spectral normalisation.
    """

    augmentation: NetState
    discriminator: NetState
    identity: Any
    turn: update_schedule.Turn
    step: Array


def make(
    *,
    image_size: int = 128,
    appearance_size: int = 64,
    width: float = 1.0,
    bn_groups: int = 1,
    dtype: str = "float32",
    weights: Mapping[str, float] | None = None,
    kl_warmup: int = 2000,
    train_on_swaps: bool = True,
    adversarial_loss: str | adversarial.AdversarialLoss = "hinge",
    update: update_schedule.UpdateSchedule | str | Mapping[str, Any] = "fixed",
    optimizer: Mapping[str, Any] | None = None,
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = (("flip", {}),),
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    pretrained: Mapping[str, Network] | None = None,
) -> System:
    """Returns the system of Stage II.

    Batches have `image` uint8 [B, H, W, 3] and `seed` uint32 [B]. Metrics, from the
    steps that update their network: generator/ and discriminator/ loss and NAME_loss;
    generator/swap_distance, |c~ - c|^2 / d of images with the appearance of another
    face; discriminator/real_accuracy and /fake_accuracy; appearance_spread, the mean
    standard deviation of appearance codes over a batch, 0 if they hold nothing.

    Args:
      image_size: 64 or 128 pixels, of generated images.
      appearance_size: length of z.
      width, bn_groups, dtype: see `models.self_augmentation`.
      weights: of the losses: reconstruction, kl, adversarial, information.
      kl_warmup: updates of the generator over which the weight of KL rises from 0.
      train_on_swaps: generate with the appearance of other faces and with random codes,
        too; False is the figure of the paper.
      adversarial_loss: see `losses.adversarial`.
      update: see `optim.update_schedule`.
      optimizer: options of `optim.optimizers.adam`; those of one network under
        'augmentation' and 'discriminator'.
      augmentation: of each image; see `augment.augment`.
      num_steps, steps_per_epoch: of the run, if a schedule needs them.
      pretrained: 'identity', the encoder of Stage I; 'init', an augmentation network.

    Raises:
      UserError: for unknown names, numbers out of range, and a missing encoder.
    """
    check_kinds(pretrained, _KINDS)
    pretrained = dict(pretrained or {})
    if "identity" not in pretrained:
        raise UserError(
            "stage augment needs the encoder of stage identity: --given "
            "identity=WORKDIR/embedder, or any other face embedder"
        )
    identity = pretrained["identity"]
    factors = {**_WEIGHTS, **(weights or {})}
    check_names("weight of a loss", factors, _WEIGHTS)
    for name, value in factors.items():
        check_range(f"the weight of {name}", value, 0)
    check_range("kl_warmup", kl_warmup, 0)
    augment.check(augmentation)
    shared = {"image_size": image_size, "width": width, "dtype": dtype}
    shared["identity_size"] = code_size(identity)
    networks.channels(image_size, width)  # raises for other sizes
    options = {**shared, "appearance_size": appearance_size, "bn_groups": bn_groups}
    if "init" in pretrained:
        check_codes(identity, pretrained["init"])
    model = models.create(ARCHITECTURE, **options)
    discriminator = networks.AugmentationDiscriminator(
        **{**shared, "dtype": jnp.dtype(dtype)}
    )
    recogniser = models.create(identity.architecture, **identity.options)
    spec = InputSpec(size=image_size, template=identity.input_spec.template)
    adversary = adversarial.adversarial_loss(adversarial_loss)
    schedule = update_schedule.from_options(update, steps_per_epoch)
    per_network = {**_OPTIMIZER, **(optimizer or {})}
    of_discriminator = per_network.get("discriminator", {})
    if not isinstance(of_discriminator, optimizers.Optimizer):
        per_network["discriminator"] = {**_OF_DISCRIMINATOR, **of_discriminator}
    adam = optimizers.by_network(
        per_network,
        ("augmentation", "discriminator"),
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
    )

    def init(key, batch, given=None):
        del batch
        given = check_given(given, _KINDS)
        if "identity" not in given:
            raise UserError("stage augment needs given={'identity': variables}")
        key_model, key_discriminator, key_vectors = jax.random.split(key, 3)
        inputs = [jnp.zeros(one.shape, one.dtype) for one in model.example_inputs(1)]
        variables = dict(model.init(key_model, *inputs))
        if "init" in given:
            check_variables("init", given["init"], variables)
            variables = given["init"]
        params = discriminator.init(key_discriminator, inputs[0])["params"]
        vectors = spectral.vectors(key_vectors, params)
        return State(
            NetState.create(
                variables["params"], variables["batch_stats"], adam["augmentation"]
            ),
            NetState.create(params, vectors, adam["discriminator"]),
            given["identity"],
            update_schedule.Turn(),
            jnp.int32(0),
        )

    def codes_of(state, images):
        raw: Any = recogniser.apply(
            state.identity, prepare(images, identity.input_spec)
        )
        return jax.lax.stop_gradient(networks.condition(raw))

    def decode(params, statistics, codes, appearance):
        images, updated = model.apply(
            {"params": params, "batch_stats": statistics},
            codes,
            appearance,
            train=True,
            method="decode",
            mutable=["batch_stats"],
        )
        return images, {**statistics, **updated["batch_stats"]}

    def generate(params, statistics, images, codes, key):
        """Returns reconstructions, fakes with their codes, mean and log-variance of z.

        Fakes move the generator alone.
        """
        key_sample, key_random = jax.random.split(key)
        (mean, log_variance), updated = model.apply(
            {"params": params, "batch_stats": statistics},
            images,
            codes,
            train=True,
            method="encode",
            mutable=["batch_stats"],
        )
        statistics = {**statistics, **updated["batch_stats"]}
        noise = jax.random.normal(key_sample, mean.shape)
        appearance = mean + jnp.exp(log_variance / 2) * noise
        drawn, after = decode(params, statistics, codes, appearance)
        fixed = jax.lax.stop_gradient(appearance)
        # The same images again, without a way to the encoder; XLA computes them once.
        fakes, fake_codes = [decode(params, statistics, codes, fixed)[0]], [codes]
        if train_on_swaps:
            random = jax.random.normal(key_random, mean.shape)
            others = [jnp.roll(fixed, 1, axis=0), random]
            # Neighbouring rows, so that no row changes devices.
            both = jnp.stack(others, axis=1).reshape(-1, mean.shape[1])
            doubled = jnp.repeat(codes, 2, axis=0)
            images, after = decode(params, after, doubled, both)
            fakes.append(images)
            fake_codes.append(doubled)
        return drawn, fakes, fake_codes, (mean, log_variance), after

    def discriminate(params, vectors, images):
        normalised, vectors = spectral.normalise(params, vectors)
        answer: Any = discriminator.apply({"params": normalised}, images)
        return answer, vectors

    def information(answer, codes):
        return jnp.mean(jnp.square(answer["identity"] - codes), axis=1)

    def discriminator_step(state, images, codes, key):
        net, other = state.discriminator, state.augmentation
        _, fakes, fake_codes, _, after = generate(
            other.params, other.batch_stats, images, codes, key
        )

        def cost(params):
            answer, vectors = discriminate(params, net.batch_stats, images)
            real = jnp.mean(adversary.real(answer["real"]))
            true = jnp.mean(information(answer, codes))
            right = jnp.mean(answer["real"] > 0)
            losses, errors, wrong = [], [], []
            for fake, code in zip(fakes, fake_codes):
                answer, vectors = discriminate(params, vectors, fake)
                losses.append(adversary.fake(answer["real"]))
                errors.append(information(answer, code))
                wrong.append(answer["real"] < 0)
            fake = jnp.mean(jnp.concatenate(losses))
            guessed = jnp.mean(jnp.concatenate(errors))
            total = factors["adversarial"] * (real + fake)
            total += factors["information"] * (true + guessed)
            accuracy = jnp.mean(jnp.concatenate(wrong))
            metrics = {
                "discriminator/loss": total,
                "discriminator/adversarial_loss": real + fake,
                "discriminator/information_loss": true + guessed,
                "discriminator/real_accuracy": right,
                "discriminator/fake_accuracy": accuracy,
            }
            return total, (metrics, vectors, (right + accuracy) / 2)

        gradient, (metrics, vectors, accuracy) = jax.grad(cost, has_aux=True)(
            net.params
        )
        net = optimizers.apply_gradients(net, gradient, vectors, adam["discriminator"])
        return state._replace(
            discriminator=net,
            augmentation=other._replace(batch_stats=after),
            turn=update_schedule.observe(schedule, state.turn, accuracy),
        ), metrics

    def generator_step(state, images, codes, key):
        net, other = state.augmentation, state.discriminator
        frozen, _ = spectral.normalise(other.params, other.batch_stats)

        def cost(params):
            drawn, fakes, fake_codes, code, after = generate(
                params, net.batch_stats, images, codes, key
            )
            mean, log_variance = code
            divergence = mean**2 + jnp.exp(log_variance) - 1 - log_variance
            kl = jnp.mean(jnp.sum(divergence, axis=1)) / 2
            reconstruction = jnp.mean(jnp.abs(images - drawn))
            answers: Any = [
                discriminator.apply({"params": frozen}, fake) for fake in fakes
            ]
            realism = jnp.concatenate(
                [adversary.generator(answer["real"]) for answer in answers]
            )
            errors = [information(*pair) for pair in zip(answers, fake_codes)]
            values = {
                "reconstruction": reconstruction,
                "kl": kl,
                "adversarial": jnp.mean(realism),
                "information": jnp.mean(jnp.concatenate(errors)),
            }
            risen = jnp.minimum(1.0, (net.updates + 1) / max(kl_warmup, 1))
            scales = {**factors, "kl": factors["kl"] * risen}
            total = sum(scales[name] * value for name, value in values.items())
            metrics: dict[str, Any] = {
                f"generator/{name}_loss": value for name, value in values.items()
            }
            metrics["generator/loss"] = total
            metrics["appearance_spread"] = jnp.mean(jnp.std(mean, axis=0))
            if train_on_swaps:
                swapped = errors[-1].reshape(-1, 2)[:, 0]
                metrics["generator/swap_distance"] = jnp.mean(swapped)
            return total, (metrics, after)

        gradient, (metrics, after) = jax.grad(cost, has_aux=True)(net.params)
        net = optimizers.apply_gradients(net, gradient, after, adam["augmentation"])
        return state._replace(augmentation=net), metrics

    def train_step(state, batch, key):
        key_views, key_step = jax.random.split(key)
        keys = augment.example_keys(key_views, batch["seed"])
        views = batch["image"].astype(jnp.float32)
        views = augment.augment(keys, views, augmentation)
        codes = codes_of(state, views)
        images = resize(views, image_size) / 127.5 - 1
        chosen, turn = update_schedule.next_turn(schedule, state.turn, state.step)
        state, metrics = update_schedule.alternate(
            chosen,
            discriminator_step,
            generator_step,
            state._replace(turn=turn),
            images,
            codes,
            key_step,
        )
        return state._replace(step=state.step + 1), metrics

    def embed(state, batch):
        images = prepare(batch["image"], identity.input_spec)
        codes: Any = recogniser.apply(state.identity, images)
        return {"embedding": codes}

    def hand_over(state):
        variables = {
            "params": state.augmentation.params,
            "batch_stats": state.augmentation.batch_stats,
        }
        kept = models.plain(options)
        network = Network(ARCHITECTURE, kept, variables, spec, "augmentation")
        return {"augmentation": network}

    return System(
        init,
        train_step,
        embed,
        hand_over,
        expects={
            "image": Input(np.uint8, (None, None, None, 3), multiple=bn_groups),
            "seed": Input(np.uint32, (None,)),
        },
        watch=("generator/loss", "discriminator/loss"),
    )
