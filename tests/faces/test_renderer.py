"""The renderer: images, landmarks, gradients, independence of rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.experiments import realism
from data_pipelines.vision import align, detect
from fr_jax import faces
from fr_jax.faces.renderer import camera, imaging, light, paint, render

pytestmark = pytest.mark.xdist_group("faces")
SIZE = 64
ROWS = 6  # of every batch, so that each frame is compiled once
QUICK = {"xla_backend_optimization_level": 0}
sample_codes = jax.jit(faces.sample_codes, static_argnums=1, compiler_options=QUICK)
quick_render = jax.jit(
    render._render.__wrapped__,
    static_argnames=("size", "frame", "quality"),
    compiler_options=QUICK,
)


@functools.cache
def _photograph():
    identity = np.asarray(faces.sample_identities(jax.random.key(3), ROWS))
    room = faces.ambient(jnp.full(3, 0.5)) + faces.lamp(
        jnp.array([0.4, 0.5, 1.0]), jnp.full(3, 0.6)
    )
    return identity, np.asarray(room)


def plain(n, **fields):
    """Returns codes of n passport photographs, NumPy arrays."""
    identity, room = _photograph()
    neutral = {"contrast": 1.0, "saturation": 1.0, "resolution": 1.0}
    neutral |= {"back_light": 0.5, "cloth_light": 0.4, "grain": 0.3}
    shot = [neutral.get(name, 0.0) for name in faces.IMAGING]
    codes = faces.Codes(
        identity=identity[:n],
        expression=np.zeros((n, faces.EXPRESSION_SIZE)),
        pose=np.zeros((n, 3)),
        camera=np.tile([12.0, 0.0, 0.0], (n, 1)),
        light=np.tile(room, (n, 1, 1)),
        age=np.full(n, 30.0),
        style=np.zeros((n, faces.STYLE_SIZE)),
        imaging=np.tile(shot, (n, 1)),
    )
    codes = codes._replace(**fields)
    return jax.tree.map(lambda array: np.asarray(array, np.float32), codes)


def render_few(codes, frame="aligned"):
    """Returns the rendering of at most six codes, NumPy arrays."""
    rows = len(codes.age)
    full = jax.tree.map(lambda a: np.resize(a, (ROWS, *a.shape[1:])), codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_render", quick_render)
        rendered = faces.render(full, SIZE, frame, "fast")
    return jax.tree.map(lambda array: np.asarray(array)[:rows], rendered)


def copies(codes, n):
    """Returns the codes of the first row n times."""
    return jax.tree.map(lambda array: np.repeat(array[:1], n, axis=0), codes)


def test_values_are_within_their_ranges():
    rendered = render_few(sample_codes(jax.random.key(0), 3))
    assert rendered.image.shape == (3, SIZE, SIZE, 3)
    assert rendered.landmarks68.shape == (3, 68, 2)
    assert rendered.image.min() >= 0 and rendered.image.max() <= 1
    assert rendered.image.std() > 0.05
    assert rendered.mask.min() >= 0 and rendered.mask.max() == 1
    assert (rendered.alpha >= rendered.mask - 1e-5).all()  # equal on the head
    inside = rendered.mask > 0.5
    assert 0.2 < inside.mean() < 0.95
    assert (np.abs(rendered.depth[inside]) < 2.5).all()
    assert (rendered.depth[~inside] == -10).all()


def test_frontal_faces_fit_the_template():
    errors = render_few(plain(6)).landmarks5 - camera.template(SIZE)
    assert np.abs(errors.mean(axis=1)).max() < 1e-3 * SIZE  # least squares
    left, right = camera.template(SIZE)[:2]
    assert np.linalg.norm(errors, axis=2).max() < 0.35 * np.linalg.norm(right - left)


def test_template_agrees_with_data_pipelines():
    for size in (56, 64, 112, 128, 224, 256):
        np.testing.assert_allclose(camera.template(size), align.template(size), 1e-5)


def test_eye_landmarks_are_darker_than_the_cheeks():
    rendered = render_few(plain(6))
    grey = rendered.image.mean(axis=-1)
    for image, points in zip(grey, rendered.landmarks5):
        for x, y in points[:2].round().astype(int):
            pupil = image[y - 1 : y + 2, x - 1 : x + 2].min()
            cheek = image[y + 8 : y + 12, x - 2 : x + 3].mean()
            assert pupil < 0.75 * cheek


def test_five_and_68_landmarks_agree():
    rendered = render_few(plain(3))
    shared = rendered.landmarks68[:, [30, 48, 54]]
    np.testing.assert_allclose(shared, rendered.landmarks5[:, 2:], atol=1e-3)
    eye = rendered.landmarks68[:, 36:42]
    low, high = eye.min(axis=1), eye.max(axis=1)
    centre = rendered.landmarks5[:, 0]
    assert ((low < centre) & (centre < high)).all()


def test_yaw_moves_nose_and_eyes_across_the_image():
    pose = np.zeros((5, 3))
    pose[:, 0] = [-90.0, -45.0, 0.0, 45.0, 90.0]
    rendered = render_few(copies(plain(1), 5)._replace(pose=pose), "loose")
    nose = rendered.landmarks5[:, 2, 0]
    assert (np.diff(nose) > 2).all(), "positive yaw moves the nose to the right"
    left, right = (rendered.landmarks68[:, k, 0] for k in (36, 45))
    assert left[0] > right[0] - 8 and (right - left)[2] > 15
    # In profile the background begins in front of the tip of the nose.
    tip = rendered.landmarks5[4, 2].round().astype(int)
    beyond = rendered.mask[4, tip[1], tip[0] + 4 :]
    assert beyond.max() < 0.5


def test_lamps_brighten_their_side_of_the_face():
    left, right = (
        faces.lamp(jnp.array([side, 0.2, 0.6]), jnp.full(3, 0.9)) for side in (-1, 1)
    )
    image = render_few(
        copies(plain(1), 2)._replace(light=np.stack([left, right]))
    ).image.mean(axis=-1)
    half = SIZE // 2
    face = slice(SIZE // 3, 4 * SIZE // 5)
    first, second = image[0, face], image[1, face]
    assert first[:, 10:half].mean() > 1.2 * first[:, half:-10].mean()
    assert second[:, half:-10].mean() > 1.2 * second[:, 10:half].mean()


def test_lamp_is_recovered_from_its_harmonics():
    towards = jnp.array([0.6, 0.0, 0.8])
    colour = jnp.array([0.9, 0.8, 0.7])
    lights = faces.lamp(towards, colour) + faces.ambient(jnp.ones(3))
    direction, strength = light.main_lamp(lights)
    np.testing.assert_allclose(direction, towards, atol=1e-3)
    np.testing.assert_allclose(strength, colour, atol=1e-2)
    assert faces.presets().shape == (20, 9, 3)


def test_white_matt_surface_reflects_its_lamp():
    """Nine coefficients approximate the cosine with an error of a few per cent."""
    lit = faces.lamp(jnp.array([0.0, 0.0, 1.0]), jnp.ones(3))
    surface = paint.Paint([1.0] * 3)
    lamp = (jnp.array([0.0, 0.0, 1.0]), jnp.ones(3))
    for angle in (0.0, 0.6, 1.2):
        normal = (jnp.sin(angle), jnp.float32(0), jnp.cos(angle))
        ray = (jnp.float32(0), jnp.float32(0), jnp.float32(-1))
        sent = light.shade(lit, lamp, normal, ray, surface, 1.0)[0]
        assert abs(float(sent) - np.cos(angle)) < 0.09


def test_age_changes_proportions_and_colours():
    rendered = render_few(copies(plain(1), 3)._replace(age=np.array([4.0, 30.0, 85.0])))
    points = rendered.landmarks68
    eye = np.linalg.norm(points[:, 36] - points[:, 39], axis=1)
    jaw = np.linalg.norm(points[:, 8] - points[:, 27], axis=1)
    assert eye[0] / jaw[0] > 1.1 * eye[1] / jaw[1], "a child's eyes are large"
    image = rendered.image
    assert np.abs(image[2] - image[1]).mean() > 0.02


def test_expressions_move_the_mouth():
    names = ("neutral", "happy", "surprised")
    codes = copies(plain(1), 3)
    moved = np.stack([faces.expression(name) for name in names])
    points = render_few(codes._replace(expression=moved)).landmarks68
    width = points[:, 54, 0] - points[:, 48, 0]
    open_ = points[:, 66, 1] - points[:, 62, 1]
    assert width[1] > 1.1 * width[0]
    assert open_[2] > open_[0] + 1.5


@functools.cache
def slope():
    """Returns a function: value and gradient of a loss of two faces by every code."""

    def loss(codes, target, shapes):
        rendered = faces.render(codes, 32, "loose", "fast")
        geometry = (
            rendered.landmarks68.sum() + rendered.depth.sum() + rendered.alpha.sum()
        )
        return jnp.square(rendered.image - target).mean() + shapes * geometry

    # Fused, the gradient's hundreds of intermediates take minutes to compile.
    options = {"xla_disable_hlo_passes": "fusion"}
    return jax.jit(jax.value_and_grad(loss), compiler_options=options)


@pytest.mark.long
def test_gradients_are_finite():
    codes = sample_codes(jax.random.key(8), 2)
    codes = codes._replace(pose=codes.pose.at[0].set(jnp.array([80.0, -20.0, 30.0])))
    worn = [faces.IMAGING.index(name) for name in ("glasses", "mask", "hand", "jpeg")]
    codes = codes._replace(imaging=codes.imaging.at[1, jnp.array(worn)].set(0.5))
    _, gradient = slope()(codes, jnp.zeros((2, 32, 32, 3)), 1e-3)
    for field, values in gradient._asdict().items():
        assert np.isfinite(values).all(), field
        assert np.abs(values).max() > 0, field


@pytest.mark.long
def test_pose_and_light_are_recovered_by_descent():
    """Analysis by synthesis: from a frontal pose and another lamp."""
    truth = plain(2)
    truth = truth._replace(pose=np.array([[12.0, -6.0, 4.0], [-9.0, 5.0, -7.0]]))
    target = faces.render(truth, 32, "loose", "fast").image
    bent = jnp.asarray(truth.light * 0.8)
    bent = bent.at[:, 3].add(-0.4)  # the lamp from the other side
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
def test_detector_of_photographs_detects_rendered_faces_and_landmarks(real):
    detector = detect.YuNet(real("weights/face_detection_yunet_2026may.onnx"))
    identities = faces.sample_identities(jax.random.key(11), 150)
    codes = realism.conditions(jax.random.key(12), identities)
    codes = codes._replace(age=jnp.maximum(codes.age, 16.0))
    errors = []
    for image, points in zip(*realism.render(codes)):
        for detection in detector(image)[:1]:
            eyes = np.linalg.norm(points[0] - points[1])
            errors.append(np.linalg.norm(detection.points - points, axis=1) / eyes)
    assert len(errors) >= 0.95 * len(identities)
    assert np.median(errors) < 0.08


def test_rows_do_not_depend_on_other_rows():
    codes, fewer = (sample_codes(jax.random.key(1), n) for n in (3, 2))
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda a: a[:2], codes), fewer
    )
    np.testing.assert_array_equal(render_few(codes).image[:2], render_few(fewer).image)


def test_compression_removes_detail():
    sharp = np.random.default_rng(0).uniform(size=(3, 16, 16)).astype(np.float32)
    compress = jax.jit(imaging.compress, compiler_options=QUICK)
    none, lost = (jnp.stack(compress(list(sharp), jnp.float32(x))) for x in (0, 1))
    np.testing.assert_allclose(none, sharp, atol=5e-3)
    assert jnp.abs(lost - sharp).mean() > 0.05


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("pose", [120.0, 0.0, 0.0], "yaw 120.0 .* -90..90"),
        ("pose", [0.0, float("nan"), 0.0], "pitch nan"),
        ("camera", [1.0, 0.0, 0.0], "camera distance 1.0"),
    ],
    ids=["yaw", "nan", "distance"],
)
def test_codes_out_of_range_raise(field, value, match):
    codes = plain(2)
    getattr(codes, field)[1] = value
    with pytest.raises(ValueError, match=match):
        render_few(codes)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({"identity": 7}, {}, r"codes.identity has shape \(2, 7\)"),
        ({}, {"frame": "square"}, "frame 'square'"),
        ({}, {"size": 8}, "size 8"),
    ],
    ids=["shape", "frame", "size"],
)
def test_invalid_arguments_raise(change, options, match):
    codes = plain(2)
    cut = {name: getattr(codes, name)[:, :width] for name, width in change.items()}
    with pytest.raises(ValueError, match=match):
        faces.render(codes._replace(**cut), **options)


def test_unknown_expression_raises():
    with pytest.raises(KeyError):
        faces.expression("smug")


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_faces():
    """Temporary memory of a batch is that of one face."""
    drawing = jax.jit(functools.partial(faces.render, size=16, quality="fast"))
    temporary = []
    for n in (2, 8):
        compiled = drawing.lower(sample_codes(jax.random.key(0), n)).compile()
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    one_map = 112 * 112 * 4
    assert temporary[1] - temporary[0] < 6 * 4 * one_map
