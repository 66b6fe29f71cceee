"""Figures of FRA: curves of classifiers, nearness, t-SNE, landmark maps, attention.

No figure shows a photograph.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from sklearn import metrics
from sklearn.manifold import TSNE

from fr_jax.metrics import classification
from fr_jax.report.figures import legend, panels, rows, save
from fr_jax.systems.fra.classifiers import Outcome

Array = np.ndarray
_NAMED = 8  # classes in a legend
_TSNE_ROWS = 1500  # of real and of generated embeddings
_OBJECTIVES = {
    1: "real -> generated",
    2: "real -> real",
    3: "real + generated -> real",
}


def curves(
    outcomes: Mapping[int, Outcome],
    names: Sequence[str],
    path: epath.PathLike,
    *,
    kind: str,
) -> None:
    """Plots one-vs-rest curves of each class, a panel per objective.

    Args:
      outcomes: by objective, of one classifier and label.
      names: of the classes.
      kind: 'roc' or 'precision_recall'. Classes without test rows, and a class that all
        test rows have, are left out.
    """
    with panels(path, len(outcomes), (4 * len(outcomes), 4.6)) as row:
        for axes, (objective, one) in zip(row, outcomes.items()):
            areas = []
            for place, number in enumerate(one.classes):
                positive = one.true == number
                if positive.all() or not positive.any():
                    continue
                if kind == "roc":
                    x, y, _ = metrics.roc_curve(positive, one.scores[:, place])
                    areas.append(metrics.auc(x, y))
                else:
                    scores = one.scores[:, place]
                    y, x, _ = metrics.precision_recall_curve(positive, scores)
                    areas.append(metrics.average_precision_score(positive, scores))
                label = f"{names[number]} ({areas[-1]:.3f})"
                shown = len(areas) <= _NAMED
                axes.plot(x, y, linewidth=1, label=label if shown else None)
            if kind == "roc":
                axes.plot([0, 1], [0, 1], ":", color="grey", label="chance")
                axes.set(xlabel="false positive rate", ylabel="true positive rate")
            else:
                axes.set(xlabel="recall", ylabel="precision")
            axes.set(xlim=(0, 1), ylim=(0, 1.03))
            mean = f"{np.mean(areas):.4f}" if areas else "undefined"
            area = "AUC" if kind == "roc" else "average precision"
            title = f"{_OBJECTIVES[objective]}\nmean {area} {mean}"
            if areas:
                legend(axes, title)
            else:  # of test rows of one class no curve is defined
                axes.set_title(title, fontsize=8, loc="left")


def confusions(
    outcomes: Mapping[int, Outcome], names: Sequence[str], path: epath.PathLike
) -> None:
    """Plots confusion matrices as shares of each true class, a panel per objective."""
    size = 4 * len(outcomes), 4.2
    with panels(path, len(outcomes), size, grid=False) as row:
        for axes, (objective, one) in zip(row, outcomes.items()):
            counts = classification.confusion(one.true, one.predicted, len(names))
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
            if len(names) <= _NAMED:
                places = range(len(names))
                axes.set_xticks(places, names, rotation=45, ha="right", fontsize=7)
                axes.set_yticks(places, names, fontsize=7)
            axes.set(xlabel="predicted", ylabel="true")
            axes.set_title(_OBJECTIVES[objective], fontsize=9)


def nearness(
    cosines: Mapping[str, Array],
    pose: Array,
    poses: Sequence[str],
    path: epath.PathLike,
) -> None:
    """Plots cosines with the true embedding: histograms, and means of target poses.

    Args:
      cosines: [T] by name, NaN where not measured.
      pose: int [T], of the target, a number of `poses`.
    """
    finite = {name: values[np.isfinite(values)] for name, values in cosines.items()}
    lowest = min(values.min(initial=1) for values in finite.values())
    bins = np.linspace(max(lowest, -1), 1, 41)
    with panels(path, 2, (9, 4)) as (left, right):
        for name, values in finite.items():
            label = f"{name}: {values.mean():.3f} +- {values.std():.3f}"
            clipped = np.clip(values, -1, 1)  # rounding may exceed 1
            left.hist(clipped, bins, density=True, histtype="step", label=label)
        left.set(xlabel="cosine with the true embedding", ylabel="density")
        legend(left)
        shown = np.unique(pose)
        for name, values in cosines.items():
            means = [_mean(values[pose == number]) for number in shown]
            right.plot(range(len(shown)), means, "o-", label=name)
        texts = [poses[number] for number in shown]
        right.set_xticks(range(len(shown)), texts, rotation=45, ha="right", fontsize=7)
        right.set(xlabel="target pose", ylabel="mean cosine")


def reconstructions(maps: Array, decoded: Array, path: epath.PathLike) -> None:
    """Plots landmark maps above their reconstructions, black on white.

    Args:
      maps, decoded: [N, S, S, 1] in [0, 1].
    """
    sheet = [[_ink(one) for one in several] for several in (maps, decoded)]
    rows(sheet, path, names=["map", "decoded"])


def tsne(
    real: Array,
    generated: Array,
    labels: Mapping[str, tuple[Array, Array, Sequence[str]]],
    path: epath.PathLike,
    *,
    seed: int = 0,
) -> None:
    """Plots real and generated embeddings in two dimensions, a panel per label.

    t-SNE (van der Maaten, Hinton, JMLR 2008) with perplexity 30, or less for few rows.

    Args:
      real, generated: [N, D] and [M, D].
      labels: (classes [N], classes [M], names of the classes) by name.
      seed: of the rows, if they are too many, and of t-SNE.
    """
    rng = np.random.default_rng(seed)
    rows, made = (
        np.sort(rng.permutation(len(x))[:_TSNE_ROWS]) for x in (real, generated)
    )
    both = np.concatenate([real[rows], generated[made]])
    perplexity = min(30.0, max((len(both) - 1) / 3, 1.0))
    points = TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(both)
    parts = np.split(points, [len(rows)])
    size = 4.6 * len(labels), 5
    with panels(path, len(labels), size, grid=False) as row:
        for axes, (label, (of_real, of_made, names)) in zip(row, labels.items()):
            classes = of_real[rows], of_made[made]
            shown = np.unique(np.concatenate(classes))
            for colour, number in enumerate(shown):
                style: dict[str, Any] = {"color": f"C{colour % 10}", "s": 9}
                text = names[number] if colour < _NAMED else None
                for place, marker, name in ((0, "o", text), (1, "x", None)):
                    x, y = parts[place][classes[place] == number].T
                    axes.scatter(
                        x, y, marker=marker, label=name, linewidth=0.7, **style
                    )
            axes.set(xticks=[], yticks=[])
            legend(axes, f"by {label}; o real, x generated")


def attention(weights: Array, path: epath.PathLike) -> None:
    """Plots mean attention of the class token, a row per layer, a column per head.

    The upper half of a panel is the code of the landmarks, the lower half the input
    embedding.

    Args:
      weights: [N, layers, heads, 4, 4], as `Augmenter.attention` returns them.
    """
    mean = weights.mean(axis=0)
    layers, heads, side, _ = mean.shape
    figure = Figure(
        figsize=(1.5 * heads + 0.6, 1.5 * layers + 0.5), layout="constrained"
    )
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer, row in enumerate(grid):
        for head, axes in enumerate(row):
            axes.imshow(mean[layer, head], vmin=0, vmax=mean.max(), cmap="viridis")
            axes.axhline(side / 2 - 0.5, color="white", linewidth=1)
            axes.set(xticks=[], yticks=[])
            if not layer:
                axes.set_title(f"head {head + 1}", fontsize=8)
        row[0].set_ylabel(f"layer {layer + 1}", fontsize=8)
    save(figure, path)


def _ink(one: Array) -> Array:
    """Returns uint8 [S, S, 3], black where a map is 1."""
    grey = np.round(255 * (1 - np.clip(one, 0, 1))).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)


def _mean(values: Array) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
