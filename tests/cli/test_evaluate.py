"""`fr-jax evaluate` of embedders; generators are evaluated in tests/systems/dr_gan."""

import json
import pickle
import shutil

import pytest

import fr_jax
from data_pipelines import digests, images
from data_pipelines.builders import faces as builder
from data_pipelines.readers.image_folder import ImageFolder
from fr_jax.evaluation import stored
from fr_jax.metrics import verification
from tests.support.commands import call
from tests.support.faces import encoded, picture


def test_results_and_figures_are_written(command, embedder, verification_bin, tmp_path):
    to = tmp_path / "to"
    words = ("--set", f"toy={verification_bin}", "--to", to)
    code, out, error = command("evaluate", "--embedder", embedder, *words)
    assert code == 0, error
    results = json.loads((to / "results.json").read_text())
    assert 0 <= results["toy/accuracy"] <= 1
    assert "toy/tar@far=1e-3:insightface" in results
    for name in ("roc", "cosines"):
        assert (to / f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{100 * results['toy/accuracy']:.2f}" in out
    assert f"figure: {to}/figures/roc.png" in out
    assert 0 <= results["toy/accuracy_low"] <= results["toy/accuracy_high"] <= 1
    assert "<html" in (to / "report.html").read_text()
    one = stored.load(to).sets[0]
    assert one.scores.hardest.images.shape[1:] == (2, 96, 96, 3)
    code, out, error = command(
        "evaluate", "--embedder", embedder, *words, "--no-images"
    )
    assert code == 0, error
    assert stored.load(to).sets[0].scores.hardest is None
    assert "data:image/jpeg" not in (to / "report.html").read_text()


def test_a_calibrated_threshold_is_stored_and_followed(
    command, embedder, identities, verification_bin, tmp_path
):
    """`compare` decides by it, `info` shows it, and an export carries it."""
    net = tmp_path / "net"
    shutil.copytree(embedder, net)
    faces = (identities / "p0/0.jpg", identities / "p0/1.jpg")
    for protocol, flip in (("insightface", True), ("magface", False)):
        words = ("--set", f"own={verification_bin},protocol={protocol}")
        words = (*words, "--calibrate", "0.1", "--to", tmp_path / "to")
        code, out, error = command("evaluate", "--embedder", net, *words)
        assert code == 0, error
        scores = stored.load(tmp_path / "to").sets[0].scores
        at = verification.counts_at_far(scores.values, scores.same, 0.1)
        found = fr_jax.load_embedder(net).calibration
        assert (found.threshold, found.flip_sum) == (at.threshold, flip)
        assert found.low <= found.threshold <= found.high
        assert (found.tar, found.impostors_accepted) == (at.tar, at.impostors_accepted)
        assert f"calibrated: threshold {at.threshold:.4f}" in out
        one, other = fr_jax.load_embedder(net).embed(faces, flip=flip)
        _, out, _ = command("compare", *faces, "--embedder", net)
        assert f"cosine {one @ other:.4f}" in out
        assert f"(threshold {at.threshold:.4f}" in out
        assert ("flip-summed" in out) == flip
        _, out, _ = command("info", net)
        assert f"threshold {at.threshold:.4f}" in out
    network = fr_jax.load_embedder(net)
    network.save(tmp_path / "copy")
    assert fr_jax.load_embedder(tmp_path / "copy").calibration == network.calibration
    # Another embedder in its folder has no threshold.
    fr_jax.load_embedder(embedder).save(net)
    assert not (net / "calibration.json").exists()


def test_several_sets_and_protocols_are_evaluated_together(
    command, embedder, verification_bin, tmp_path
):
    sets = [f"a={verification_bin},protocol={p}" for p in ("paper",)]
    sets += [f"b={verification_bin},protocol=kfold", f"c={verification_bin}"]
    flags = [word for text in sets for word in ("--set", text)]
    code, _, error = command(
        "evaluate", "--embedder", embedder, *flags, "--to", tmp_path
    )
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    names = {"a/accuracy:paper", "b/accuracy:kfold", "c/accuracy", "c/auc"}
    assert names <= results.keys()


def test_sets_with_training_identities_are_marked_as_seen(
    command, embedder, verification_bin, tmp_path
):
    """The set has the name of a data set in the embedder's provenance."""
    shutil.copytree(embedder, tmp_path / "net")
    path = tmp_path / "net/embedder.json"
    description = json.loads(path.read_text())
    description["provenance"]["identities"] = {"cfp": []}
    path.write_text(json.dumps(description))
    words = ("--set", f"cfp_fp={verification_bin}", "--to", tmp_path)
    code, _, error = command("evaluate", "--embedder", tmp_path / "net", *words)
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    assert "cfp_fp_seen/accuracy" in results
    assert "cfp_fp/accuracy" not in results


def test_records_are_a_set_whose_trained_identities_are_seen(
    command, embedder, identities, tmp_path
):
    built, _ = builder.build(ImageFolder(identities), tmp_path / "records", "mine")
    shutil.copytree(embedder, tmp_path / "net")
    path = tmp_path / "net/embedder.json"
    description = json.loads(path.read_text())
    description["provenance"]["identities"] = {"mine": ["p0", "p1"]}
    path.write_text(json.dumps(description))
    words = [f"new={built},identities=p2:p5", f"old={built},identities=p0:p3"]
    flags = [word for text in words for word in ("--set", text)]
    code, out, error = command(
        "evaluate", "--embedder", tmp_path / "net", *flags, "--to", tmp_path / "to"
    )
    assert code == 0, error
    assert "new: 24 pairs of 12 images, 4 identities" in out
    results = json.loads((tmp_path / "to/results.json").read_text())
    assert {"new/accuracy", "new/auc", "old_seen/accuracy"} <= results.keys()
    assert "new/stratified_folds" not in results


@pytest.fixture
def other(embedder, tmp_path):
    """A copy of the embedder in the folder of another run."""
    shutil.copytree(embedder, tmp_path / "other/embedder")
    return tmp_path / "other/embedder"


def test_several_embedders_are_compared(
    command, embedder, other, verification_bin, tmp_path
):
    words = ("--set", f"toy={verification_bin}", "--to", tmp_path / "to")
    both = ("--embedder", embedder, "--embedder", other, "--resamples", "20")
    code, out, error = command("evaluate", *both, *words)
    assert code == 0, error
    # Equal embedders.
    assert "toy: other less net: Accuracy +0.00 pp [+0.00, +0.00], AUC" in out
    assert "(20 resamples of 40 pairs)" in out
    report = (tmp_path / "to/report.html").read_text()
    assert "net" in report and "other" in report and "data:image/jpeg" in report
    assert (tmp_path / "to/net/results.json").exists()
    assert (tmp_path / "to/other/results.json").exists()
    assert (tmp_path / "to/figures/roc.png").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--embedder {e} --set lfw.bin", "expected NAME=PATH"),
        ("--embedder {e} --set lfw=nowhere.bin", "no such file"),
        ("--embedder {e} --set lfw=x.bin,protocl=paper", "did you mean 'protocol'"),
        ("--embedder {e}", "give a verification set: --set NAME=PATH"),
        ("--embedder {e} --set a={s} --set a={s}", "two sets have one name, in a, a"),
        ("--embedder {e} --embedder {e} --set a={s}", "two embedders have one name"),
        ("--embedder {t} --set a={s}", "no embedder here"),
        ("--set a={s}", "give either --embedder or --generator or --augmenter"),
        ("--embedder {e} --generator {e} --set a={s}", "either --embedder or"),
        ("--embedder {e} --set a={s} --calibrate 2", "--calibrate is 2; use a rate"),
        ("--embedder {e} --set a={s} --set b={s} --calibrate 0.1", "pairs of one set"),
        ("--embedder {w} --set a={s} --calibrate 0.1", "is a weight file: fr-jax imp"),
        ("--embedder {e} --set a={s} --calibrate 0.01", "needs at least 100, better"),
        ("--generator {e} --calibrate 0.1", "--calibrate needs --embedder"),
        ("--embedder {e} --set a={s},far=0.1+x", "'x' is no rate between 0 and 1"),
        ("--embedder {e} --set a={s},identities=no.txt", "no.txt: no such file"),
        (
            "--embedder {e} --set a={s} --pose-identities 1:2",
            "--pose-identities needs --generator",
        ),
        (
            "--embedder {e} --set a={s} --recogniser {e}",
            "--recogniser needs --generator",
        ),
        ("--generator {e}", "give a generator, such as WORKDIR"),
    ],
    ids=lambda value: "" if "{" in value else value,  # the messages
)
def test_invalid_arguments_are_refused(
    mistake, embedder, weight_file, verification_bin, tmp_path, words, match
):
    places = {"e": embedder, "s": verification_bin, "t": tmp_path, "w": weight_file}
    words = words.format(**places).split()
    mistake(match, "evaluate", *words, "--to", tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.fixture(scope="module")
def identities_list(identities, tmp_path_factory):
    """Four genuine and four impostor pairs of `identities`, named as .png."""
    path = tmp_path_factory.mktemp("list") / "pairs, all.txt"
    genuine = [f"p{n}/0.png p{n}/1.png 1" for n in range(4)]
    impostor = [f"p{n}/0.png p{n + 1}/2.png 0" for n in range(4)]
    path.write_text("\n".join(genuine + impostor))
    return path


def test_missing_images_are_an_error_or_dropped(
    command, mistake, embedder, identities, identities_list, tmp_path
):
    shutil.copytree(identities, tmp_path / "faces")
    (tmp_path / "faces/p4/2.jpg").unlink()
    some = f"few={identities_list},root={tmp_path}/faces"
    words = ("evaluate", "--embedder", embedder, "--to", tmp_path / "to", "--set")
    match = "1 of 12 images, in 1 of 8 pairs, are not below"
    mistake(match, *words, some)
    assert not (tmp_path / "to").exists()
    code, out, error = command(*words, f"{some},missing=drop")
    assert code == 0, error
    assert "few: 11 of 12 images have another suffix than in the list" in error
    assert f"few: dropped the pairs of missing images: {match}" in error
    assert "3 stratified folds, 1 pairs dropped" in " ".join(out.split())
    results = json.loads((tmp_path / "to/results.json").read_text())
    assert results["few/dropped_pairs"] == 1
    assert results["few/stratified_folds:kfold"] == 3
    assert 0 <= results["few/accuracy:kfold"] <= 1


@pytest.mark.parametrize(
    "labels", [[True, False, True, False, True], [True, True, False]]
)
def test_a_set_of_few_pairs_has_finite_results(command, embedder, tmp_path, labels):
    faces = [encoded(image=picture(112, 112, n)) for n in range(2 * len(labels))]
    (tmp_path / "few.bin").write_bytes(pickle.dumps((faces, labels)))
    words = ("evaluate", "--embedder", embedder, "--to", tmp_path / "to")
    code, out, error = command(*words, "--set", f"few={tmp_path}/few.bin")
    assert code == 0, error
    text = (tmp_path / "to/results.json").read_text()
    results = json.loads(text)
    assert "few/auc" in results
    lacking = labels.count(False) < 2
    assert ("few/accuracy" in results) != lacking
    reason = "1 impostor pair; folds need 2 of each kind"
    assert (results.get("notes", {}).get("few/accuracy") == reason) == lacking
    assert (reason in out) == lacking

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


def test_images_that_are_no_aligned_faces_need_a_flag(
    command, mistake, embedder, tmp_path
):
    faces = [encoded(image=picture(128, 128, n // 2)) for n in range(8)]
    (tmp_path / "crops.bin").write_bytes(pickle.dumps((faces, [True, False] * 2)))
    words = ("--embedder", embedder, "--set", f"crops={tmp_path}/crops.bin")
    words = ("evaluate", *words, "--to", tmp_path / "to")
    match = "8 of 8 images are no aligned faces, such as {}/crops.bin: image 0: 128x128"
    mistake(match.format(tmp_path), *words)
    assert not (tmp_path / "to").exists()
    code, _, error = command(*words, "--unaligned")
    assert code == 0, error
    words = ("--generator", "g", "--unaligned", "--to", tmp_path)
    mistake("--unaligned needs --embedder", "evaluate", *words)


@pytest.mark.parametrize("trained_on_one", [True, False])
def test_a_set_is_seen_by_its_images_and_not_by_its_numbers(
    command, embedder, identities, identities_list, tmp_path, trained_on_one
):
    """The identities of another training set have the same numbers."""
    paths = [identities / "p0/1.jpg"] if trained_on_one else [identities / "p5/1.jpg"]
    network = fr_jax.load_embedder(embedder)
    network.provenance["identities"] = {"other": ["p0", "p1", "p2"]}
    network.digests = digests.of_images(images.decode(p.read_bytes()) for p in paths)
    network.save(tmp_path / "net")
    words = ("--set", f"few={identities_list},root={identities}", "--to", tmp_path)
    code, out, error = command("evaluate", "--embedder", tmp_path / "net", *words)
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    name = "few_seen" if trained_on_one else "few"
    assert f"{name}/accuracy:kfold" in results
    unknown = "cannot tell whether identities of few were trained on"
    assert (unknown in out) != trained_on_one


@pytest.fixture(scope="module")
def stored_faces(embedder, identities, tmp_path_factory):
    """The embeddings of `identities`, summed with those of mirror images."""
    path = tmp_path_factory.mktemp("stored") / "faces.npz"
    words = ("--embedder", str(embedder), "--to", str(path), "--flip")
    assert call("embed", str(identities), *words) == 0
    return path


def test_stored_embeddings_give_the_results_of_their_embedder(
    command, embedder, identities, identities_list, stored_faces, tmp_path
):
    folder = f"{identities},protocol"
    flags = [
        f"pairs={identities_list},root={identities},protocol=insightface",
        f"search={folder}=identification,galleries=2",
        f"clusters={folder}=clustering,threshold=0.5",
    ]
    words = [word for text in flags for word in ("--set", text)]
    results = []
    for number, source in enumerate(
        (("--embedder", embedder), ("--embeddings", stored_faces))
    ):
        to = tmp_path / str(number)
        code, out, error = command("evaluate", *source, *words, "--to", to)
        assert code == 0, error
        results.append(json.loads((to / "results.json").read_text()))
        assert "search: 18 images, gallery G1: 3 rows, 12 probes" in out
        assert "rank-1" in out
        assert "BCubed F" in out
        assert (to / "report.html").exists()
    assert results[0].pop("notes", {}).keys() == results[1].pop("notes", {}).keys()
    for end in ("", "_low", "_high"):
        del results[0][f"pairs/xnorm{end}"]  # sums have no length of their own
    assert results[1] == pytest.approx(results[0], abs=1e-5)
    assert "search/rank1_low" in results[0]
    assert "clusters/bcubed_f_low" in results[0]


@pytest.mark.long
def test_stored_embeddings_of_a_bin(command, mistake, embedder, tmp_path):
    faces = [encoded(image=picture(112, 112, n // 2)) for n in range(16)]
    (tmp_path / "few.bin").write_bytes(pickle.dumps((faces, [True, False] * 4)))
    file = tmp_path / "few.parquet"
    pytest.importorskip("pyarrow")
    words = ("--embedder", embedder, "--to", file)
    code, _, error = command("embed", tmp_path / "few.bin", *words)
    assert code == 0, error
    words = ("evaluate", "--embeddings", file, "--to", tmp_path / "to", "--set")
    text = f"few={tmp_path}/few.bin"
    mistake("few.parquet was made without --flip", *words, text)
    code, _, error = command(*words, f"{text},protocol=kfold")
    assert code == 0, error
    mistake("8 of 8 images have no embedding", *words, f"few={other_bin(tmp_path)}")
    mistake("--calibrate stores a threshold with an", *words, text, "--calibrate", 0.1)


def other_bin(folder):
    faces = [encoded(image=picture(112, 112, n)) for n in range(8)]
    path = folder / "other.bin"
    path.write_bytes(pickle.dumps((faces, [True, False] * 2)))
    return path
