"""Synthetic faces, rendered from codes by a pure, jitted, differentiable function.

    codes = faces.sample_codes(jax.random.key(0), 16)
    images = faces.render(codes).image  # [16, 112, 112, 3], ArcFace's template

Every field of `Codes` can be replaced: `codes._replace(age=codes.age + 30)`.
"""

from fr_jax.lazy import attributes

_CODES = (
    *("Codes", "expression", "traits"),
    *("EXPRESSIONS", "IMAGING", "MOVEMENTS", "STYLE", "TRAITS"),
    *("EXPRESSION_SIZE", "IDENTITY_SIZE", "IMAGING_SIZE", "STYLE_SIZE"),
)
_MODULES = {
    **dict.fromkeys(_CODES, ".renderer.codes"),
    **dict.fromkeys(("ambient", "lamp", "presets"), ".renderer.light"),
    **dict.fromkeys(("Rendering", "render"), ".renderer.render"),
    **dict.fromkeys(("sample_codes", "sample_identities"), ".renderer.sample"),
}
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__ = attributes(__name__, _MODULES)
