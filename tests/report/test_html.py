"""A report as a file: complete, escaped, reproducible, whole in a real browser."""

import contextlib
import io
import shutil
from html import parser as html_parser

import numpy as np
import pytest
from matplotlib.figure import Figure

from fr_jax.errors import UserError
from fr_jax.report import html, markup, measures, vector
from fr_jax.report.runs import Curve, EvaluatedSet, Scores
from tests.support import evaluations

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
GALLERIES = {
    "nonmated_searches": 200,
    "nonmated_searches:a b": 60,
    "nonmated_searches:G2": 140,
}
CMC = Curve(np.arange(1.0, 6), np.linspace(0.5, 0.9, 5), "rank", "hit rate")
NAMES = ("published", "a_rather_long-name/of.a.run_with_many_words_in_it_and_no_space")


def runs():
    """Two runs: an unseen set, one that the second has seen, one of ranks."""
    seen = {"seen": "450 identities", "seen_folds": tuple(range(9))}
    ranks = EvaluatedSet("ranks", "", {"gallery": "one image"}, None, {"CMC": CMC})
    first = (
        evaluations.evaluated_set("faces", unknown=True),
        evaluations.evaluated_set("sides", noise=2.0),
        ranks,
    )
    second = (
        evaluations.evaluated_set("faces", seed=2),
        evaluations.evaluated_set("sides", seed=2, noise=2.0, **seen),
        ranks,
    )
    notes = {"faces/tpir@fpir=1e-3": "12 non-mated searches"}
    return [
        evaluations.run(NAMES[0], *first, notes=notes),
        evaluations.run(NAMES[1], *second),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    html.write(runs(), path, resamples=10)
    return path


class Parsed(html_parser.HTMLParser):
    """Texts, and elements with their attributes; checks that all are closed."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(path.read_text())
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "wbr"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


def test_report_has_every_number_choice_and_note(report):
    parsed = Parsed(report)
    text = parsed.text
    for run in runs():
        for key, value in run.results.items():
            metric = key.partition("/")[2]
            if "std" in metric or "low" in metric or "high" in metric:
                continue
            assert measures.number(metric, value) in text, key
        for one in run.sets:
            for name, value in one.protocol.items():
                shown = "yes" if value is True else str(value)
                assert f"{name.replace('_', ' ')}{shown}" in text
            assert one.name in text
        for part in ("45ef", "iresnet18", "450 identities; folds 1 to 9"):
            assert part in text
    assert "12 non-mated searches" in text
    assert "Held out: fold 10 (of 10)" in text
    assert "whether published was trained on its identities" in text
    assert text.count("No paired difference") == 2  # of sides, and of ranks
    kinds = [tag for tag, _ in parsed.elements]
    assert kinds.count("img") == 2 * (2 + 2) + 1 + 2 * 2 * 4  # curves, CMC, pairs
    descriptions = [values["alt"] for tag, values in parsed.elements if tag == "img"]
    assert all(descriptions)
    assert sum("impostor pair" in one for one in descriptions) == 8


def test_the_same_evaluation_makes_the_same_file(tmp_path):
    one = evaluations.run()
    for name in ("one.html", "other.html"):
        html.write([one], tmp_path / name)
    text = (tmp_path / "one.html").read_text()
    assert "image/jpeg" in text and "Hardest" in text
    assert (tmp_path / "other.html").read_text() == text


def test_faces_are_left_out_on_request(tmp_path):
    html.write([evaluations.run()], tmp_path / "bare.html", images=False)
    text = (tmp_path / "bare.html").read_text()
    assert "image/jpeg" not in text and "Hardest" not in text


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=http://example.org onerror=alert(1)>',
    "&lt;b&gt; ' \" `",
    "$\\frac{1}{0}$ _{",
    "right\u202eleft\x00\x1b[31m\ud800",
)


def test_foreign_texts_are_texts(tmp_path):
    """Names of runs, sets, metrics, switches, curves and reasons."""
    name = " ".join(HOSTILE)
    scores = evaluations.evaluated_set(num_pairs=20).scores
    curve = CMC._replace(x_label=name, y_label=name)
    one = EvaluatedSet(
        name, name, {name: {name: [name]}}, scores, {name: curve}, seen=name
    )
    run = evaluations.run()._replace(
        name=name,
        sets=(one,),
        results={f"{name}/{name}": 0.5, name: 1.0},
        notes={f"{name}/tar": name},
        embedder={"provenance": {name: name}},
        versions={name: name},
    )
    path = tmp_path / "report.html"
    html.write([run, run._replace(name="other")], path, title=name, resamples=2)
    parsed = Parsed(path)
    assert {tag for tag, _ in parsed.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3"),
        *("p", "strong", "nav", "a", "div", "table", "thead", "tbody", "tr", "th"),
        *("td", "span", "br", "wbr", "section", "figure", "figcaption", "img", "svg"),
        *("line", "ul", "li", "footer"),
    }
    for _, values in parsed.elements:
        assert not [one for one in values if one.startswith("on")]
        assert values.get("src", "data:").startswith("data:")
        assert values.get("href", "#").startswith("#")
    expected = markup.text(name)
    assert path.read_text().count(expected) > 10
    assert all(one.isprintable() or one == "\n" for one in path.read_text())


def test_two_runs_of_one_name_and_none_are_refused(tmp_path):
    for wrong in ([], [evaluations.run(), evaluations.run()]):
        with pytest.raises(UserError, match="different names"):
            html.write(wrong, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [True, False])
def test_sets_with_one_kind_of_pairs_have_no_curves(kind, tmp_path):
    scores = Scores(np.array([0.5, 0.5]), np.array([kind, kind]))
    one = EvaluatedSet("one_kind", "", {"protocol": "pooled"}, scores)
    run = evaluations.run()._replace(
        sets=(one,), results={}, notes={"one_kind/eer": "x"}
    )
    html.write([run], tmp_path / "report.html")
    text = Parsed(tmp_path / "report.html").text
    assert "Undefined for first: x (EER)" in text
    assert "ROC" not in text.rpartition("Terms")[0]


@pytest.mark.parametrize("pairs", [1, 2, 5, 100])
def test_axes_of_a_small_separated_set_run_upwards(pairs, monkeypatch):
    drawn = []

    @contextlib.contextmanager
    def figure(height=0.0):
        drawn.append(Figure().subplots())
        yield drawn[-1], io.BytesIO()

    monkeypatch.setattr(vector, "_figure", figure)
    same = np.repeat([True, False], pairs)
    vector.det([Scores(np.where(same, 0.9, 0.1), same)])
    low, high = drawn[0].get_xlim()
    assert low < high
    assert drawn[0].get_ylim() == (low, high)


@pytest.mark.parametrize(
    ("metric", "counts", "few"),
    [
        ("tar@far=1e-2", {"impostor_pairs": 999}, True),
        ("tar@far=1e-2:kfold", {"impostor_pairs": 1000}, False),
        ("tar@far=.01", {"impostor_pairs": 999}, True),
        ("tar@far=.01", {"nonmated_searches": 9}, False),
        ("tpir@fpir=1e-1", {"nonmated_searches": 99}, True),
        ("tpir@fpir=1e-1", {"nonmated_searches": 100, "impostor_pairs": 1}, False),
        ("tpir@fpir=1e-1", GALLERIES, True),
        ("tpir@fpir=1e-1:a b", GALLERIES, True),
        ("tpir@fpir=1e-1:G2", GALLERIES, False),
        ("rank1", {"nonmated_searches": 1}, False),
        ("tar@far=1e-2", {}, False),
    ],
)
def test_rates_of_too_few_pairs_or_searches_are_marked(metric, counts, few):
    results = {f"x/{name}": float(count) for name, count in counts.items()}
    assert measures.is_few(metric, results, "x/") == few


def test_thinned_curves_keep_their_ends_and_a_point_in_every_part():
    position = np.sort(np.random.default_rng(0).normal(size=20_000))
    kept = vector._thinned(position)
    assert len(kept) <= 503 and kept[0] == 0 and kept[-1] == len(position) - 1
    gaps = np.diff(position[kept]) / np.ptp(position)
    widest = np.max(np.diff(position)) / np.ptp(position)
    assert gaps.max() < 2 / 500 + widest


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy:kfold", 0.98834, "98.83 %"),
        ("tar@far=1e-3", 1.0, "100.00 %"),
        ("impostor_pairs", 3000.0, "3,000"),
        ("auc", 0.999512, "0.99951"),
        ("min_dcf", 0.0000123, "0.00001"),
        ("nmi", 0.0000123, "1.23e-05"),
        ("xnorm", 21.456, "21.46"),
    ],
)
def test_values_have_the_unit_of_their_metric(metric, value, text):
    assert measures.number(metric, value) == text


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("tar@far=1e-3:insightface", "TAR at FAR 1e-3 (insightface)"),
        ("rank1:G1", "Rank 1 (G1)"),
        ("bcubed_f", "BCubed f"),
        ("num_clusters", "Num clusters"),
    ],
)
def test_metrics_have_titles(metric, title):
    assert measures.title(metric) == title


def test_deviations_and_bounds_are_no_rows_of_their_own():
    ends = ("", "_std", "_std_low", "_std_high", "_low", "_high")
    keys = [f"a/accuracy{end}:kfold" for end in ends] + ["a/xnorm", "a_heldout/auc"]
    run = evaluations.run()._replace(results=dict.fromkeys(keys, 0.5))
    assert measures.metrics([run], "a") == ["accuracy:kfold", "xnorm"]
    assert measures.metrics([run], "a", held_out=True) == ["auc"]


FACTS = """() => {
  const box = e => e.getBoundingClientRect();
  const inside = e => !e.closest(".scroll");
  const all = [...document.body.querySelectorAll("*")];
  const scrolls = [...document.querySelectorAll(".scroll")];
  const size = e => parseFloat(getComputedStyle(e).fontSize);
  return {
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    wide: all.filter(e => inside(e) && box(e).right > innerWidth + 0.5)
      .map(e => e.outerHTML.slice(0, 80)),
    page: document.documentElement.scrollWidth - innerWidth,
    reach: scrolls.map(e => { e.scrollLeft = 1e6;
      return box(e.querySelector("table")).right - box(e).right; }),
    clipped: [...document.querySelectorAll("td, th")].filter(
      e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent),
    small: all.filter(e => e.children.length == 0 && e.textContent.trim()
      && size(e) < 12).map(e => e.textContent),
    background: getComputedStyle(document.body).backgroundColor,
    anchors: [...document.querySelectorAll("a")].filter(
      a => !document.getElementById(a.hash.slice(1))).map(a => a.hash),
  };
}"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_report_is_whole_in_a_browser(report):
    """At desktop and phone width: pictures load, nothing is cut, nothing is fetched."""
    from playwright.sync_api import sync_playwright

    foreign, messages, own = [], [], ("data:", report.as_uri())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=FLAGS,
        )
        page = browser.new_page()
        page.on("request", lambda request: foreign.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        for width in (1280, 360, 320):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(report.as_uri())
            facts = page.evaluate(FACTS)
            assert facts["broken"] == 0
            assert not facts["wide"], width
            assert facts["page"] <= 0, width
            assert max(facts["reach"]) <= 1, width
            assert not facts["clipped"], width
            assert not facts["small"]
            assert not facts["anchors"]
            assert facts["background"] == "rgb(255, 255, 255)"
        fetched = [url for url in foreign if not url.startswith(own)]
        # Nor could it: its own policy forbids to fetch anything.
        page.evaluate("() => { new Image().src = 'http://127.0.0.1:9/x.png' }")
        page.wait_for_timeout(100)
        browser.close()
    assert not fetched
    assert [text for text in messages if "Content Security Policy" in text]
