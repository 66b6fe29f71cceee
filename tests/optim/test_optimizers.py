"""Schedules, masks, SGD and Adam, against the arithmetic of PyTorch and the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fr_jax import models
from fr_jax.errors import UserError
from fr_jax.optim import optimizers
from fr_jax.system import NetState

SCHEDULE = {"num_steps": 110, "steps_per_epoch": 10}


def test_milestones_divide_the_rate_at_the_start_of_their_epoch():
    rate = optimizers.rate_schedule(
        "step", 0.1, milestones=(28, 38, 46), num_steps=500, steps_per_epoch=10
    )
    traced = {epoch: float(rate(10 * epoch)) for epoch in (0, 27, 28, 37, 38, 46, 49)}
    expected = {0: 0.1, 27: 0.1, 28: 0.01, 37: 0.01, 38: 1e-3, 46: 1e-4, 49: 1e-4}
    assert traced == pytest.approx(expected, rel=1e-5)
    assert float(rate(279)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "middle", "end"),
    [("cosine", 0.05, 0.0), ("linear", 0.05, 0.0), ("constant", 0.1, 0.1)],
)
def test_schedules_begin_with_a_warmup_and_end_with_the_run(kind, middle, end):
    rate = optimizers.rate_schedule(kind, 0.1, warmup_epochs=1, **SCHEDULE)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(0.05)
    assert float(rate(10)) == pytest.approx(0.1)
    assert float(rate(60)) == pytest.approx(middle)
    assert float(rate(110)) == pytest.approx(end, abs=1e-8)


def test_warmup_can_be_a_share_of_the_run():
    share = optimizers.rate_schedule("cosine", 0.1, warmup_share=0.1, num_steps=110)
    epochs = optimizers.rate_schedule("cosine", 0.1, warmup_epochs=1.1, **SCHEDULE)
    assert [float(share(n)) for n in range(0, 110, 5)] == [
        float(epochs(n)) for n in range(0, 110, 5)
    ]
    short = optimizers.rate_schedule("cosine", 0.1, warmup_share=0.1, num_steps=3)
    assert float(short(0)) == pytest.approx(0.1)


def test_milestones_count_from_the_start_of_the_warmup():
    rate = optimizers.rate_schedule(
        "step", 0.1, milestones=(3,), warmup_epochs=1, **SCHEDULE
    )
    actual = [float(rate(n)) for n in (5, 10, 29, 30)]
    assert actual == pytest.approx([0.05, 0.1, 0.1, 0.01])


def test_accumulated_steps_are_one_update_of_the_schedule():
    rate = optimizers.rate_schedule(
        "step", 0.1, milestones=(3,), accumulate=2, **SCHEDULE
    )
    assert [float(rate(n)) for n in (14, 15)] == pytest.approx([0.1, 0.01])
    of_steps = optimizers.sgd(
        schedule="step", milestones=(3,), accumulate=2, **SCHEDULE
    ).rate
    assert [float(of_steps(n)) for n in (29, 30)] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize(
    ("match", "kind", "options"),
    [
        ("schedule 'cosin'; did you mean 'cosine'", "cosin", SCHEDULE),
        ("unknown schedule 'polynomial'", "polynomial", SCHEDULE),
        ("'cosine' ends with the run: give num_steps", "cosine", {}),
        ("'linear' ends with the run: give num_steps", "linear", {}),
        (
            "'step' counts in epochs: give steps_per_epoch",
            "step",
            {"milestones": (1,), "num_steps": 9},
        ),
        ("'constant' counts in epochs", "constant", {"warmup_epochs": 1}),
        ("milestones: 'a' is not a number", "step", {"milestones": ("a",), **SCHEDULE}),
        (
            "give warmup_epochs or warmup_share, not both",
            "constant",
            {"warmup_epochs": 1, "warmup_share": 0.1, **SCHEDULE},
        ),
        ("'constant' ends with the run", "constant", {"warmup_share": 0.1}),
        ("warmup_share is 5; use 0 to 1", "constant", {"warmup_share": 5, **SCHEDULE}),
        ("milestones is -1; use 0", "step", {"milestones": (-1,), **SCHEDULE}),
    ],
)
def test_invalid_schedules_are_refused(match, kind, options):
    with pytest.raises(UserError, match=match):
        optimizers.rate_schedule(kind, 0.1, **options)


def test_a_schedule_needs_no_more_than_it_counts_in():
    assert float(optimizers.rate_schedule("constant", 0.1)(99)) == pytest.approx(0.1)
    assert float(optimizers.rate_schedule("step", 0.1)(99)) == pytest.approx(0.1)
    assert optimizers.rate_schedule("cosine", 0.1, num_steps=9)(9) == 0


# --- options ------------------------------------------------------------------------


def from_options(options, **defaults):
    return optimizers.from_options(options, defaults=defaults, **SCHEDULE)


def moved(optimizer, gradient=2.0):
    """Returns how far the first update moves a weight of 0."""
    net = NetState.create({"w": jnp.zeros(1)}, {}, optimizer)
    gradients = {"w": jnp.full(1, gradient)}
    after = optimizers.apply_gradients(net, gradients, {}, optimizer)
    return float(after.params["w"][0])


def test_options_override_the_defaults():
    defaults = {"learning_rate": 0.5, "weight_decay": 0.0}
    assert moved(from_options({}, **defaults)) == pytest.approx(-1)
    assert moved(from_options(None, **defaults)) == pytest.approx(-1)
    slower = {"learning_rate": 0.25}
    assert moved(from_options(slower, **defaults)) == pytest.approx(-0.5)
    adam = from_options({"name": "adam", "learning_rate": 0.25})
    assert moved(adam) == pytest.approx(-0.25, rel=1e-3)
    own = optimizers.adam()
    assert from_options(own) is own


def test_frequent_options_are_merged_over_the_others():
    options = {"learning_rate": 0.5, "weight_decay": 0.0, "schedule": "cosine"}
    run = {"defaults": {}, **SCHEDULE}
    half = optimizers.from_options(options, **run, learning_rate=0.25, schedule=None)
    assert moved(half) == pytest.approx(-0.5)
    assert float(half.rate(55)) == pytest.approx(0.125)
    with pytest.raises(UserError, match="learning_rate is set in the Optimizer given"):
        optimizers.from_options(optimizers.adam(), **run, learning_rate=0.1)


def test_the_optimizer_has_the_rate_of_its_schedule():
    optimizer = from_options({"schedule": "cosine", "learning_rate": 0.5})
    assert float(optimizer.rate(0)) == 0.5
    assert float(optimizer.rate(55)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("optimizer 'adm'; did you mean 'adam'", {"name": "adm"}),
        ("option 'momentun' of optimizer sgd; did you", {"momentun": 0.9}),
        ("option 'betas' of optimizer sgd", {"betas": (0.5, 0.9)}),
        ("option 'momentum' of optimizer adam", {"name": "adam", "momentum": 0.9}),
        ("clip_norm is -1.0; use 0 or more", {"clip_norm": -1.0}),
        ("accumulate is 0; use 1 or more", {"accumulate": 0}),
        ("did you mean 'linear'", {"schedule": "linea"}),
        ("learning_rate is -0.1; use 0 or more", {"learning_rate": -0.1}),
        ("learning_rate is nan; use 0 or more", {"learning_rate": float("nan")}),
        ("learning_rate: '0.1' is not a number", {"learning_rate": "0.1"}),
        ("momentum is 2; use 0 to 1", {"momentum": 2}),
        ("weight_decay is -1; use 0 or more", {"weight_decay": -1}),
        ("warmup_epochs is -1; use 0 or more", {"warmup_epochs": -1}),
        ("betas is 1.5; use 0 to 1", {"name": "adam", "betas": (0.5, 1.5)}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        from_options(options)


def test_a_schedule_without_its_length_is_refused():
    unknown = {"defaults": {}, "num_steps": None, "steps_per_epoch": None}
    with pytest.raises(UserError, match="give num_steps, or schedule='constant'"):
        optimizers.from_options({"schedule": "cosine"}, **unknown)
    optimizers.from_options({"schedule": "constant"}, **unknown)


# --- updates ------------------------------------------------------------------------


def test_apply_gradients_is_one_step_of_the_optimizer():
    optimizer = optimizers.sgd(learning_rate=0.1, weight_decay=0.0)
    net = NetState.create({"w": jnp.array([1.0])}, {"mean": jnp.zeros(1)}, optimizer)
    gradients, statistics = {"w": jnp.array([2.0])}, {"mean": jnp.ones(1)}
    once = optimizers.apply_gradients(net, gradients, statistics, optimizer)
    np.testing.assert_allclose(once.params["w"], [1 - 0.1 * 2], rtol=1e-6)
    assert once.batch_stats is statistics and once.updates == 1
    twice = optimizers.apply_gradients(once, gradients, statistics, optimizer, 0.5)
    # Half of the rate, with momentum.
    np.testing.assert_allclose(twice.params["w"], [0.8 - 0.05 * 3.8], rtol=1e-6)
    assert twice.updates == 2
    assert jax.tree.structure(twice) == jax.tree.structure(net)


def test_ir_se50_splits_into_the_published_decay_groups():
    model = models.create("ir_se50")
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 112, 112, 3))
    )
    mask = optimizers.decay_mask(variables["params"])
    pairs = list(zip(jax.tree.leaves(mask), jax.tree.leaves(variables["params"])))
    kept = [leaf.size for decays, leaf in pairs if not decays]
    decayed = [leaf.size for decays, leaf in pairs if decays]
    assert (len(kept), sum(kept)) == (108, 26_368)
    assert (len(decayed), sum(decayed)) == (127, 43_771_328)


def test_sgd_matches_pytorch():
    params = {"conv": {"kernel": jnp.array([1.0, -2.0])}, "bn": {"scale": jnp.ones(1)}}
    optimizer = optimizers.sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    state = optimizer.init(params)
    weight, velocity = np.array([1.0, -2.0]), 0.0
    scale, scale_velocity = 1.0, 0.0
    for step in range(3):
        gradient = jnp.array([0.5 + step, 1.0])
        gradients = {"conv": {"kernel": gradient}, "bn": {"scale": jnp.array([2.0])}}
        updates, state = optimizer.transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        velocity = 0.9 * velocity + (np.asarray(gradient) + 0.01 * weight)
        weight = weight - 0.1 * velocity
        scale_velocity = 0.9 * scale_velocity + 2.0  # normalisations do not decay
        scale = scale - 0.1 * scale_velocity
    np.testing.assert_allclose(params["conv"]["kernel"], weight, rtol=1e-6)
    np.testing.assert_allclose(params["bn"]["scale"], scale, rtol=1e-6)


def test_accumulated_gradients_are_one_averaged_update():
    params = {"w": jnp.array([1.0])}
    options = {"learning_rate": 0.1, "weight_decay": 0.0}
    one, many = optimizers.sgd(**options), optimizers.sgd(**options, accumulate=4)
    state = many.init(params)
    current = params
    for value in (1.0, 2.0, 3.0, 6.0):
        gradients = {"w": jnp.array([value])}
        updates, state = many.transform.update(gradients, state, current)
        current = optax.apply_updates(current, updates)
    average = {"w": jnp.array([3.0])}
    updates, _ = one.transform.update(average, one.init(params), params)
    expected = optax.apply_updates(params, updates)
    np.testing.assert_allclose(current["w"], expected["w"], rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    params = {"w": jnp.array([3.0, 4.0])}
    options = {"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1.0}
    optimizer = optimizers.sgd(learning_rate=1.0, **options)
    updates, _ = optimizer.transform.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)


def test_adam_matches_the_paper():
    optimizer = optimizers.adam(learning_rate=0.1, betas=(0.5, 0.9))
    net = NetState.create({"w": jnp.array([1.0])}, {}, optimizer)
    weight, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate((0.5, -2.0, 1.0), 1):
        gradients = {"w": jnp.array([gradient])}
        net = optimizers.apply_gradients(net, gradients, {}, optimizer)
        first = 0.5 * first + 0.5 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        scaled = np.sqrt(second / (1 - 0.9**step)) + 1e-8
        weight -= 0.1 * first / (1 - 0.5**step) / scaled
    np.testing.assert_allclose(net.params["w"], [weight], rtol=1e-5)


def test_weight_decay_of_adam_is_added_to_the_gradient():
    """PyTorch's Adam, not AdamW; of every parameter if the mask says so."""
    params = {
        "dense": {"kernel": jnp.array([2.0])},
        "norm": {"scale": jnp.array([3.0])},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    options = {"learning_rate": 0.1, "weight_decay": 1e-4}
    for mask, scale in ((None, 3.0), (optimizers.all_parameters, 2.9)):
        optimizer = optimizers.adam(**options, mask=mask)
        net = NetState.create(params, {}, optimizer)
        new = optimizers.apply_gradients(net, zero, {}, optimizer).params
        # The first step of Adam is the rate, however small the gradient.
        np.testing.assert_allclose(new["dense"]["kernel"], [1.9], rtol=1e-4)
        np.testing.assert_allclose(new["norm"]["scale"], [scale], rtol=1e-4)


def plateaued(scores, **options):
    plateau, factors, stops = optimizers.Plateau(), [], []
    for score in scores:
        plateau, stop = optimizers.on_plateau(plateau, score, **options)
        factors.append(float(plateau.factor))
        stops.append(stop)
    return factors, stops


def test_the_rate_falls_after_eleven_scores_and_the_run_stops_after_twenty():
    """The settings of USynthFace: nine more epochs follow at the lower rate."""
    factors, stops = plateaued([0.5, 0.6] + 20 * [0.6])
    assert factors[:12] == [1.0] * 12
    np.testing.assert_allclose(factors[12:], 0.1)
    assert stops == [False] * 21 + [True]


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 3, "cooldown": 2, "threshold": 1e-4},
        {"patience": 0, "cooldown": 5, "threshold": 0.02},
    ],
    ids=["patient", "impatient"],
)
def test_the_plateau_matches_pytorch(options):
    torch = pytest.importorskip("torch")
    scores = 0.9 + 0.05 * np.cumsum(np.random.default_rng(0).normal(size=120)) / 10
    weight = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([weight], lr=1.0), mode="max", factor=0.5, eps=0, **options
    )
    rates = []
    for score in scores:
        reference.step(score)
        rates.append(reference.get_last_lr()[0])
    factors, _ = plateaued(scores, factor=0.5, stop_after=0, **options)
    np.testing.assert_allclose(factors, rates)
    assert 1e-20 < rates[-1] < 0.5


def test_negated_losses_lower_the_rate_like_pytorchs_mode_min():
    """A loss is lower if it is below the best by the share `threshold`."""
    losses = [1.0, 0.95, 0.8, 0.75, 0.73, 0.6, 0.59, 0.57, 0.56, 0.55]
    options = {"factor": 0.5, "patience": 1, "cooldown": 0, "stop_after": 3}
    factors, stops = plateaued([-x for x in losses], threshold=0.1, **options)
    # Better: 1.0, 0.8, 0.6; the second worse one in a row lowers the rate.
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert stops == [False] * 10  # every loss is the lowest so far
    _, stops = plateaued([-1.0, -2.0, -1.0, -1.5, -1.0], **options)
    assert stops == [False, False, False, True, True]


def test_the_rate_falls_no_further_than_the_minimum():
    options = {"factor": 0.5, "patience": 0, "cooldown": 0, "min_factor": 0.2}
    factors, _ = plateaued([0.5] * 5, **options)
    np.testing.assert_allclose(factors, [1, 0.5, 0.25, 0.2, 0.2])


def test_stop_after_zero_never_stops_the_run():
    assert plateaued([0.5] * 50, stop_after=0)[1] == [False] * 50


def test_all_parameters_decay_except_the_frozen_scale():
    params = {"bn1": {"scale": 1, "bias": 1}, "features": {"scale": 1, "bias": 1}}
    assert optimizers.all_but_frozen({"backbone": params, "head": {"kernel": 1}}) == {
        "backbone": {
            "bn1": {"scale": True, "bias": True},
            "features": {"scale": False, "bias": True},
        },
        "head": {"kernel": True},
    }
