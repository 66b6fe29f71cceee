"""DR-GAN's objectives against NumPy, their options, and custom ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.losses.adversarial import ADVERSARIAL, AdversarialLoss
from fr_jax.system import Mean
from fr_jax.systems.dr_gan import objective as objectives
from fr_jax.systems.dr_gan import scores
from fr_jax.systems.dr_gan.objective import Images, Objective
from fr_jax.systems.dr_gan.objective_options import WEIGHTS, from_options
from tests.support import dr_gan as small
from tests.support.dr_gan import TARGETS, batch, stepped
from tests.support.steps import jit, largest_change

pytestmark = [
    pytest.mark.usefixtures("shallow_networks"),
    pytest.mark.xdist_group("dr_gan"),  # they share `stepped`
]
LABELS = {
    "identity": np.array([0, 4, -1, 2, 1, -1]),
    "pose": np.array([2, -1, 0, 1, 1, 0]),
    "illumination": np.array([3, 0, 1, 2, -1, 3]),
}
SIZES = {"identity": 5, "real": 1, "pose": 3, "illumination": 4}
ROWS = 6


def random_logits():
    rng = np.random.default_rng(1)
    return {
        name: jnp.asarray(rng.normal(0, 2, (ROWS, size)), jnp.float32)
        for name, size in SIZES.items()
    }


def images(logits=None, labels=LABELS, mean=objectives.masked_mean, **changes):
    """Returns `Images` with all rows valid."""
    labels = jax.tree.map(jnp.asarray, labels)
    rows = len(next(iter(labels.values())))
    logits = random_logits() if logits is None else logits
    out = Images(jnp.zeros((rows, 2, 2, 3)), labels, jnp.ones(rows, bool), mean, logits)
    return out._replace(**changes)


def by_row(values, mask):
    """Replaces the mean: returns values and mask."""
    return values, mask


def cross_entropy(columns, labels):
    columns = np.asarray(columns, np.float64)
    total = np.log(np.exp(columns).sum(1))
    return total - columns[np.arange(len(columns)), labels]


# --- classification -----------------------------------------------------------------


@pytest.mark.parametrize("name", LABELS)
def test_classification_is_cross_entropy_of_known_labels(name):
    values, mask = objectives.classification(images(mean=by_row))[name]
    labelled = LABELS[name] >= 0
    np.testing.assert_array_equal(mask, labelled)
    expected = cross_entropy(random_logits()[name], LABELS[name])[labelled]
    np.testing.assert_allclose(values[labelled], expected, rtol=1e-5)
    mean = objectives.classification(images())[name]
    assert float(mean) == pytest.approx(expected.mean(), rel=1e-5)


def test_classification_has_one_loss_per_label():
    assert objectives.classification(images()).keys() == LABELS.keys()


def test_invalid_rows_have_no_loss():
    valid = jnp.arange(ROWS) < 2
    actual = objectives.classification(images(valid=valid))["identity"]
    expected = cross_entropy(random_logits()["identity"][:2], [0, 4]).mean()
    assert float(actual) == pytest.approx(expected, rel=1e-5)


def test_a_masked_mean_of_no_values_is_zero():
    assert objectives.masked_mean(jnp.ones(3), jnp.zeros(3, bool)) == 0


def test_yaws_are_regressed_with_finite_gradients_of_unknown_yaws():
    labels = {"pose": np.array([0.5, np.nan, -1.0], np.float32)}
    predicted = jnp.array([[0.0], [9.0], [1.0]])

    def loss(predicted):
        return objectives.classification(images({"pose": predicted}, labels))["pose"]

    assert float(loss(predicted)) == pytest.approx((0.125 + 2.0) / 2)
    gradient = jax.grad(loss)(predicted)[:, 0]
    np.testing.assert_allclose(gradient, [-0.25, 0, 1], rtol=1e-6)


def test_additive_margin_softmax():
    rng = np.random.default_rng(0)
    cosines = jnp.asarray(rng.uniform(-1, 1, (4, 5)), jnp.float32)
    label = np.array([1, 0, 4, 2])
    fakes = images({"identity": cosines}, {"identity": label}, by_row)
    options = {"margin": 0.35, "scale": 30.0}
    values, _ = objectives.classification(fakes, am_softmax=options)["identity"]
    moved = np.array(cosines, np.float64)
    moved[np.arange(4), label] -= 0.35
    np.testing.assert_allclose(values, cross_entropy(30 * moved, label), rtol=1e-4)


# --- the CVPR form ------------------------------------------------------------------


def test_fakes_are_an_additional_class():
    """Softmax over N_d + 1 classes; the last is the class of fakes."""
    logits = random_logits()
    joined = np.concatenate([logits["identity"], logits["real"]], 1)
    fakes = images(mean=by_row)
    values, mask = objectives.classification(fakes, fake_class=True)["identity"]
    expected = cross_entropy(joined, LABELS["identity"])
    np.testing.assert_allclose(values[mask], expected[mask], rtol=1e-5)


def test_unknown_identities_have_the_loss_of_not_being_fake():
    logits = random_logits()
    joined = np.concatenate([logits["identity"], logits["real"]], 1)
    label = np.array([0, -1, 4, 2, -1, 1])
    fakes = images(labels=LABELS | {"identity": label}, mean=by_row)
    values, mask = objectives.cvpr().generator_loss(fakes, fakes, None)["gan"]
    share = np.exp(joined[:, 5]) / np.exp(joined).sum(1)
    expected = np.where(label < 0, -np.log(1 - share), 0)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    assert (values[label < 0] > 0).all() and mask.all()
    # The same for real images, plus cross-entropy of fakes with their class.
    gan = objectives.cvpr().discriminator_loss(
        fakes._replace(mean=objectives.masked_mean),
        fakes._replace(mean=objectives.masked_mean),
    )["gan"]
    of_fakes = cross_entropy(joined, np.full(ROWS, 5)).mean()
    assert float(gan) == pytest.approx(expected.mean() + of_fakes, rel=1e-4)


# --- whole objectives ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_the_tpami_form_has_one_loss_per_head(kind):
    objective = objectives.tpami(adversarial=kind, real_target=0.9)
    score = random_logits()["real"][:, 0]
    loss = ADVERSARIAL[kind]
    losses = objective.discriminator_loss(images(), images())
    on_both = loss.real(score, target=0.9).mean() + loss.fake(score).mean()
    assert float(losses["gan"]) == pytest.approx(float(on_both), rel=1e-5)
    of_generator = objective.generator_loss(images(), images(), None)
    expected = loss.generator(score).mean()
    assert float(of_generator["gan"]) == pytest.approx(float(expected), rel=1e-5)
    classified = objectives.classification(images())
    for actual in (losses, of_generator):
        assert actual.keys() == {"gan", *LABELS}
        for name, value in classified.items():
            assert actual[name] == value


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (objectives.tpami(), 2 * np.log(2) + np.log(5) + np.log(3)),
        (objectives.cvpr(), 2 * np.log(6) + np.log(3)),
    ],
    ids=["tpami", "cvpr"],
)
def test_losses_start_at_chance(objective, expected):
    labels = {"identity": np.zeros(ROWS, int), "pose": LABELS["pose"]}
    zero = images(jax.tree.map(jnp.zeros_like, random_logits()), labels)
    losses = objective.discriminator_loss(zero, zero)
    assert float(sum(losses.values())) == pytest.approx(expected)


def test_a_weighted_sum_and_its_metrics():
    objective = objectives.tpami(weights={"gan": 2.0, "pose": 0.0})
    losses = {"gan": jnp.float32(1.5), "pose": jnp.float32(7), "custom": jnp.float32(1)}
    total, metrics = objective.weighted(losses, "generator")
    assert total == metrics["generator/loss"] == 4
    assert (
        metrics["generator/gan_loss"] == 1.5 and metrics["generator/custom_loss"] == 1
    )


def test_accuracies_of_identity_and_pose():
    logits = random_logits()
    actual = scores.accuracies(images())
    for name in ("identity", "pose"):
        label = LABELS[name]
        right = np.asarray(logits[name]).argmax(1) == label
        assert float(actual[name][0]) == pytest.approx(right[label >= 0].mean())
        assert actual[name][1]
    none = scores.accuracies(images(valid=jnp.zeros(ROWS, bool)))
    assert none["pose"] == (0, False)


def test_a_yaw_is_correct_within_a_tolerance():
    yaw = np.deg2rad([0.0, 10.0, np.nan])
    near = {"identity": jnp.ones((3, 2))}
    near["pose"] = jnp.deg2rad(jnp.array([[7.0], [2.0], [0.0]]))
    fakes = images(near, {"identity": np.zeros(3, int), "pose": yaw})
    assert scores.accuracies(fakes)["pose"][0] == 0.5


def test_images_that_are_classified_as_real():
    logits = random_logits()
    real = np.asarray(logits["real"])[:, 0]
    np.testing.assert_array_equal(objectives.tpami().is_real(logits), real > 0)
    highest = np.asarray(logits["identity"]).max(1)
    np.testing.assert_array_equal(objectives.cvpr().is_real(logits), highest > real)


def test_discriminator_accuracy_is_the_mean_over_known_labels():
    objective, unknown = objectives.tpami(), np.full(ROWS, -1)
    real = np.asarray(random_logits()["real"])[:, 0] > 0
    metrics, accuracy = scores.discriminator_accuracy(objective, images(), images())
    halves = [real.mean(), 1 - real.mean()]
    shares = [metrics[f"discriminator/{n}_accuracy"] for n in ("identity", "pose")]
    actual = metrics["discriminator/real_accuracy"]
    assert float(actual) == pytest.approx(np.mean(halves))
    assert float(accuracy) == pytest.approx(np.mean([*shares, *halves]), rel=1e-5)
    nothing = images(labels={"identity": unknown, "pose": unknown})
    _, accuracy = scores.discriminator_accuracy(objective, nothing, images())
    assert float(accuracy) == pytest.approx(np.mean(halves))


def test_the_r1_penalty_applies_to_every_nth_update():
    objective = objectives.with_r1(objectives.tpami(), 2.0, every=4)
    pixels = jnp.full((2, 1, 1, 1), 3.0)

    def score(images):
        return jnp.sum(images**2, axis=(1, 2, 3))

    actual = [float(objective.penalty(score, pixels, jnp.int32(n))) for n in range(5)]
    np.testing.assert_allclose(actual, [0.5 * 2 * 4 * 36, 0, 0, 0, 144], rtol=1e-6)


# --- options ------------------------------------------------------------------------


def test_options_and_names_describe_objectives():
    custom = Objective(None, lambda real, fake, recognise: {})
    assert from_options(custom, paired=True) is custom
    assert not from_options("tpami", paired=True).paired
    whole = from_options(
        {
            "name": "cvpr",
            "weights": {"gan": 0.5, "paired": 2.0, "identity_preserving": 3.0},
            "r1": {"weight": 1.0, "every": 2},
            "diff_augmentation": ("cutout",),
            "interpolate": True,
            "fused_sum": True,
            "discriminate_fused": False,
            "statistics_in_generator_step": True,
        },
        paired=True,
    )
    assert whole.paired and whole.recogniser == "embedding" and whole.penalty
    assert whole.weights["gan"] == 0.5 and whole.weights["identity"] == 1
    assert whole.weights["paired"] == 2 and whole.weights["identity_preserving"] == 3
    assert whole.diff_augmentation == ("cutout",) and whole.interpolate
    assert whole.fused_sum and whole.statistics_in_generator_step
    assert not whole.discriminate_fused
    without = {"identity": 0.0, "gan": 0.0, "pose": 0.0, "perceptual": 1.0}
    without = from_options({"weights": without}, paired=True)
    assert without.discriminator_loss is None and without.recogniser == "maps"
    assert without.paired


NONE = dict.fromkeys(WEIGHTS, 0.0)
ALONE = {"weights": NONE | {"paired": 1.0}}


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("did you mean 'tpami'", "tpam"),
        ("no loss is active", {"weights": NONE}),
        ("no loss is active", {"weights": NONE | {"illumination": 1.0}}),
        ("unknown weight 'pairs'", {"weights": {"pairs": 1.0}}),
        ("weight 'pose' is -1", {"weights": {"pose": -1.0}}),
        ("interpolate needs a trained discriminator", ALONE | {"interpolate": True}),
        ("r1 needs a trained discriminator", ALONE | {"r1": {"weight": 1.0}}),
        (
            "diff_augmentation needs a trained",
            ALONE | {"diff_augmentation": ("colour",)},
        ),
        (
            "unknown option 'am_softmax' of objective cvpr",
            {"name": "cvpr", "am_softmax": {}},
        ),
        ("'real_target' of objective cvpr", {"name": "cvpr", "real_target": 0.9}),
        ("'adversarial' of objective cvpr", {"name": "cvpr", "adversarial": "hinge"}),
        ("R1 interval is 0; use 1", {"r1": {"weight": 1.0, "every": 0}}),
        ("R1 weight is -1", {"r1": {"weight": -1.0}}),
        ("option 'evry' of r1; did you mean 'every'", {"r1": {"evry": 3}}),
        ("real_target is 7", {"real_target": 7}),
        ("real_target is 0", {"real_target": 0.0}),
        ("did you mean 'hinge'", {"adversarial": "hing"}),
        ("did you mean 'colour'", {"diff_augmentation": ("color",)}),
        ("unknown option 'fused' of objective tpami", {"fused": True}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        from_options(options, paired=True)


# --- custom objectives --------------------------------------------------------------


def least_squares() -> Objective:
    """Returns the objective of LSGAN (Mao et al., ICCV 2017)."""

    def discriminator_loss(real, fake):
        on_real = jnp.square(real.logits["real"][:, 0] - 1)
        on_fake = jnp.square(fake.logits["real"][:, 0])
        return {"least_squares": jnp.mean(on_real) + fake.mean(on_fake, fake.valid)}

    def generator_loss(real, fake, recognise):
        return {"least_squares": jnp.mean(jnp.square(fake.logits["real"][:, 0] - 1))}

    return Objective(discriminator_loss, generator_loss)


def test_a_custom_objective_trains():
    system = small.make(
        objective=least_squares(),
        optimizer={"learning_rate": 2e-3, "discriminator": {"learning_rate": 2e-3}},
    )
    start = stepped(2)[0][0]  # of the same networks
    step, state, losses = jit(system.train_step), start, {}
    for number in range(12):
        state, metrics = step(state, batch(), jax.random.key(number))
        for name, value in metrics.items():
            if isinstance(value, Mean) and value.count:
                losses.setdefault(name, []).append(float(value.total))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    of_discriminator = losses["discriminator/least_squares_loss"]
    assert len(of_discriminator) == 6
    assert of_discriminator[0] == pytest.approx(1, rel=0.05)  # both logits near 0
    assert of_discriminator[-1] < 0.9 * of_discriminator[0]
    assert losses["generator/loss"] == losses["generator/least_squares_loss"]
    for part in ("generator", "discriminator"):
        before, after = (getattr(s, part).params for s in (start, state))
        assert max(largest_change(before, after)) > 1e-3


def test_a_custom_adversarial_loss_is_used():
    custom = AdversarialLoss(
        lambda logits, *, target: jnp.square(logits - target),
        lambda logits: jnp.square(logits),
        lambda logits: jnp.square(logits - 1),
    )
    objective = objectives.tpami(adversarial=custom)
    score = np.asarray(random_logits()["real"])[:, 0]
    losses = objective.discriminator_loss(images(), images())
    expected = np.square(score - 1).mean() + np.square(score).mean()
    assert float(losses["gan"]) == pytest.approx(expected, rel=1e-5)


def test_custom_losses_can_be_added_to_an_objective():
    """A custom wrapper: total variation of synthesised images."""

    def with_total_variation(objective, weight):
        def generator_loss(real, fake, recognise):
            variation = jnp.mean(jnp.abs(jnp.diff(fake.image, axis=1)))
            custom = {"variation": variation}
            return objective.generator_loss(real, fake, recognise) | custom

        weights = {**objective.weights, "variation": weight}
        return objective._replace(generator_loss=generator_loss, weights=weights)

    objective = with_total_variation(
        objectives.with_reconstruction(objectives.generator_only(), 1.0), 0.5
    )
    system = small.make(targets=TARGETS._replace(paired=True), objective=objective)
    shape = functools.partial(jax.eval_shape, system.train_step, stepped(2)[0][0])
    _, metrics = shape(small.paired(), jax.random.key(0))
    assert {"generator/variation_loss", "generator/paired_loss"} <= metrics.keys()
