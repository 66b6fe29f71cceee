"""A report of evaluations: one HTML file that needs nothing else.

Tables, figures (SVG) and faces are in the file; its content security policy forbids the
browser to fetch anything. It compares the runs side by side, and the later ones with
the first.
"""

import importlib.resources
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image

import fr_jax
from fr_jax.errors import UserError
from fr_jax.progress import progress_bar
from fr_jax.report import comparison, measures, tables, vector
from fr_jax.report.comparison import Comparison
from fr_jax.report.markup import Html, element, joined, picture
from fr_jax.report.runs import EvaluatedSet, Run, Scores

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_JPEG = 85  # quality of thumbnails
_ABOUT = (
    "TAR at FAR x: share of genuine pairs accepted at the lowest threshold that "
    "accepts at most the share x of impostor pairs; ties are accepted together.",
    "† fewer than 10 / FAR impostor pairs, or 10 / FPIR non-mated searches: the value "
    "is unreliable. ROC curves are pale there.",
    "EER: error rate where the convex hull of the ROC curve meets FAR = FRR. minDCF: "
    "lowest detection cost, with a prior of 0.01 for genuine pairs and unit costs.",
    "Brackets: 95 % intervals by bootstrap, percentiles. ±: standard deviation over "
    "folds.",
    "Differences: later embedder less the first, on the same resamples of the same "
    "pairs; pp: percentage points; bold where the interval excludes 0.",
)


class _Section(NamedTuple):
    """A set of the report; `entries` in the order of the runs."""

    name: str
    anchor: str
    runs: Sequence[Run]
    entries: Sequence[EvaluatedSet | None]
    compared: Comparison


def write(
    runs: Sequence[Run],
    path: epath.PathLike,
    *,
    images: bool = True,
    title: str = "Evaluation of face recognition",
    resamples: int | None = None,
    compared: Mapping[str, Comparison] | None = None,
) -> None:
    """Writes a report of several runs as one HTML file, atomically.

    Args:
      images: show the hardest pairs, where they are stored.
      resamples: of the intervals of differences; default: 1,000, or 200 of more than a
        million pairs.
      compared: the differences by name of the set, where they are known already.

    Raises:
      UserError: without runs, and for two runs of one name.
    """
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise UserError(f"a report needs runs of different names, not {names}")
    sections = []
    names = progress_bar(
        measures.set_names(runs), "report", unit=" sets", disable=len(runs) == 1
    )
    for number, name in enumerate(names, 1):
        entries = [comparison.one_set(run, name) for run in runs]
        known = (compared or {}).get(name)
        known = known or comparison.compare(runs, name, resamples=resamples)
        sections.append(_Section(name, f"set-{number}", runs, entries, known))
    content = page(title, _body(runs, sections, title, images=images))
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content.encode("utf-8", "backslashreplace"))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def page(title: str, body: Html) -> Html:
    """Returns a whole HTML page, which fetches nothing."""
    style = importlib.resources.files("fr_jax.report") / "style.css"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Html(style.read_text())),
    )
    whole = element("html", head, element("body", element("main", body)), lang="en")
    return Html(f"<!doctype html>\n{whole}\n")


def _body(
    runs: Sequence[Run], sections: Sequence[_Section], title: str, *, images: bool
) -> Html:
    links = [(one.anchor, one.name) for one in sections]
    links += [("embedders", "Embedders"), ("terms", "Terms")]
    parts = [
        element("h1", title),
        element("p", joined((element("strong", run.name) for run in runs), ", ")),
        element(
            "nav",
            *(element("a", shown, href=f"#{anchor}") for anchor, shown in links),
            aria_label="Contents",
        ),
        _overview(runs, sections),
        *(_of_set(one, images=images) for one in sections),
        element("section", *_embedders(runs), id="embedders"),
        element("section", *_terms(), id="terms"),
        element("footer", f"fr_jax {fr_jax.__version__}"),
    ]
    return joined(parts)


def _overview(runs: Sequence[Run], sections: Sequence[_Section]) -> Html:
    rows = []
    for one in sections:
        metric = measures.main_metric(measures.metrics(runs, one.name))
        link = element("a", one.name, href=f"#{one.anchor}")
        shown = element("span", measures.title(metric), class_="grey")
        cells = tables.row(runs, one.name, metric, one.compared, badges=True)
        rows.append([joined([link, element("br"), shown]), *cells])
    return tables.of_metrics(runs, rows)


def _of_set(one: _Section, *, images: bool) -> Html:
    runs, entries = one.runs, dict(_present(one))
    parts = [element("h2", one.name)]
    if about := tables.facts(entries):
        parts.append(element("p", about, class_="grey"))
    names = measures.metrics(runs, one.name)
    seen = {name for name, entry in entries.items() if tables.is_seen(entry)}
    for heading, of_groups in (("", False), ("Groups", True)):
        rows = [
            [measures.title(metric), *tables.row(runs, one.name, metric, one.compared)]
            for metric in names
            if (measures.GROUP in metric) == of_groups
        ]
        if rows:
            parts += [element("h3", heading)] if heading else []
            parts.append(tables.of_metrics(runs, rows, seen))
    parts += tables.footnotes(runs, one.name, names)
    parts += tables.remarks(runs, entries, one.compared)
    parts += _held_out(one)
    if figures := _figures(one):
        parts.append(element("div", *figures, class_="figures"))
    if images:
        parts += _hardest(entries)
    if entries:
        columns = {name: tables.protocol(entry) for name, entry in entries.items()}
        parts += [element("h3", "Protocol"), tables.side_by_side(columns)]
    return element("section", *parts, id=one.anchor)


def _held_out(one: _Section) -> list[Html]:
    """Returns the metrics over folds that no run has seen, if one has seen others."""
    compared = one.compared
    if compared.folds is None:
        return []
    rows = [
        [
            measures.title(metric),
            *tables.held_out_row(one.runs, one.name, metric, compared),
        ]
        for metric in measures.metrics(one.runs, one.name, held_out=True)
    ]
    folds = tables.folds_text(np.flatnonzero(compared.folds))
    title = f"Held out: {folds} (of {len(compared.folds)})"
    about = (
        "No training identities of any of these embedders are in these folds. "
        "Thresholds are chosen on the other folds."
    )
    if compared.held_out:
        about += f" Differences and their intervals: {compared.resampled}."
    lines = [element("h3", title), element("p", about, class_="grey")]
    return [*lines, tables.of_metrics(one.runs, rows)]


def _figures(one: _Section) -> list[Html]:
    """Returns ROC, DET and other curves of all runs, and histograms of each."""
    scores = {name: entry.scores for name, entry in _present(one) if entry.scores}
    both = {n: s for n, s in scores.items() if s.same.any() and not s.same.all()}
    figures = []
    if both:
        for draw, title in ((vector.roc, "ROC"), (vector.det, "DET")):
            data = draw(list(both.values()))
            alt = f"{title} curves on {one.name}"
            figures.append(_figure(data, alt, title, enumerate(both)))
    kinds = {curve: None for _, entry in _present(one) for curve in entry.curves}
    for kind in kinds:
        of_kind = {n: e.curves[kind] for n, e in _present(one) if kind in e.curves}
        first = next(iter(of_kind.values()))
        title = f"{kind}: {first.y_label} against {first.x_label}"
        data = vector.curves(list(of_kind.values()))
        figures.append(
            _figure(data, f"{kind} on {one.name}", title, enumerate(of_kind))
        )
    span = vector.span(list(scores.values())) if scores else (0.0, 1.0)
    for run in one.runs:
        if run.name in scores:
            threshold = tables.threshold(run, one.name)
            figures.append(_histogram(run.name, scores[run.name], span, threshold))
    return figures


def _histogram(
    name: str, scores: Scores, span: tuple[float, float], threshold: float | None
) -> Html:
    keys = []
    kinds = ("genuine", vector.GENUINE), ("impostor", vector.IMPOSTOR)
    for (kind, number), mask in zip(kinds, (scores.same, ~scores.same)):
        if mask.any():
            values = np.asarray(scores.values[mask], np.float64)
            spread = f"{values.mean():.3f} ± {values.std():.3f}"
            keys.append((number, f"{kind}: {len(values):,} pairs, {spread}"))
    title = f"Scores of {name}"
    if threshold is not None:
        title += f", threshold {threshold:.3f}"
    data = vector.histogram(scores, span, threshold)
    return _figure(data, f"histogram of the scores of {name}", title, keys)


def _figure(data: bytes, alt: str, title: str, keys: Iterable[tuple[int, str]]) -> Html:
    """Returns a figure with a caption: its title, and the names of its curves."""
    lines = [
        element("span", vector.swatch(number), element("span", name), class_="key")
        for number, name in keys
    ]
    caption = element("figcaption", element("strong", title), *lines)
    return element("figure", caption, picture(data, "svg+xml", alt))


def _hardest(entries: Mapping[str, EvaluatedSet]) -> list[Html]:
    """Returns the hardest pairs of each run as pictures."""
    parts = []
    for name, entry in entries.items():
        scores = entry.scores
        if scores is None or scores.hardest is None or not len(scores.hardest.rows):
            continue
        for kind, title in ((True, "genuine"), (False, "impostor")):
            faces = []
            for row, pair in zip(*scores.hardest):
                if bool(scores.same[row]) != kind:
                    continue
                score = f"{float(scores.values[row]):.3f}"
                alt = f"{title} pair {int(row) + 1}, score {score}"
                image = picture(_jpeg(np.hstack(pair)), "jpeg", alt)
                shown = f"{score}, pair {int(row) + 1:,}"
                faces.append(element("figure", image, element("figcaption", shown)))
            if not faces:
                continue
            worst = "lowest" if kind else "highest"
            heading = f"Hardest {title} pairs of {name}"
            parts.append(element("h3", heading))
            about = f"{title.capitalize()} pairs with the {worst} scores."
            parts.append(element("p", about, class_="grey"))
            parts.append(element("div", *faces, class_="faces"))
    return parts


def _jpeg(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=_JPEG)
    return data.getvalue()


def _embedders(runs: Sequence[Run]) -> list[Html]:
    columns = {run.name: tables.flat(run.embedder) for run in runs if run.embedder}
    versions = {run.name: run.versions for run in runs if run.versions}
    parts = [element("h2", "Embedders")]
    without = [run.name for run in runs if not run.embedder]
    if without:
        about = f"Nothing but results is known of {', '.join(without)}."
        parts.append(element("p", about))
    if columns:
        parts.append(tables.side_by_side(columns))
    if versions:
        parts += [element("h3", "Versions"), tables.side_by_side(versions)]
    return parts


def _terms() -> list[Html]:
    items = (element("li", one) for one in _ABOUT)
    return [element("h2", "Terms"), element("ul", *items)]


def _present(one: _Section) -> list[tuple[str, EvaluatedSet]]:
    """Returns the runs that have stored the set, with it."""
    return [(run.name, entry) for run, entry in zip(one.runs, one.entries) if entry]
