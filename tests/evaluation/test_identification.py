"""Searches in galleries against plain loops; sets of labelled faces."""

import numpy as np
import pytest

from data_pipelines import DataError
from fr_jax.errors import UserError
from fr_jax.evaluation import results as results_module
from fr_jax.evaluation import sets
from fr_jax.evaluation import stored as stored_files
from fr_jax.evaluation.embeddings import Columns, StoredEmbeddings
from fr_jax.evaluation.evaluator import Trained
from fr_jax.report import comparison
from fr_jax.report.runs import Run
from tests.support import ijb as support


@pytest.fixture(scope="module")
def stored():
    """Eight identities with three faces each and one without an identity."""
    rng = np.random.default_rng(0)
    owners = np.repeat([f"p{n}" for n in range(8)], 3).tolist() + [""]
    rows = rng.normal(size=(9, 6))[np.repeat(np.arange(9), 3)[:25]]
    rows += 0.9 * rng.normal(size=rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"{owner or 'x'}/{number % 3}.jpg" for number, owner in enumerate(owners)]
    order = rng.permutation(25)
    columns = Columns(
        np.array(names)[order],
        np.array(owners)[order],
        rows[order].astype(np.float32),
        rng.uniform(5, 30, 25).astype(np.float32),
        {"flip": True},
    )
    return StoredEmbeddings(columns, "faces.npz")


def trained(stored) -> Trained:
    return Trained(stored.embed_raw, {})


def plain(stored, gallery: set, probes: set):
    """Ranks of mated and best scores of non-mated searches, face by face."""
    _, owners, rows, _, _ = stored.columns
    ranks, scores, best = [], [], []
    for probe in probes:
        by_owner: dict = {}
        for entry in gallery:
            score = float(rows[probe] @ rows[entry])
            by_owner[owners[entry]] = max(score, by_owner.get(owners[entry], -2))
        mate = by_owner.pop(owners[probe], None)
        if mate is None:
            best.append(max(by_owner.values()))
        else:
            ranks.append(1 + sum(one >= mate for one in by_owner.values()))
            scores.append(mate)
    return ranks, scores, best


@pytest.mark.parametrize("enrolled", [1, 2])
@pytest.mark.parametrize("galleries", [1, 2])
def test_rates_are_those_of_plain_searches(stored, enrolled, galleries):
    options = f"gallery={enrolled},galleries={galleries}"
    text = f"mine=faces.npz,protocol=identification,{options}"
    evaluator = sets.parse(text, stored=stored)
    results = evaluator(trained(stored))
    names, owners = stored.columns.names, stored.columns.identities
    labelled = np.flatnonzero(owners != "")
    first = {row for row in labelled if int(names[row][3]) < enrolled}
    probes = set(labelled) - first
    rates = []
    for name, (gallery, searched) in evaluator.galleries.items():
        rows = {int(evaluator.faces.images[n]) for n in gallery}
        assert rows <= first
        assert {int(evaluator.faces.images[n]) for n in searched} == probes
        ranks, scores, best = plain(stored, rows, probes)
        rate = {f"rank{k}": np.mean(np.array(ranks) <= k) for k in (1, 5)}
        for fpir in ("1e-1", "1e-2"):
            if best:
                allowed = int(float(fpir) * len(best) + 1e-9)
                limit = sorted(best, reverse=True)[allowed]
                hits = [r == 1 and s > limit for r, s in zip(ranks, scores)]
                rate[f"tpir@fpir={fpir}"] = np.mean(hits)
        rates.append(rate)
        cmc = evaluator.cmc[name]
        expected = [np.mean(np.array(ranks) <= k + 1) for k in range(len(cmc))]
        np.testing.assert_array_equal(cmc, expected)
        if galleries == 2:
            assert results[f"mine/rank1:{name}"] == rate["rank1"]
    sizes = [len(gallery) for gallery, _ in evaluator.galleries.values()]
    assert sizes == [8 * enrolled // galleries] * galleries
    for name in rates[0]:
        assert results[f"mine/{name}"] == pytest.approx(
            np.mean([rate[name] for rate in rates]), abs=1e-15
        )
    assert results["mine/mated_searches"] == len(probes)
    values, _ = evaluator.intervals(30)
    assert values["mine/rank1_low"] <= results["mine/rank1"]
    bounded = {f"{name}_low" for name in rates[0]}
    if galleries == 2:
        bounded |= {f"{name}_low:G2" for name in rates[0]} | {"rank1_std_low"}
    assert {f"mine/{name}" for name in bounded} <= values.keys()
    assert values["mine/resampled_identities"] == 8
    if galleries == 1:
        assert "mine/tpir@fpir=1e-1" not in results
        assert "no non-mated" in evaluator.notes["mine/tpir@fpir=1e-1"]
    else:
        assert results["mine/nonmated_searches"] == len(probes)
        parts = [results[f"mine/nonmated_searches:{name}"] for name in ("G1", "G2")]
        assert sum(parts) == len(probes)
        assert set(results) == set(evaluator.metric_names)
        assert list(evaluator.stored_set().curves) == ["CMC G1", "CMC G2"]


def test_both_galleries_of_a_release_are_searched(tmp_path):
    release = support.write(tmp_path / "IJBC")
    embedded = support.stored(release)
    text = f"ijbc={release.folder},protocol=identification"
    evaluator = sets.parse(text, stored=embedded)
    results = evaluator(trained(embedded))
    assert results["ijbc/mated_searches"] == 12
    assert results["ijbc/nonmated_searches"] == 12
    assert results["ijbc/gallery_identities"] == 6
    both = [results[f"ijbc/rank1:{name}"] for name in ("G1", "G2")]
    assert results["ijbc/rank1"] == np.mean(both)
    assert results["ijbc/rank1"] > 0.5


def test_a_table_of_templates_is_a_gallery_per_split(stored, tmp_path):
    lines = ["split,part,template,identity,file"]
    for split in ("a", "b"):
        for n in range(8):
            lines.append(f"{split},gallery,g{n},p{n},p{n}/0.jpg")
            lines += [f"{split},probe,q{n},p{n},p{n}/{k}.jpg" for k in (1, 2)]
    path = tmp_path / "splits.csv"
    path.write_text("\n".join(lines))
    text = f"mine={path},protocol=identification"
    evaluator = sets.parse(text, stored=stored)
    results = evaluator(trained(stored))
    rows = dict(zip(stored.columns.names.tolist(), stored.columns.embeddings))
    gallery = np.array([rows[f"p{n}/0.jpg"] for n in range(8)])
    probes = np.array([rows[f"p{n}/1.jpg"] + rows[f"p{n}/2.jpg"] for n in range(8)])
    hits = (probes @ gallery.T).argmax(axis=1) == np.arange(8)
    assert results["mine/rank1:a"] == results["mine/rank1"] == np.mean(hits)
    assert results["mine/rank1_std"] == 0


def test_labels_from_a_table_or_a_folder_find_stored_embeddings(stored, tmp_path):
    lines = ["file,identity"] + [f"p{n}/{k}.png,p{n}" for n in range(4) for k in (0, 1)]
    (tmp_path / "some.csv").write_text("\n".join(lines))
    for n in range(4):
        (tmp_path / f"faces/p{n}").mkdir(parents=True)
        for k in (0, 1):
            (tmp_path / f"faces/p{n}/{k}.jpg").write_bytes(b"")
    values = []
    for source in ("some.csv", "faces"):
        text = f"mine={tmp_path / source},protocol=identification"
        evaluator = sets.parse(text, stored=stored)
        values.append(evaluator(trained(stored)))
    assert values[0] == values[1]
    assert values[0]["mine/mated_searches"] == 4
    (tmp_path / "some.csv").write_text("\n".join([*lines, "z/1.jpg,z"]))
    for protocol in ("identification", "clustering"):
        text = f"mine={tmp_path}/some.csv,protocol={protocol},missing=drop"
        evaluator = sets.parse(text, stored=stored)
        results = evaluator(trained(stored))
        assert results["mine/dropped_images"] == 1
        assert results.keys() | evaluator.notes.keys() == set(evaluator.metric_names)
    (tmp_path / "some.csv").write_text("file,identity\nz/1.jpg,z\n")
    for option in ("", ",missing=drop"):
        text = f"mine={tmp_path}/some.csv,protocol=clustering{option}"
        with pytest.raises(UserError, match="1 of 1 images of the set have no embed"):
            sets.parse(text, stored=stored)


def test_undefined_rates_of_a_gallery_are_noted(stored):
    text = "mine=faces.npz,protocol=identification,galleries=2"
    evaluator = sets.parse(text, stored=stored)
    gallery, probes = evaluator.galleries["G2"]
    mated = probes[np.isin(evaluator.identity[probes], evaluator.identity[gallery])]
    evaluator.galleries["G2"] = evaluator.galleries["G2"]._replace(probes=mated)
    results = evaluator(trained(stored))
    assert "mine/tpir@fpir=1e-1:G1" in results
    assert evaluator.notes["mine/tpir@fpir=1e-1:G2"] == "no non-mated searches"
    assert evaluator.notes["mine/tpir@fpir=1e-1"] == "G2: no non-mated searches"


@pytest.mark.parametrize("protocol", ["identification,galleries=2", "clustering"])
def test_two_embedders_are_compared_on_the_same_draws(stored, tmp_path, protocol):
    rng = np.random.default_rng(5)
    rows = stored.columns.embeddings + rng.normal(0, 0.3, (25, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns = stored.columns._replace(embeddings=rows.astype(np.float32))
    runs, evaluators = [], []
    for name, one in (("a", stored), ("b", StoredEmbeddings(columns, "faces.npz"))):
        evaluator = sets.parse(f"mine=faces.npz,protocol={protocol}", stored=one)
        results = evaluator(trained(one))
        run = Run(name, results, {}, {}, {}, (evaluator.stored_set(),))
        results_module.write(tmp_path / name / "results.json", results)
        stored_files.save(tmp_path / name, run)
        runs.append(stored_files.load(tmp_path / name))
        evaluators.append(evaluator)
    compared = comparison.compare(runs, "mine", resamples=25)
    assert not compared.reasons
    assert compared.resampled == "25 resamples of 8 identities"
    differences = compared.whole[1]
    key = "bcubed_f:best" if protocol == "clustering" else "rank1:G2"
    values = [run.results[f"mine/{key}"] for run in runs]
    assert differences[key].difference == values[1] - values[0]
    assert differences[key].low <= differences[key].difference <= differences[key].high
    bounds = [one.intervals(25)[0] for one in evaluators]
    assert bounds[0]["mine/resampled_identities"] == 8
    same = comparison.compare([runs[0], runs[0]._replace(name="c")], "mine")
    assert set(same.whole[1].values()) == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("faces.npz,gallery=3", "no identity has more than 3 images"),
        ("faces.npz,gallery=0", "gallery=0: use a whole number 1 to 1,000"),
        ("faces.npz,galleries=3", "galleries=3: use a whole number 1 to 2"),
        ("faces.npz,search=hnsw", "search=hnsw: use exact or faiss"),
        ("faces.npz,threshold=1", "unknown option 'threshold' of mine"),
        ("faces.npz,root=x", "root= is of no use for a file of embeddings"),
        ("other.npz", "is a set of its own faces only; give --embeddings other.npz"),
        ("{}/none", "no such set of labelled faces"),
        ("{}", "0 images, none in a folder of its identity"),
        ("{}/twice.csv", "1 files are named more than once"),
        ("{}/empty.csv", "line 2: an empty cell"),
        ("{}/columns.csv", "no column 'identity'"),
    ],
)
def test_invalid_sets_are_refused(stored, tmp_path, text, match):
    (tmp_path / "twice.csv").write_text("file,identity\na,b\na,c\n")
    (tmp_path / "empty.csv").write_text("file,identity\na,\n")
    (tmp_path / "columns.csv").write_text("file,person\na,b\n")
    path, comma, options = text.format(tmp_path).partition(",")
    with pytest.raises((UserError, DataError), match=match):
        sets.parse(
            f"mine={path},protocol=identification{comma}{options}", stored=stored
        )
