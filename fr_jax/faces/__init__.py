"""Synthetic faces, rendered from codes by a pure, jitted, differentiable function.

    codes = faces.sample_codes(jax.random.key(0), 16)
    images = faces.render(codes).image  # [16, 112, 112, 3], ArcFace's template

Every field of `Codes` can be replaced: `codes._replace(age=codes.age + 30)`.
"""

from fr_jax.faces.renderer.codes import (
    EXPRESSION_SIZE,
    EXPRESSIONS,
    IDENTITY_SIZE,
    IMAGING,
    IMAGING_SIZE,
    MOVEMENTS,
    STYLE,
    STYLE_SIZE,
    TRAITS,
    Codes,
    expression,
    traits,
)
from fr_jax.faces.renderer.light import ambient, lamp, presets
from fr_jax.faces.renderer.render import Rendering, render
from fr_jax.faces.renderer.sample import sample_codes, sample_identities

__all__ = [
    "EXPRESSIONS",
    "EXPRESSION_SIZE",
    "IDENTITY_SIZE",
    "IMAGING",
    "IMAGING_SIZE",
    "MOVEMENTS",
    "STYLE",
    "STYLE_SIZE",
    "TRAITS",
    "Codes",
    "Rendering",
    "ambient",
    "expression",
    "lamp",
    "presets",
    "render",
    "sample_codes",
    "sample_identities",
    "traits",
]
