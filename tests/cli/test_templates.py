"""`fr-jax templates`: results over splits, and invalid tables."""

import json

import pytest

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables

pytestmark = pytest.mark.usefixtures("quick_compilation")
HEADER = "split,part,template,identity,file"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Three identities with four equal images each."""
    folder = tmp_path_factory.mktemp("faces")
    for number in range(12):
        face = picture(16, 16, number // 4)
        path = folder / f"{number // 4}_{number % 4}.png"
        path.write_bytes(encoded(".png", face))
    return folder


def rows():
    """Two splits: per identity a gallery template of one image, a probe of two."""
    for split in (1, 2):
        for identity in range(3):
            for part, images in (("gallery", (0,)), ("probe", (split, 3))):
                for image in images:
                    file = f"{identity}_{image}.png"
                    yield f"{split},{part},{part}{identity},p{identity},{file}"


def network(tmp_path_factory, name, kind, **options):
    spec = InputSpec(size=16)
    variables = random_variables(models.create(name, **options), spec)
    path = tmp_path_factory.mktemp("network") / "e"
    Embedder(Network(name, options, variables, spec, kind)).save(path)
    return path


@pytest.fixture(scope="module")
def generator(tmp_path_factory, quick_compilation):
    options = {"width": 0.0625, "size": 16, "decoder_seed": 1, "noise": 3, "poses": 2}
    return network(tmp_path_factory, "dr_gan_generator", "generator", **options)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory, quick_compilation):
    options = {"width": 0.125, "embedding_size": 8, "stage_sizes": [1, 1]}
    return network(tmp_path_factory, "iresnet18", "embedding", **options)


@pytest.mark.parametrize(
    ("kind", "ways"), [("generator", ("avg", "fuse")), ("embedder", ("avg",))]
)
def test_templates_are_evaluated_over_splits(
    command, request, faces, tmp_path, kind, ways
):
    table = tmp_path / "splits.csv"
    table.write_text("\n".join([HEADER, *rows()]))
    words = ("--embedder", request.getfixturevalue(kind), "--to", tmp_path / "to")
    code, out, error = command("templates", table, "--root", faces, *words)
    assert code == 0, error
    assert "2 splits, 12 images" in out
    results = json.loads((tmp_path / "to/results.json").read_text())
    results.pop("notes", None)
    assert results.pop("templates/resampled_identities") == 3
    assert results.pop("templates/resamples") > 0
    assert {name.rpartition(":")[2] for name in results} == set(ways)
    for way in ways:
        assert results[f"templates/auc:{way}"] == 1
        assert results[f"templates/auc_low:{way}"] == 1
        assert results[f"templates/rank1:{way}"] == 1
        assert results[f"templates/tar@far=1e-3:{way}"] == 1
        assert results[f"templates/rank5_std:{way}"] == 0


def test_stored_embeddings_give_the_same_rates(command, embedder, faces, tmp_path):
    table = tmp_path / "splits.csv"
    table.write_text("\n".join([HEADER, *rows()]))
    file = tmp_path / "faces.npz"
    code, _, error = command("embed", faces, "--embedder", embedder, "--to", file)
    assert code == 0, error
    results = []
    sources = ("--embedder", embedder, "--root", faces), ("--embeddings", file)
    for number, words in enumerate(sources):
        to = tmp_path / f"to{number}"
        code, _, error = command("templates", table, *words, "--to", to)
        assert code == 0, error
        results.append(json.loads((to / "results.json").read_text()))
    assert results[0].pop("notes") == results[1].pop("notes")
    assert results[0] == pytest.approx(results[1], abs=1e-6)


@pytest.mark.parametrize("kind", ["generator", "embedder"])
def test_images_of_any_size_need_a_flag(command, mistake, request, tmp_path, kind):
    for row in rows():
        image = encoded(".png", picture(20, 20, int(row[-7])))
        (tmp_path / row.rpartition(",")[2]).write_bytes(image)
    table = tmp_path / "splits.csv"
    table.write_text("\n".join([HEADER, *rows()]))
    network = request.getfixturevalue(kind)
    words = ("templates", table, "--embedder", network, "--to", tmp_path / "to")
    mistake("20x20 pixels, not an aligned face of 112x112", *words)
    code, _, error = command(*words, "--unaligned")
    assert code == 0, error


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([HEADER, "1,query,t,a,0_0.png"], "part 'query' is not gallery or probe"),
        ([HEADER, "1,probe,t,,0_0.png"], "line 2: an empty cell"),
        ([HEADER, "1,probe,t,a,0_0.png"], "split '1' has no gallery templates"),
        (
            [HEADER, "1,probe,t,a,0_0.png", "1,probe,t,b,0_1.png"],
            "template 't' is 'a''s probe",
        ),
        (
            [HEADER, "1,probe,t,a,no.png", "1,gallery,u,a,0_0.png"],
            "no such image",
        ),
        ([HEADER], "names no image"),
        (["file"], "no column 'split'"),
        (None, "no such table"),
    ],
    ids=[
        "part",
        "empty cell",
        "no gallery",
        "two identities",
        "missing image",
        "no rows",
        "columns",
        "no table",
    ],
)
def test_invalid_table_is_refused(mistake, embedder, faces, tmp_path, lines, match):
    table = tmp_path / "splits.csv"
    if lines is not None:
        table.write_text("\n".join(lines))
    words = ("--root", faces, "--embedder", embedder, "--to", tmp_path / "to")
    mistake(match, "templates", table, *words)
    assert not (tmp_path / "to").exists()
