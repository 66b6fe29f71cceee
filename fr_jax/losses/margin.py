"""Margin softmax: logits from cosines, and their cross-entropy per example.

Every head takes `cosines` [batch, classes] in [-1, 1] and `labels` [batch], and returns
logits [batch, classes] in float32, the input of `cross_entropy`. With theta the angle
between an embedding and the prototype of its own class, a head replaces cos(theta) of
that class by a smaller value; all logits are multiplied by `scale`. A label of -1
stands for a class that is not among the columns; such a row has no margin. Gradients
are finite everywhere, cos = +-1 included.

| head | value instead of cos(theta) | paper |
|---|---|---|
| `softmax` | cos(theta) | NormFace, ACM MM 2017, arXiv 1704.06369 |
| `cosface` | cos(theta) - m | CosFace, CVPR 2018, arXiv 1801.09414, eq. 4 |
| `arcface` | cos(theta + m) | ArcFace, CVPR 2019, arXiv 1801.07698, eq. 3 |
| `mv_softmax` | either; other classes reweighted | AAAI 2020, arXiv 1912.00833 |
| `curricularface` | cos(theta + m); others reweighted | CVPR 2020, arXiv 2004.00288 |
| `magface` | cos(theta + m(norm)) | MagFace, CVPR 2021, arXiv 2103.06627 |
| `adaface` | margin by norm | AdaFace, CVPR 2022, arXiv 2204.00964 |
| `combined` | `arcface` or `cosface` | arcface_torch (InsightFace) |
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import check_options, check_range, named

Array = jax.Array

# Smallest distance of a cosine from +-1 before its square root or arccos.
_EDGE = 1e-7


def unit(vectors: Array, axis: int = -1) -> Array:
    """Returns float32 vectors of length 1 along `axis`; a zero vector stays zero.

    >>> print(unit(jnp.array([3.0, 4.0])))
    [0.6 0.8]
    """
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(jnp.square(vectors), axis, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def cosine_matrix(embeddings: Array, prototypes: Array) -> Array:
    """Returns cosines [batch, classes] of rows [batch, D] with rows [classes, D].

    Both may be of any length; the product is float32 and clipped to [-1, 1].

    >>> print(cosine_matrix(jnp.array([[3.0, 4.0]]), jnp.eye(2)))
    [[0.6 0.8]]
    """
    return jnp.clip(unit(embeddings) @ unit(prototypes).T, -1.0, 1.0)


def length(vectors: Array) -> Array:
    """Returns the L2 norms [batch] of vectors [batch, D], float32.

    The gradient is finite for a zero vector.

    >>> print(length(jnp.array([[3.0, 4.0]])))
    [5.]
    """
    squared = jnp.sum(jnp.square(vectors.astype(jnp.float32)), -1)
    return jnp.sqrt(jnp.maximum(squared, 1e-24))


def target_cosine(cosines: Array, labels: Array) -> Array:
    """Returns the cosine [batch] of each row with its own class, 0 for a label of -1.

    A masked sum, so that classes sharded over a mesh are not gathered.

    >>> print(target_cosine(jnp.array([[0.8, 0.6], [0.1, 0.2]]), jnp.array([0, -1])))
    [0.8 0. ]
    """
    return jnp.sum(jnp.where(_is_target(cosines, labels), cosines, 0.0), axis=1)


def cross_entropy(
    logits: Array, labels: Array, num_classes: int | None = None
) -> Array:
    """Returns softmax cross-entropy [batch] of logits [batch, classes].

    Columns from `num_classes` on are padding: they are excluded and have no gradient.
    Equal logits of four classes cost ln 4:

    >>> print(cross_entropy(jnp.zeros((1, 4)), jnp.array([2])))
    [1.3863]
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
    """Returns ArcFace logits [batch, classes]: scale * cos(theta + margin).

    Deng et al. (CVPR 2019, arXiv 1801.07698), eq. 3.

    Args:
      margin: radians.
      beyond_pi: the value where theta + margin exceeds pi: 'linear' is cos(theta) -
        margin * sin(margin) (InsightFace_Pytorch), 'wrap' the cosine, which rises again
        (arcface_torch), 'clip' that of an angle just below pi (AdaFace's program).
      gradient: 'exact', or 'straight_through': the gradient of the target logit is
        `scale`, as in arcface_torch, which computes the margin without autograd.

    Raises:
      ValueError: for another `beyond_pi` or `gradient`.

    >>> print(arcface(jnp.array([[0.8, 0.6]]), jnp.array([0])))
    [[26.5223 38.4   ]]
    """
    target = target_cosine(cosines, labels)
    if beyond_pi == "clip":
        angle = jnp.arccos(jnp.clip(target, -1 + 1e-4, 1 - 1e-4))
        moved = jnp.cos(jnp.clip(angle + margin, 1e-4, math.pi - 1e-4))
    elif beyond_pi == "wrap":
        moved = _cos_sum(target, margin)
    elif beyond_pi == "linear":
        moved = _cos_sum_or_line(target, margin)
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
    """Returns CosFace logits [batch, classes]: scale * (cos(theta) - margin).

    Wang et al. (CVPR 2018, arXiv 1801.09414), eq. 4.

    >>> print(cosface(jnp.array([[0.8, 0.6]]), jnp.array([0])))
    [[28.8 38.4]]
    """
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
    """Returns the logits [batch, classes] of arcface_torch's combined margin.

    Args:
      margins: (m1, m2, m3). m3 > 0 is `cosface` with margin m3; otherwise `arcface`
        with margin m2, past pi as 'wrap'.
      filter_above: > 0 sets cosines of other classes above it to 0 first.
      gradient: see `arcface`.

    Raises:
      ValueError: for m1 other than 1 where m3 is 0, which arcface_torch refuses too.

    >>> cosines, labels = jnp.array([[0.8, 0.6]]), jnp.array([0])
    >>> print(combined(cosines, labels, filter_above=0.4))
    [[26.5223  0.    ]]
    """
    m1, m2, m3 = margins
    if filter_above > 0:
        filtered = ~_is_target(cosines, labels) & (cosines > filter_above)
        cosines = jnp.where(filtered, 0.0, cosines)
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
    """Returns CurricularFace logits [batch, classes] and the new `average`.

    Huang et al. (CVPR 2020, arXiv 2004.00288): `arcface` for the target; a cosine c of
    another class above cos(theta + margin) becomes c * (t + c), with t the average.

    Args:
      average: t, scalar, 0 at first: moving average of the mean target cosine, updated
        before use and without gradient.
      rate: weight of the batch in the average.

    >>> cosines, labels = jnp.array([[0.8, 0.6]]), jnp.array([0])
    >>> logits, t = curricularface(cosines, labels, jnp.array(0.0))
    >>> print(logits, f"{t:.4f}")
    [[26.5223 23.3472]] 0.0080
    """
    target = target_cosine(cosines, labels)
    average = rate * jax.lax.stop_gradient(jnp.mean(target)) + (1 - rate) * average
    hard = cosines > _cos_sum(target, margin)[:, None]
    cosines = jnp.where(hard, cosines * (average + cosines), cosines)
    moved = _cos_sum_or_line(target, margin)
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
    """Returns MagFace logits [batch, classes]: scale * cos(theta + m(a)).

    Meng et al. (CVPR 2021, arXiv 2103.06627). The margin m(a) rises linearly from
    `lower_margin` at a = `lower` to `upper_margin` at a = `upper`. Targets with
    cos(theta) <= 0 have no margin. The second term of the loss is `magface_penalty`.

    Args:
      norms: [batch], L2 norms of the raw embeddings; a is the norm clipped to [lower,
        upper].

    >>> cosines, labels = jnp.array([[0.8, 0.6], [0.8, 0.6]]), jnp.array([0, 0])
    >>> print(magface(cosines, labels, jnp.array([10.0, 110.0])))
    [[29.4002 38.4   ]
     [ 8.1249 38.4   ]]
    """
    magnitude = jnp.clip(norms, lower, upper)
    slope = (upper_margin - lower_margin) / (upper - lower)
    margins = slope * (magnitude - lower) + lower_margin
    target = target_cosine(cosines, labels)
    moved = jnp.where(target > 0, _cos_sum(target, margins), target)
    return scale * _with_target(cosines, labels, moved)


def magface_penalty(
    norms: Array, *, lower: float = 10.0, upper: float = 110.0
) -> Array:
    """Returns MagFace's regulariser g(a) = 1/a + a/upper^2 [batch].

    Meng et al. (CVPR 2021, arXiv 2103.06627); weighted by lambda_g, 35 in their script.
    a is the norm [batch] clipped to [lower, upper]; g is smallest at `upper`.

    >>> print(magface_penalty(jnp.array([10.0, 110.0])))
    [0.1008 0.0182]
    """
    magnitude = jnp.clip(norms, lower, upper)
    return magnitude / upper**2 + 1 / magnitude


class NormStatistics(NamedTuple):
    """Moving mean and standard deviation of norms in AdaFace; initial values."""

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
    """Returns AdaFace logits [batch, classes] and the new norm statistics.

    Kim et al. (CVPR 2022, arXiv 2204.00964): scale * (cos(theta + g_angle) - g_add),
    with g_angle = -margin * q and g_add = margin * q + margin. The image quality q in
    [-1, 1] is `concentration` times the standardised norm, without gradient.

    Args:
      norms: [batch], L2 norms of the raw embeddings.
      statistics: moving statistics of the norms, updated before use.
      rate: weight of the batch in the statistics.

    >>> cosines, labels = jnp.array([[0.8, 0.6], [0.8, 0.6]]), jnp.array([0, 0])
    >>> norms = jnp.array([10.0, 30.0])
    >>> logits, statistics = adaface(cosines, labels, norms, NormStatistics())
    >>> print(logits, f"{statistics.mean:.2f} {statistics.std:.2f}")
    [[25.9393 38.4   ]
     [25.2514 38.4   ]] 20.00 99.14
    """
    norms = jax.lax.stop_gradient(jnp.clip(norms, 1e-3, 100.0))
    # The sample standard deviation of one example would be 0 / 0.
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
    """Returns MV-Softmax logits [batch, classes]: MV-AM, or MV-Arc if not `additive`.

    Wang et al. (AAAI 2020, arXiv 1912.00833). The target has the margin of `cosface`
    (MV-AM) or `arcface` (MV-Arc). A cosine c of another class above it, a misclassified
    vector, becomes weight * c + weight - 1. A target not above the margin (MV-AM) or 0
    (MV-Arc) has none.

    >>> print(mv_softmax(jnp.array([[0.8, 0.6]]), jnp.array([0])))
    [[14.4   25.344]]
    """
    target = target_cosine(cosines, labels)
    moved = target - margin if additive else _cos_sum(target, margin)
    hard = cosines > moved[:, None]
    cosines = jnp.where(hard, weight * cosines + weight - 1, cosines)
    threshold = margin if additive else 0.0
    moved = jnp.where(target > threshold, moved, target)
    return scale * _with_target(cosines, labels, moved)


class Head(NamedTuple):
    """A margin head with one signature for all heads.

    Attributes:
      apply: (cosines, labels, norms, memory) -> (logits, penalty, memory), with `norms`
        [batch] of the raw embeddings and `penalty` a term of the loss.
      memory: initial moving averages of the head; () if it has none.
    """

    apply: Callable[[Array, Array, Array, Any], tuple[Array, Any, Any]]
    memory: Any = ()


def make_head(head: str | Callable[..., Array], **options: Any) -> Head:
    """Returns the Head of a name, or of a function (cosines, labels) -> logits.

    Args:
      head: a key of `HEADS`, or the function.
      **options: keyword arguments of that function; 'magface' also takes
        `penalty_weight`, the paper's lambda_g.

    Raises:
      UserError: for an unknown name or option, a negative margin and scale.

    >>> head = make_head("cosface", margin=0.4)
    >>> cosines, labels, norms = jnp.array([[0.8, 0.6]]), jnp.array([0]), jnp.ones(1)
    >>> logits, penalty, memory = head.apply(cosines, labels, norms, head.memory)
    >>> print(logits, penalty, memory)
    [[25.6 38.4]] 0.0 ()
    """
    function = named("head", head, HEADS)
    penalty_weight = options.pop("penalty_weight", 35.0) if head == "magface" else 0.0
    check_options(f"head {head}", function, options, given=2)
    for name, least in {"margin": 0, "scale": 1e-3}.items():
        if isinstance(head, str) and name in options:
            check_range(f"{name} of head {head}", options[name], least)
    call = functools.partial(function, **options)

    has_norms, has_memory = function in (adaface, magface), function in _MEMORIES

    def apply(cosines, labels, norms, memory):
        inputs = [norms] if has_norms else []
        inputs += [memory] if has_memory else []
        result = call(cosines, labels, *inputs)
        logits, memory = result if has_memory else (result, memory)
        penalty = 0.0
        if function is magface:
            bounds = {k: v for k, v in options.items() if k in ("lower", "upper")}
            penalty = penalty_weight * jnp.mean(magface_penalty(norms, **bounds))
        return logits, penalty, memory

    return Head(apply, _MEMORIES.get(function, ()))


def softmax(cosines: Array, labels: Array, *, scale: float = 64.0) -> Array:
    """Returns scale * cosines [batch, classes], without a margin.

    NormFace: Wang et al. (ACM Multimedia 2017, arXiv 1704.06369).

    >>> print(softmax(jnp.array([[0.8, 0.6]]), jnp.array([0])))
    [[51.2 38.4]]
    """
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
# Initial moving averages of the heads that have some.
_MEMORIES = {curricularface: np.float32(0.0), adaface: NormStatistics()}


def _is_target(cosines: Array, labels: Array) -> Array:
    classes = jnp.arange(cosines.shape[1])
    return labels[:, None] == classes[None]  # [batch, classes]


def _with_target(cosines: Array, labels: Array, values: Array) -> Array:
    return jnp.where(_is_target(cosines, labels), values[:, None], cosines)


def _cos_sum(cosine: Array, margin: Array | float) -> Array:
    """Returns cos(arccos(cosine) + margin), with a finite slope at cosine = +-1."""
    cosine = jnp.clip(cosine, -1 + _EDGE, 1 - _EDGE)
    sine = jnp.sqrt(1 - jnp.square(cosine))
    return cosine * jnp.cos(margin) - sine * jnp.sin(margin)


def _cos_sum_or_line(cosine: Array, margin: float) -> Array:
    """Returns `_cos_sum`; cosine - margin * sin(margin) where the angle exceeds pi."""
    below_pi = cosine > math.cos(math.pi - margin)
    line = cosine - margin * math.sin(margin)
    return jnp.where(below_pi, _cos_sum(cosine, margin), line)
