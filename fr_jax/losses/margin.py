"""Margin softmax heads as pure functions on cosines.

Every head takes `cosines` [batch, classes] in [-1, 1] and `labels` [batch] and
returns logits [batch, classes] in float32, ready for `cross_entropy`. A label of -1
stands for a class that is not among the columns; such a row gets no margin. All of
them have finite gradients everywhere, cos = +-1 included.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import check_names, check_options

Array = jax.Array

# Closest a cosine may come to +-1 before a square root or arccos is taken of it.
_EDGE = 1e-7


def unit(vectors: Array, axis: int = -1) -> Array:
    """Returns float32 vectors of length 1 along `axis`; a zero vector stays zero."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(jnp.square(vectors), axis, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def cosine_matrix(embeddings: Array, prototypes: Array) -> Array:
    """Returns cosines [batch, classes] of rows [batch, D] with rows [classes, D].

    Both may be of any length; the product is float32 and clipped to [-1, 1].
    """
    return jnp.clip(unit(embeddings) @ unit(prototypes).T, -1.0, 1.0)


def length(vectors: Array) -> Array:
    """Returns the lengths [batch] of vectors [batch, D], float32, safe at zero."""
    squared = jnp.sum(jnp.square(vectors.astype(jnp.float32)), -1)
    return jnp.sqrt(jnp.maximum(squared, 1e-24))


def target_cosine(cosines: Array, labels: Array) -> Array:
    """Returns the cosine [batch] of each row with its own class, 0 for a label of -1.

    A masked sum, so that classes cut over a mesh stay where they are.
    """
    return jnp.sum(jnp.where(_is_target(cosines, labels), cosines, 0.0), axis=1)


def cross_entropy(
    logits: Array, labels: Array, num_classes: int | None = None
) -> Array:
    """Returns softmax cross-entropy [batch] of logits [batch, classes].

    Columns from `num_classes` on are padding: they take no part and get no gradient.
    """
    if num_classes is not None and num_classes < logits.shape[1]:
        columns = jnp.arange(logits.shape[1])[None]
        logits = jnp.where(columns < num_classes, logits, -jnp.inf)
    return jax.nn.logsumexp(logits, axis=1) - target_cosine(logits, labels)


def arcface(
    cosines: Array,
    labels: Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    beyond_pi: str = "linear",
    gradient: str = "exact",
) -> Array:
    """ArcFace: scale * cos(theta + margin) on the target (Deng et al. 2019, eq. 3).

    Args:
      beyond_pi: what happens where theta + margin passes pi. 'linear' continues with
        cos(theta) - margin * sin(margin) (InsightFace_Pytorch), 'wrap' lets the cosine
        rise again (arcface_torch), 'clip' holds the angle just inside pi (AdaFace's).
      gradient: 'exact', or 'straight_through', which passes the gradient of the target
        unchanged, as arcface_torch does by computing its margin without autograd.
    """
    target = target_cosine(cosines, labels)
    if beyond_pi == "clip":
        angle = jnp.arccos(jnp.clip(target, -1 + 1e-4, 1 - 1e-4))
        moved = jnp.cos(jnp.clip(angle + margin, 1e-4, math.pi - 1e-4))
    elif beyond_pi == "wrap":
        moved = _cos_sum(target, margin)
    elif beyond_pi == "linear":
        inside = target > math.cos(math.pi - margin)
        moved = jnp.where(
            inside, _cos_sum(target, margin), target - margin * math.sin(margin)
        )
    else:
        raise ValueError(f"beyond_pi is 'linear', 'wrap' or 'clip', not {beyond_pi!r}")
    if gradient == "straight_through":
        moved = target + jax.lax.stop_gradient(moved - target)
    elif gradient != "exact":
        raise ValueError(f"gradient is 'exact' or 'straight_through', not {gradient!r}")
    return scale * _with_target(cosines, labels, moved)


def cosface(
    cosines: Array, labels: Array, *, margin: float = 0.35, scale: float = 64.0
) -> Array:
    """CosFace: scale * (cos(theta) - margin) on the target (Wang et al. 2018)."""
    return scale * (cosines - margin * _is_target(cosines, labels))


def combined(
    cosines: Array,
    labels: Array,
    *,
    margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
    scale: float = 64.0,
    filter_above: float = 0.0,
    gradient: str = "straight_through",
) -> Array:
    """arcface_torch's combined margin: (m1, m2, m3) = (1, arc margin, cosine margin).

    m3 > 0 selects CosFace, m1 = 1 and m3 = 0 ArcFace; anything else is a ValueError, as
    there. `filter_above` > 0 first zeroes every other class's cosine above it.
    """
    m1, m2, m3 = margins
    if filter_above > 0:
        other = ~_is_target(cosines, labels) & (cosines > filter_above)
        cosines = jnp.where(other, 0.0, cosines)
    if m3 > 0:
        return cosface(cosines, labels, margin=m3, scale=scale)
    if m1 != 1:
        raise ValueError(f"margins {margins}: m1 must be 1 where m3 is 0")
    return arcface(
        cosines, labels, margin=m2, scale=scale, beyond_pi="wrap", gradient=gradient
    )


def curricularface(
    cosines: Array,
    labels: Array,
    average: Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    rate: float = 0.01,
) -> tuple[Array, Array]:
    """CurricularFace (Huang et al. 2020, eqs. 7-10): logits and the new `average`.

    `average` (scalar, 0 at first) follows the mean target cosine and is brought up to
    date before it is used; no gradient flows into it.
    """
    target = target_cosine(cosines, labels)
    average = rate * jax.lax.stop_gradient(jnp.mean(target)) + (1 - rate) * average
    moved = _cos_sum(target, margin)
    hard = cosines > moved[:, None]
    cosines = jnp.where(hard, cosines * (average + cosines), cosines)
    inside = target > math.cos(math.pi - margin)
    moved = jnp.where(inside, moved, target - margin * math.sin(margin))
    return scale * _with_target(cosines, labels, moved), average


def magface(
    cosines: Array,
    labels: Array,
    norms: Array,
    *,
    lower: float = 10.0,
    upper: float = 110.0,
    lower_margin: float = 0.45,
    upper_margin: float = 0.8,
    scale: float = 64.0,
) -> Array:
    """MagFace (Meng et al. 2021, eqs. 3-5): an angular margin that grows with the norm.

    `norms` [batch] are the lengths of the raw embeddings, clipped to [lower, upper].
    Targets with cos <= 0 get no margin. The paper's second term is `magface_penalty`.
    """
    length = jnp.clip(norms, lower, upper)
    slope = (upper_margin - lower_margin) / (upper - lower)
    margins = slope * (length - lower) + lower_margin
    target = target_cosine(cosines, labels)
    moved = jnp.where(target > 0, _cos_sum(target, margins), target)
    return scale * _with_target(cosines, labels, moved)


def magface_penalty(
    norms: Array, *, lower: float = 10.0, upper: float = 110.0
) -> Array:
    """MagFace's g [batch]: 1/a + a/upper^2 of the clipped norm; smallest at `upper`."""
    length = jnp.clip(norms, lower, upper)
    return length / upper**2 + 1 / length


class NormStatistics(NamedTuple):
    """AdaFace's running mean and deviation of norms, with their first values."""

    mean: Any = np.float32(20.0)
    std: Any = np.float32(100.0)


def adaface(
    cosines: Array,
    labels: Array,
    norms: Array,
    statistics: NormStatistics,
    *,
    margin: float = 0.4,
    concentration: float = 0.333,
    scale: float = 64.0,
    rate: float = 0.01,
) -> tuple[Array, NormStatistics]:
    """AdaFace (Kim et al. 2022, eqs. 8-11): logits and the new norm statistics.

    `norms` [batch] of the raw embeddings stand for image quality: a high norm turns the
    margin angular and negative, a low one additive. No gradient flows through it.
    """
    norms = jax.lax.stop_gradient(jnp.clip(norms, 1e-3, 100.0))
    # The deviation of a single example would be 0 / 0.
    std = jnp.std(norms, ddof=1) if norms.shape[0] > 1 else jnp.float32(0.0)
    statistics = NormStatistics(
        rate * jnp.mean(norms) + (1 - rate) * statistics.mean,
        rate * std + (1 - rate) * statistics.std,
    )
    quality = (norms - statistics.mean) / (statistics.std + 1e-3)
    quality = jnp.clip(concentration * quality, -1.0, 1.0)
    cosines = jnp.clip(cosines, -1 + 1e-3, 1 - 1e-3)
    angle = jnp.arccos(target_cosine(cosines, labels)) - margin * quality
    moved = jnp.cos(jnp.clip(angle, 1e-3, math.pi - 1e-3))
    moved = moved - (margin + margin * quality)
    return scale * _with_target(cosines, labels, moved), statistics


def mv_softmax(
    cosines: Array,
    labels: Array,
    *,
    margin: float = 0.35,
    weight: float = 1.12,
    scale: float = 32.0,
    additive: bool = True,
) -> Array:
    """MV-Softmax (Wang et al. 2020, eqs. 8-9): misclassified classes weigh more.

    `additive` selects MV-AM (a cosine margin), otherwise MV-Arc (an angular one).
    """
    target = target_cosine(cosines, labels)
    moved = target - margin if additive else _cos_sum(target, margin)
    hard = cosines > moved[:, None]
    cosines = jnp.where(hard, weight * cosines + weight - 1, cosines)
    threshold = margin if additive else 0.0
    moved = jnp.where(target > threshold, moved, target)
    return scale * _with_target(cosines, labels, moved)


class Head(NamedTuple):
    """A margin head as a training step sees it, whatever it needs or remembers.

    apply(cosines, labels, norms, memory) -> (logits, penalty, memory): `norms` [batch]
    of the raw embeddings, `penalty` a term of the loss, `memory` the head's running
    averages, which start as the field `memory`.
    """

    apply: Callable[[Array, Array, Array, Any], tuple[Array, Any, Any]]
    memory: Any = ()


def make_head(head: str | Callable[..., Array], **options: Any) -> Head:
    """Returns a Head by name, or of your own function (cosines, labels) -> logits.

    Args:
      head: a key of `HEADS` ('softmax' is the plain one), or the function.
      **options: keywords of that function; 'magface' also takes `penalty_weight` (the
        paper's lambda_g).

    Raises:
      UserError: for an unknown name or option.
    """
    if isinstance(head, str):
        check_names("head", [head], HEADS)
    function = HEADS[head] if isinstance(head, str) else head
    penalty_weight = options.pop("penalty_weight", 35.0) if head == "magface" else 0.0
    check_options(f"head {head}", function, options, given=2)
    call = functools.partial(function, **options)

    def plain(cosines, labels, norms, memory):
        return call(cosines, labels), 0.0, memory

    def curricular(cosines, labels, norms, memory):
        logits, memory = call(cosines, labels, memory)
        return logits, 0.0, memory

    def quality(cosines, labels, norms, memory):
        logits, memory = call(cosines, labels, norms, memory)
        return logits, 0.0, memory

    def magnitude(cosines, labels, norms, memory):
        bounds = {k: v for k, v in options.items() if k in ("lower", "upper")}
        penalty = jnp.mean(magface_penalty(norms, **bounds))
        return call(cosines, labels, norms), penalty_weight * penalty, memory

    special = {
        curricularface: Head(curricular, np.float32(0.0)),
        adaface: Head(quality, NormStatistics()),
        magface: Head(magnitude),
    }
    return special.get(function, Head(plain))


def softmax(cosines: Array, labels: Array, *, scale: float = 64.0) -> Array:
    """Softmax on scaled cosines, no margin (NormFace, Wang et al. 2017)."""
    del labels
    return scale * cosines


HEADS: dict[str, Callable[..., Any]] = {
    "adaface": adaface,
    "arcface": arcface,
    "combined": combined,
    "cosface": cosface,
    "curricularface": curricularface,
    "magface": magface,
    "mv_softmax": mv_softmax,
    "softmax": softmax,
}


def _is_target(cosines: Array, labels: Array) -> Array:
    classes = jnp.arange(cosines.shape[1])
    return labels[:, None] == classes[None]  # [batch, classes]


def _with_target(cosines: Array, labels: Array, values: Array) -> Array:
    return jnp.where(_is_target(cosines, labels), values[:, None], cosines)


def _cos_sum(cosine: Array, margin: Array | float) -> Array:
    """cos(arccos(cosine) + margin), with a finite slope at cosine = +-1."""
    cosine = jnp.clip(cosine, -1 + _EDGE, 1 - _EDGE)
    sine = jnp.sqrt(1 - jnp.square(cosine))
    return cosine * jnp.cos(margin) - sine * jnp.sin(margin)
