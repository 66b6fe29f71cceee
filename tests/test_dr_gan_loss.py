"""DR-GAN's terms and the options of its game, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.augment.diff_augment import KINDS, diff_augment
from fr_jax.errors import UserError
from fr_jax.losses import adversarial as gan
from fr_jax.losses import dr_gan
from fr_jax.models import spectral
from fr_jax.optim import update_schedule as turns


@pytest.fixture
def rng():
    """Each test's own, so that none depends on which ran before it."""
    return np.random.default_rng(0)


def logits(rows=6, identities=5, poses=3):
    rng = np.random.default_rng(1)
    sizes = {"identity": identities, "real": 1, "pose": poses, "illumination": 4}
    return {
        name: jnp.asarray(rng.normal(0, 2, (rows, size)), jnp.float32)
        for name, size in sizes.items()
    }


LABELS = {
    "identity": np.array([0, 4, -1, 2, 1, -1]),
    "pose": np.array([2, -1, 0, 1, 1, 0]),
    "illumination": np.array([3, 0, 1, 2, -1, 3]),
}


def cross_entropy(columns, labels):
    columns = np.asarray(columns, np.float64)
    total = np.log(np.exp(columns).sum(1))
    return total - columns[np.arange(len(columns)), labels]


def test_recognition_is_cross_entropy_where_labels_are_known():
    found = dr_gan.recognition(logits(), jax.tree.map(jnp.asarray, LABELS))
    assert found.keys() == LABELS.keys()
    for name, label in LABELS.items():
        known = label >= 0
        np.testing.assert_array_equal(found[name].known, known)
        expected = cross_entropy(logits()[name], label)[known]
        np.testing.assert_allclose(found[name].values[known], expected, rtol=1e-5)
        mean = dr_gan.masked_mean(*found[name])
        assert float(mean) == pytest.approx(expected.mean(), rel=1e-5)
    assert dr_gan.masked_mean(jnp.ones(3), jnp.zeros(3, bool)) == 0


def test_the_first_form_has_one_identity_more():
    """Softmax over N_d + 1 classes, the last of them the fakes'."""
    many = logits()
    joined = np.concatenate([many["identity"], many["real"]], 1)
    labels = {"identity": jnp.asarray(LABELS["identity"])}
    found = dr_gan.recognition(many, labels, form="cvpr")["identity"]
    expected = cross_entropy(joined, LABELS["identity"])
    np.testing.assert_allclose(
        found.values[found.known], expected[found.known], rtol=1e-5
    )
    fake = dr_gan.judged_fake(many, form="cvpr")
    np.testing.assert_allclose(
        fake, cross_entropy(joined, np.full(6, 5)), rtol=1e-5, atol=1e-6
    )
    nobody = np.array([0, -1, 4, 2, -1, 1])
    fooled = np.asarray(dr_gan.fooled(many, jnp.asarray(nobody), form="cvpr"))
    fake = np.exp(joined[:, 5]) / np.exp(joined).sum(1)
    expected = np.where(nobody < 0, -np.log(1 - fake), 0)
    np.testing.assert_allclose(fooled, expected, rtol=1e-4, atol=1e-6)
    assert (fooled[[1, 4]] > 0).all()
    real = dr_gan.judged_real(many, jnp.asarray(nobody), form="cvpr")
    np.testing.assert_array_equal(real, fooled)


def test_how_often_the_discriminator_is_right():
    many = logits()
    labels = jax.tree.map(jnp.asarray, LABELS)
    found = dr_gan.accuracies(many, labels)
    for name in ("identity", "pose"):
        label = LABELS[name]
        right = np.asarray(many[name]).argmax(1) == label
        assert float(found[name][0]) == pytest.approx(right[label >= 0].mean())
        assert found[name][1]
    none = dr_gan.accuracies(many, labels, jnp.zeros(6, bool))
    assert none["pose"] == (0, False)
    known = {"identity": jnp.zeros(3, jnp.int32)}
    known["pose"] = jnp.deg2rad(jnp.array([0.0, 10.0, np.nan]))
    near = {"identity": jnp.ones((3, 2))}
    near["pose"] = jnp.deg2rad(jnp.array([[7.0], [2.0], [0.0]]))
    assert dr_gan.accuracies(near, known)["pose"][0] == 0.5
    real = np.asarray(many["real"])[:, 0]
    np.testing.assert_array_equal(dr_gan.taken_for_real(many), real > 0)
    highest = np.asarray(many["identity"]).max(1)
    found = dr_gan.taken_for_real(many, form="cvpr")
    np.testing.assert_array_equal(found, highest > real)


def test_at_the_start_losses_are_those_of_chance():
    zero = jax.tree.map(jnp.zeros_like, logits())
    labels = jax.tree.map(jnp.asarray, LABELS)

    def total(form):
        terms = dr_gan.recognition(zero, labels, form=form)
        parts = [dr_gan.masked_mean(*terms[name]) for name in ("identity", "pose")]
        everybody = jnp.zeros(6, jnp.int32)
        parts += [dr_gan.judged_real(zero, everybody, form=form).mean()]
        return float(sum(parts) + dr_gan.judged_fake(zero, form=form).mean())

    assert total("tpami") == pytest.approx(2 * np.log(2) + np.log(5) + np.log(3))
    assert total("cvpr") == pytest.approx(2 * np.log(6) + np.log(3))


def test_a_yaw_is_regressed_and_its_gradient_is_finite_where_unknown():
    yaw = jnp.array([0.5, np.nan, -1.0])
    predicted = jnp.array([[0.0], [9.0], [1.0]])

    def loss(predicted):
        terms = dr_gan.recognition({"pose": predicted}, {"pose": yaw})
        return dr_gan.masked_mean(*terms["pose"])

    assert float(loss(predicted)) == pytest.approx((0.125 + 2.0) / 2)
    gradient = jax.grad(loss)(predicted)[:, 0]
    np.testing.assert_allclose(gradient, [-0.25, 0, 1], rtol=1e-6)


def test_additive_margin_softmax(rng):
    cosines = jnp.asarray(rng.uniform(-1, 1, (4, 5)), jnp.float32)
    label = np.array([1, 0, 4, 2])
    found = dr_gan.recognition(
        {"identity": cosines},
        {"identity": jnp.asarray(label)},
        am_softmax={"margin": 0.35, "scale": 30.0},
    )["identity"].values
    moved = np.array(cosines, np.float64)
    moved[np.arange(4), label] -= 0.35
    np.testing.assert_allclose(found, cross_entropy(30 * moved, label), rtol=1e-4)


@pytest.mark.parametrize("kind", gan.GAN_LOSSES)
def test_real_and_fake(kind):
    x = np.array([-3.0, -0.5, 0.2, 40.0])
    real, fake, fooled = (f(jnp.asarray(x)) for f in gan.GAN_LOSSES[kind])
    if kind == "hinge":
        expected = np.maximum(1 - x, 0), np.maximum(1 + x, 0), -x
    else:
        minus_log = np.logaddexp(0, -x)
        expected = minus_log, np.logaddexp(0, x), minus_log
    for found, wanted in zip((real, fake, fooled), expected):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    smooth = gan.real_cross_entropy(jnp.asarray(x), target=0.9)
    likelihood = -0.9 * np.logaddexp(0, -x) - 0.1 * np.logaddexp(0, x)
    np.testing.assert_allclose(smooth, -likelihood, rtol=1e-5, atol=1e-6)
    for loss in gan.GAN_LOSSES[kind]:
        slope = jax.grad(lambda x, loss=loss: loss(x).sum())(jnp.array([-1e4, 1e4]))
        assert np.isfinite(slope).all()


def test_r1_is_the_squared_slope_of_the_score(rng):
    weights = jnp.asarray(rng.normal(size=(4, 4, 3)))
    images = jnp.asarray(rng.normal(size=(2, 4, 4, 3)))

    def score(images):
        return 0.5 * jnp.sum(weights[None] * images**2, axis=(1, 2, 3))

    expected = (np.asarray(weights)[None] * np.asarray(images)) ** 2
    np.testing.assert_allclose(
        gan.r1(score, images), expected.sum((1, 2, 3)), rtol=1e-5
    )


def test_interpolation_identity_and_pairs(rng):
    features = jnp.arange(6.0).reshape(3, 2)
    found = dr_gan.interpolated(features)
    np.testing.assert_allclose(found, [[1, 2], [3, 4], [2, 3]])
    a, b = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[6.0, 8.0], [0.0, 2.0]])
    np.testing.assert_allclose(dr_gan.identity_preserving(a, b), [0, 1], atol=1e-6)
    x = jnp.asarray(rng.uniform(-1, 1, (2, 3, 3, 1)))
    np.testing.assert_allclose(
        dr_gan.paired(x, -x), np.abs(2 * np.asarray(x)).mean((1, 2, 3)), rtol=1e-6
    )


def test_perceptual_loss_is_one_where_all_look_alike(rng):
    truth = [jnp.asarray(rng.normal(size=(5, 4, 4, 3)) * scale) for scale in (1, 50)]
    np.testing.assert_allclose(dr_gan.perceptual(truth, truth), np.zeros(5))
    nobody = [jnp.broadcast_to(t.mean((0, 1, 2)), t.shape) for t in truth]
    found = dr_gan.perceptual(nobody, truth)
    assert found.mean() == pytest.approx(1, abs=1e-5) and found.std() > 0


def test_spectral_norm_leaves_a_greatest_stretch_of_one(rng):
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32)
    params = {"conv": {"kernel": kernel}, "bn": {"scale": jnp.full(8, 7.0)}}
    known = spectral.vectors(jax.random.key(0), params)
    assert list(known) == ["conv/kernel"]
    for _ in range(60):
        normal, known = spectral.normalise(params, known)
    stretch = np.linalg.norm(np.asarray(normal["conv"]["kernel"]).reshape(-1, 8), 2)
    assert stretch == pytest.approx(1, rel=1e-3)
    np.testing.assert_array_equal(normal["bn"]["scale"], params["bn"]["scale"])

    def length(kernel):
        normal, _ = spectral.normalise({"conv": {"kernel": kernel}}, known)
        return jnp.sum(jnp.square(normal["conv"]["kernel"]))

    # Of any length, the kernel gives the same: no gradient along itself.
    assert abs(float(jnp.sum(jax.grad(length)(kernel) * kernel))) < 1e-3


def test_diff_augment_changes_what_is_seen_and_passes_gradients(rng):
    images = jnp.asarray(rng.uniform(-1, 1, (3, 16, 16, 3)), jnp.float32)
    key = jax.random.key(0)
    for name in KINDS:
        found = diff_augment(key, images, [name])
        assert found.shape == images.shape
        assert np.abs(found - images).max(axis=(1, 2, 3)).min() > 0.05, name
        np.testing.assert_array_equal(found, diff_augment(key, images, [name]))
        slope = jax.grad(lambda x, name=name: diff_augment(key, x, [name]).sum())
        assert np.abs(slope(images)).sum() > 0
    kept = np.asarray(diff_augment(key, images + 9, ["cutout"]))
    assert 0.25 * 0.2 < (kept == 0).mean() < 0.26
    shifted = np.asarray(diff_augment(key, jnp.ones_like(images), ["translation"]))
    assert shifted.mean((1, 2, 3)).min() > 0.75
    with pytest.raises(UserError, match="did you mean 'colour'"):
        diff_augment(key, images, ["color"])


def turns_of(take, steps, accuracy=0.0):
    turn, out = turns.Turn(), ""
    for step in range(steps):
        if isinstance(accuracy, float):
            mine, turn = take(turn, step, accuracy)
        else:
            mine, turn = take(turn, step, accuracy[step])
        out += "D" if mine else "g"
    return out


def test_turns():
    fixed = turns.schedule("fixed", ratio=(2, 3))
    assert turns_of(fixed, 12) == "DDgggDDgggDD"
    gated = turns.schedule("accuracy_gated", threshold=0.9)
    # What holds at the start of a cycle holds to its end.
    accuracy = [0.0] * 3 + [0.95] * 4 + [0.5] * 20
    assert turns_of(gated, 13, accuracy) == "DgDgDggggDgDg"
    staged = turns.schedule("staged", stages=[(4, (1, 3))])
    assert turns_of(staged, 12) == "DgDgDgggDggg"


def test_turns_that_there_are_not():
    with pytest.raises(UserError, match="did you mean 'staged'"):
        turns.schedule("stagd")
    with pytest.raises(UserError, match=r"ratio \(1, 0\).*at least 1 of each"):
        turns.schedule("fixed", ratio=(1, 0))
    with pytest.raises(UserError, match="ascending"):
        turns.schedule("staged", stages=[(5, (1, 1)), (2, (1, 2))])
    with pytest.raises(UserError, match="at least one"):
        turns.schedule("staged")


def test_squared_differences_to_true_images(rng):
    x = jnp.asarray(rng.uniform(-1, 1, (2, 3, 3, 1)))
    expected = np.square(2 * np.asarray(x)).mean((1, 2, 3))
    np.testing.assert_allclose(dr_gan.paired(x, -x, "l2"), expected, rtol=1e-6)
