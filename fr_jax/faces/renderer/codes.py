"""The codes of a rendered face: fields, units and distributions.

Lengths are decimetres in the head's frame: x to the right of the image, y up, z towards
the viewer, origin between the ears. An identity is a standard normal vector; `traits`
maps each of its entries to a named measure.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Measures = dict[str, Array]

# name: (mean, spread); a trait is mean + spread * a normal number limited by tanh.
TRAITS: dict[str, tuple[float, float]] = {
    # correlated traits: of men and women, and of geographic origins
    "sex": (0.0, 1.0),
    "melanin": (0.0, 1.0),
    # head
    "head_width": (1.0, 0.09),
    "head_height": (1.0, 0.075),
    "face_length": (0.0, 0.07),
    "jaw_width": (0.0, 0.105),
    "jaw_drop": (0.0, 0.075),
    "chin_width": (0.22, 0.05),
    "chin_height": (0.0, 0.075),
    "chin_out": (0.02, 0.05),
    "cheekbone": (0.03, 0.045),
    "cheek_fat": (0.0, 0.075),
    "forehead_out": (0.0, 0.06),
    "forehead_slope": (0.0, 0.075),
    "brow_ridge": (0.02, 0.03),
    "temple": (0.0, 0.045),
    # nose
    "nose_length": (0.0, 0.025),
    "nose_width": (0.0, 0.033),
    "nose_height": (0.0, 0.055),
    "nose_bridge": (0.0, 0.06),
    "nose_hump": (0.0, 0.0375),
    "nose_tip_up": (0.0, 0.03),
    "nose_tip_size": (0.0, 0.03),
    # eyes
    "eye_spacing": (0.0, 0.017),
    "eye_height": (0.0, 0.02),
    "eye_width": (0.0, 0.0255),
    "eye_open": (0.0, 0.021),
    "eye_tilt": (0.020, 0.020),
    "eye_depth": (0.0, 0.035),
    "eye_fold": (0.0, 1.0),
    "iris_hue": (0.0, 1.0),
    "iris_light": (0.0, 1.0),
    # brows
    "brow_height": (0.0, 0.032),
    "brow_thick": (0.0, 0.675),
    "brow_arch": (0.062, 0.033),
    "brow_tilt": (0.0, 0.045),
    "brow_length": (0.0, 0.045),
    "brow_dark": (0.0, 0.3),
    "brow_gap": (0.0, 0.03),
    # mouth
    "mouth_width": (0.0, 0.024),
    "mouth_height": (0.0, 0.022),
    "mouth_out": (0.0, 0.045),
    "upper_lip": (0.0, 0.525),
    "lower_lip": (0.0, 0.525),
    "mouth_corner": (0.0, 0.0225),
    "cupid": (0.0, 0.75),
    "lip_red": (0.0, 0.75),
    "philtrum": (0.0, 0.75),
    # ears
    "ear_size": (0.0, 0.09),
    "ear_out": (0.0, 0.075),
    # skin
    "skin_red": (0.0, 0.35),
    "skin_yellow": (0.0, 0.3),
    "cheek_red": (0.0, 0.6),
    "eye_ring": (0.0, 0.6),
    "freckles": (0.0, 1.0),
    "skin_shine": (0.0, 0.5),
    "fold": (0.0, 0.6),
    "mole1_x": (0.0, 0.6),
    "mole1_y": (-0.2, 0.5),
    "mole1_size": (0.0, 1.0),
    "mole2_x": (0.0, 0.6),
    "mole2_y": (-0.2, 0.5),
    "mole2_size": (0.0, 1.0),
    # hair
    "hair_dark": (0.0, 1.0),
    "hair_red": (0.0, 1.0),
    "hair_line": (0.0, 0.09),
    "hair_peak": (0.0, 0.05),
    "hair_temple": (0.0, 0.10),
    "hair_length": (0.0, 1.0),
    "hair_volume": (0.0, 0.5),
    "hair_side": (0.0, 1.0),
    "hair_curl": (0.0, 1.0),
    "hair_fringe": (0.0, 1.0),
    "hair_loss": (0.0, 1.0),
    "grey": (0.0, 1.0),
    "beard": (0.0, 1.0),
    "moustache": (0.0, 1.0),
}
PATTERN_SIZE = 18  # numbers of the fine skin pattern
IDENTITY_SIZE = len(TRAITS) + PATTERN_SIZE

EXPRESSIONS = ("neutral", "happy", "sad", "angry", "afraid", "disgusted", "surprised")
# Movements, with their range: amplitude in each of the expressions.
_MOVED: dict[str, tuple[float, ...]] = {
    "jaw_open": (0.0, 0.22, 0.0, 0.0, 0.35, 0.0, 0.95),  # 0..1
    # corners up and out, -1..1
    "smile": (0.0, 1.0, 0.0, 0.0, -0.2, 0.0, 0.0),
    "corners_down": (0.0, 0.0, 0.8, 0.35, 0.3, 0.5, 0.0),  # 0..1
    # thinner lips, 0..1
    "lips_press": (0.0, 0.0, 0.2, 0.8, 0.0, 0.0, 0.0),
    # narrower mouth, 0..1
    "lips_round": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5),
    # shows the teeth, 0..1
    "upper_lip_up": (0.0, 0.55, 0.0, 0.0, 0.0, 0.7, 0.0),
    "brows_inner": (0.0, 0.0, 0.8, -0.9, 0.9, -0.5, 1.0),  # up, -1..1
    "brows_outer": (0.0, 0.0, -0.35, 0.25, 0.5, 0.0, 1.0),  # up, -1..1
    "brows_together": (0.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.0),  # 0..1
    # -2 closed, -1 half closed, 1 wide
    "eyes_wide": (0.0, -0.35, -0.45, 0.3, 0.9, -0.6, 1.0),
    "cheeks_up": (0.0, 0.9, 0.0, 0.0, 0.0, 0.6, 0.0),  # 0..1
    "nose_wrinkle": (0.0, 0.0, 0.0, 0.3, 0.0, 1.0, 0.0),  # 0..1
    # to the right of the image, -1..1
    "gaze_x": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "gaze_y": (0.0, 0.0, -0.3, 0.0, 0.0, 0.0, 0.0),  # up, -1..1
}
MOVEMENTS = tuple(_MOVED)
EXPRESSION_SIZE = len(MOVEMENTS)
_PRESETS = dict[str, tuple[float, ...]](zip(EXPRESSIONS, zip(*_MOVED.values())))

IMAGING = (
    "blur",  # standard deviation in pixels of a 112-pixel face, 0..4
    "noise",  # standard deviation, 0..0.2
    "jpeg",  # 0 none .. 1 quality 5
    "resolution",  # share of the pixels that remain, 0.1..1
    "exposure",  # stops, -2..2
    "contrast",  # 0.5..1.5, 1 is neutral
    "saturation",  # 0..1.5, 1 is neutral; 0 is grey
    "glasses",  # opacity of the frame, 0..1
    "glasses_dark",  # opacity of the lenses, 0..1
    "glasses_shape",  # 0 round .. 1 square
    "mask",  # opacity of a medical mask, 0..1
    "hand",  # opacity of a hand in front of the face, 0..1
    "hand_x",  # position of the hand, -1..1
    "hand_y",
    "back_hue",  # background: hue, brightness and texture, 0..1
    "back_light",
    "back_busy",
    "cloth_hue",  # clothes, 0..1
    "cloth_light",
    "grain",  # seed of noise and background, 0..1
)
IMAGING_SIZE = len(IMAGING)

STYLE = ("hair_length", "hair_side", "beard", "make_up", "tan")
STYLE_SIZE = len(STYLE)


class Codes(NamedTuple):
    """Codes of n faces; every field has n rows.

    Attributes:
      identity: [n, IDENTITY_SIZE], standard normal.
      expression: [n, EXPRESSION_SIZE], see `MOVEMENTS`; presets: `expression(name)`.
      pose: [n, 3] degrees: yaw -90..90 (positive: nose to the right of the image),
        pitch -45..45 (positive: up), roll -45..45 (positive: clockwise).
      camera: [n, 3] distance in decimetres (4..100), shift right and shift down of the
        head in a loose frame, in shares of the frame (-0.5..0.5).
      light: [n, 9, 3] spherical-harmonic coefficients of the incoming light, per
        channel, in the order of `light.harmonics`.
      age: [n] years, 1..90.
      style: [n, STYLE_SIZE] offsets, -1..1, from the identity's usual hair length,
        parting, beard, make-up and tan.
      imaging: [n, IMAGING_SIZE], see `IMAGING`.
    """

    identity: Array
    expression: Array
    pose: Array
    camera: Array
    light: Array
    age: Array
    style: Array
    imaging: Array


SIZES = {
    "identity": (IDENTITY_SIZE,),
    "expression": (EXPRESSION_SIZE,),
    "pose": (3,),
    "camera": (3,),
    "light": (9, 3),
    "age": (),
    "style": (STYLE_SIZE,),
    "imaging": (IMAGING_SIZE,),
}


def traits(identity: Array) -> Measures:
    """Returns the named scalars, `TRAITS`, of one identity vector [IDENTITY_SIZE]."""
    limited = 2.5 * jnp.tanh(identity / 2.5)  # within 2.5 standard deviations
    return {
        name: mean + spread * limited[index]
        for index, (name, (mean, spread)) in enumerate(TRAITS.items())
    }


def measures(codes: Codes) -> Measures:
    """Returns the named values of one face: traits, movements, style_*, age, pattern.

    The weights `child`, `old`, `male` and `long_hair`, 0..1, follow from them.
    """
    m = traits(codes.identity) | dict(zip(MOVEMENTS, codes.expression))
    m |= {f"style_{name}": value for name, value in zip(STYLE, codes.style)}
    male = jax.nn.sigmoid(2.5 * m["sex"])
    length = 2.5 * (m["hair_length"] + 0.8 * m["style_hair_length"])
    return m | {
        "pattern": codes.identity[-PATTERN_SIZE:],
        "age": codes.age,
        "child": jnp.exp(-jnp.square(codes.age / 13)),
        "old": jax.nn.sigmoid((codes.age - 60) / 8),
        "male": male,
        "long_hair": jax.nn.sigmoid(length - 4.0 * (male - 0.5) - 0.3),
    }


def expression(name: str) -> Array:
    """Returns one of KDEF's seven expressions, [EXPRESSION_SIZE].

    Raises:
      KeyError: for an unknown name.
    """
    return jnp.array(_PRESETS[name])
