"""Drawn faces: pictures, points, gradients, and the same pixels everywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import faces_judged
from data_pipelines.vision import align, detect
from fr_jax import faces
from fr_jax.backend import cpu
from fr_jax.faces.renderer import camera, imaging, light, paint

pytestmark = pytest.mark.xdist_group("faces")
SIZE = 64
ROWS = 6  # of every batch here: one program a frame is compiled


def plain(n, **fields):
    """Codes of n people as an identity photograph shows them."""
    identity = faces.sample_identities(jax.random.key(3), n)
    neutral = {"contrast": 1.0, "saturation": 1.0, "resolution": 1.0}
    neutral |= {"back_light": 0.5, "cloth_light": 0.4, "grain": 0.3}
    shot = jnp.array([neutral.get(name, 0.0) for name in faces.IMAGING])
    room = faces.ambient(jnp.full(3, 0.5)) + faces.lamp(
        jnp.array([0.4, 0.5, 1.0]), jnp.full(3, 0.6)
    )
    codes = faces.Codes(
        identity=identity,
        expression=jnp.zeros((n, faces.EXPRESSION_SIZE)),
        pose=jnp.zeros((n, 3)),
        camera=jnp.tile(jnp.array([12.0, 0.0, 0.0]), (n, 1)),
        light=jnp.tile(room, (n, 1, 1)),
        age=jnp.full(n, 30.0),
        style=jnp.zeros((n, faces.STYLE_SIZE)),
        imaging=jnp.tile(shot, (n, 1)),
    )
    return codes._replace(**fields)


def draw(codes, frame="aligned"):
    rows = len(codes.age)
    full = jax.tree.map(lambda a: jnp.resize(a, (ROWS, *a.shape[1:])), codes)
    drawn = faces.render(full, SIZE, frame, "fast")
    return jax.tree.map(lambda a: a[:rows], drawn)


def copies(codes, n):
    """The first person n times."""
    return jax.tree.map(lambda a: jnp.repeat(a[:1], n, axis=0), codes)


def test_a_rendering_has_everything_in_its_range():
    drawn = draw(faces.sample_codes(jax.random.key(0), 4))
    assert drawn.image.shape == (4, SIZE, SIZE, 3)
    assert drawn.landmarks68.shape == (4, 68, 2)
    assert drawn.image.min() >= 0 and drawn.image.max() <= 1
    assert drawn.image.std() > 0.05
    assert drawn.mask.min() >= 0 and drawn.mask.max() == 1
    assert (drawn.alpha >= drawn.mask).all()
    inside = drawn.mask > 0.5
    assert 0.2 < inside.mean() < 0.95
    assert (jnp.abs(drawn.depth[inside]) < 2.5).all()
    assert (drawn.depth[~inside] == -10).all()


def test_frontal_faces_lie_in_the_template():
    away = np.asarray(draw(plain(6)).landmarks5) - camera.template(SIZE)
    assert np.abs(away.mean(axis=1)).max() < 1e-3 * SIZE  # least squares
    left, right = camera.template(SIZE)[:2]
    assert np.linalg.norm(away, axis=2).max() < 0.35 * np.linalg.norm(right - left)


def test_the_template_is_that_of_alignment():
    for size in (56, 64, 112, 128, 224, 256):
        np.testing.assert_allclose(camera.template(size), align.template(size), 1e-5)


def test_points_are_where_the_features_are_drawn():
    """Eyes are darker than the cheeks below them."""
    drawn = draw(plain(6))
    grey = np.asarray(drawn.image).mean(axis=-1)
    for picture, points in zip(grey, np.asarray(drawn.landmarks5)):
        for x, y in points[:2].round().astype(int):
            pupil = picture[y - 1 : y + 2, x - 1 : x + 2].min()
            cheek = picture[y + 8 : y + 12, x - 2 : x + 3].mean()
            assert pupil < 0.75 * cheek


def test_points_of_the_two_sets_agree():
    drawn = draw(plain(3))
    shared = np.asarray(drawn.landmarks68)[:, [30, 48, 54]]
    np.testing.assert_allclose(shared, drawn.landmarks5[:, 2:], atol=1e-3)
    eye = np.asarray(drawn.landmarks68)[:, 36:42]
    low, high = eye.min(axis=1), eye.max(axis=1)
    centre = np.asarray(drawn.landmarks5)[:, 0]
    assert ((low < centre) & (centre < high)).all()


def test_a_turned_head_hides_its_far_side():
    yaw = jnp.array([-90.0, -45.0, 0.0, 45.0, 90.0])
    pose = jnp.zeros((5, 3)).at[:, 0].set(yaw)
    drawn = draw(copies(plain(1), 5)._replace(pose=pose), "loose")
    nose = np.asarray(drawn.landmarks5)[:, 2, 0]
    assert (np.diff(nose) > 2).all(), "positive yaw turns the nose to the right"
    left, right = (np.asarray(drawn.landmarks68)[:, k, 0] for k in (36, 45))
    assert left[0] > right[0] - 8 and (right - left)[2] > 15
    # In profile the tip of the nose is seen against the background.
    tip = np.asarray(drawn.landmarks5)[4, 2].round().astype(int)
    beyond = np.asarray(drawn.mask)[4, tip[1], tip[0] + 4 :]
    assert beyond.max() < 0.5


def test_light_from_the_left_lights_the_left():
    left, right = (
        faces.lamp(jnp.array([side, 0.2, 0.6]), jnp.full(3, 0.9)) for side in (-1, 1)
    )
    image = draw(
        copies(plain(1), 2)._replace(light=jnp.stack([left, right]))
    ).image.mean(axis=-1)
    half = SIZE // 2
    face = slice(SIZE // 3, 4 * SIZE // 5)
    first, second = image[0, face], image[1, face]
    assert first[:, 10:half].mean() > 1.2 * first[:, half:-10].mean()
    assert second[:, half:-10].mean() > 1.2 * second[:, 10:half].mean()


def test_a_lamp_is_found_in_its_harmonics():
    towards = jnp.array([0.6, 0.0, 0.8])
    colour = jnp.array([0.9, 0.8, 0.7])
    found = light.main_lamp(faces.lamp(towards, colour) + faces.ambient(jnp.ones(3)))
    np.testing.assert_allclose(found[0], towards, atol=1e-3)
    np.testing.assert_allclose(found[1], colour, atol=1e-2)
    assert faces.presets().shape == (20, 9, 3)


def test_a_white_wall_returns_the_light_of_its_lamp():
    """Nine coefficients give a matt surface its light to a few per cent."""
    lit = faces.lamp(jnp.array([0.0, 0.0, 1.0]), jnp.ones(3))
    surface = paint.matt([1.0] * 3, 1.0)
    lamp = (jnp.array([0.0, 0.0, 1.0]), jnp.ones(3))
    for angle in (0.0, 0.6, 1.2):
        normal = (jnp.sin(angle), jnp.float32(0), jnp.cos(angle))
        ray = (jnp.float32(0), jnp.float32(0), jnp.float32(-1))
        sent = light.shade(lit, lamp, normal, ray, surface, 1.0)[0]
        assert abs(float(sent) - np.cos(angle)) < 0.09


def test_children_are_rounder_and_the_old_are_grey():
    drawn = draw(copies(plain(1), 3)._replace(age=jnp.array([4.0, 30.0, 85.0])))
    points = np.asarray(drawn.landmarks68)
    eye = np.linalg.norm(points[:, 36] - points[:, 39], axis=1)
    jaw = np.linalg.norm(points[:, 8] - points[:, 27], axis=1)
    assert eye[0] / jaw[0] > 1.1 * eye[1] / jaw[1], "a child's eyes are large"
    image = np.asarray(drawn.image)
    assert np.abs(image[2] - image[1]).mean() > 0.02


def test_expressions_move_the_mouth():
    names = ("neutral", "happy", "surprised")
    codes = copies(plain(1), 3)
    moved = jnp.stack([faces.expression(name) for name in names])
    points = np.asarray(draw(codes._replace(expression=moved)).landmarks68)
    width = points[:, 54, 0] - points[:, 48, 0]
    open_ = points[:, 66, 1] - points[:, 62, 1]
    assert width[1] > 1.1 * width[0]
    assert open_[2] > open_[0] + 1.5


@functools.cache
def slope():
    """One gradient program for the tests below: of two faces, by every code."""

    def loss(codes, target, shapes):
        drawn = faces.render(codes, 32, "loose", "fast")
        seen = drawn.landmarks68.sum() + drawn.depth.sum() + drawn.alpha.sum()
        return jnp.square(drawn.image - target).mean() + shapes * seen

    return jax.jit(jax.value_and_grad(loss), compiler_options=cpu.many_scalars())


@pytest.mark.long
def test_gradients_are_finite():
    codes = faces.sample_codes(jax.random.key(8), 2)
    codes = codes._replace(pose=codes.pose.at[0].set(jnp.array([80.0, -20.0, 30.0])))
    worn = [faces.IMAGING.index(name) for name in ("glasses", "mask", "hand", "jpeg")]
    codes = codes._replace(imaging=codes.imaging.at[1, jnp.array(worn)].set(0.5))
    _, gradient = slope()(codes, jnp.zeros((2, 32, 32, 3)), 1e-3)
    for field, values in gradient._asdict().items():
        assert np.isfinite(values).all(), field
        assert np.abs(values).max() > 0, field


@pytest.mark.long
def test_pose_and_light_are_recovered_by_descent():
    """Analysis by synthesis: from frontal and another lamp back to the truth."""
    truth = plain(2)
    truth = truth._replace(pose=jnp.array([[12.0, -6.0, 4.0], [-9.0, 5.0, -7.0]]))
    target = faces.render(truth, 32, "loose", "fast").image
    bent = (truth.light * 0.8).at[:, 3].add(-0.4)  # the lamp from the other side
    unknown = {"pose": jnp.zeros((2, 3)), "light": bent}  # pose in tens of degrees
    optimizer = optax.adam(optax.cosine_decay_schedule(0.08, 120))
    state = optimizer.init(unknown)
    losses = []
    for _ in range(120):
        codes = truth._replace(pose=10 * unknown["pose"], light=unknown["light"])
        loss, gradient = slope()(codes, target, 0.0)
        losses.append(float(loss))
        gradient = {"pose": 10 * gradient.pose, "light": gradient.light}
        updates, state = optimizer.update(gradient, state)
        unknown = optax.apply_updates(unknown, updates)
    assert losses[-1] < 0.02 * losses[0]
    assert np.abs(10 * unknown["pose"] - truth.pose).max() < 1.5
    assert np.abs(unknown["light"] - truth.light)[:, :4].max() < 0.3


@pytest.mark.long
def test_a_detector_of_photographs_finds_drawn_faces_and_their_points(real):
    detector = detect.YuNet(real("weights/face_detection_yunet_2026may.onnx"))
    people = faces.sample_identities(jax.random.key(11), 150)
    codes = faces_judged.conditions(jax.random.key(12), people)
    codes = codes._replace(age=jnp.maximum(codes.age, 16.0))
    away = []
    for image, points in zip(*faces_judged.render(codes)):
        for found in detector(image)[:1]:
            eyes = np.linalg.norm(points[0] - points[1])
            away.append(np.linalg.norm(found.points - points, axis=1) / eyes)
    assert len(away) >= 0.95 * len(people)
    assert np.median(away) < 0.08


def test_rows_do_not_depend_on_their_neighbours():
    codes = faces.sample_codes(jax.random.key(1), 3)
    fewer = faces.sample_codes(jax.random.key(1), 2)
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda a: a[:2], codes), fewer
    )
    np.testing.assert_array_equal(draw(codes).image[:2], draw(fewer).image)


def test_losses_of_imaging_do_what_they_say():
    sharp = jax.random.uniform(jax.random.key(0), (3, 16, 16))
    channels = list(sharp)
    none = imaging.compress(channels, jnp.float32(0.0))
    np.testing.assert_allclose(jnp.stack(none), sharp, atol=5e-3)
    lost = imaging.compress(channels, jnp.float32(1.0))
    assert jnp.abs(jnp.stack(lost) - sharp).mean() > 0.05


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("pose", [120.0, 0.0, 0.0], "yaw 120.0 .* -90..90"),
        ("pose", [0.0, float("nan"), 0.0], "pitch nan"),
        ("camera", [1.0, 0.0, 0.0], "camera distance 1.0"),
    ],
)
def test_codes_out_of_range_are_refused(field, value, said):
    codes = plain(2)
    codes = codes._replace(**{field: getattr(codes, field).at[1].set(jnp.array(value))})
    with pytest.raises(ValueError, match=said):
        draw(codes)


def test_codes_of_another_size_are_refused():
    codes = plain(2)
    with pytest.raises(ValueError, match=r"codes.identity has shape \(2, 7\)"):
        faces.render(codes._replace(identity=codes.identity[:, :7]))
    with pytest.raises(ValueError, match="frame 'square'"):
        faces.render(codes, frame="square")
    with pytest.raises(ValueError, match="size 8"):
        faces.render(codes, size=8)
    with pytest.raises(KeyError):
        faces.expression("smug")


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_faces():
    """Beside codes and pictures, a batch needs what one face needs."""
    render = jax.jit(functools.partial(faces.render, size=16, quality="fast"))
    temporary = []
    for n in (2, 8):
        compiled = render.lower(faces.sample_codes(jax.random.key(0), n)).compile()
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    one_map = 112 * 112 * 4
    assert temporary[1] - temporary[0] < 6 * 4 * one_map
