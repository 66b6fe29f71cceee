"""Verification sets in the form of flags: NAME=PATH[,OPTION=VALUE...]."""

import pickle

import pytest

from data_pipelines import DataError
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from tests.support.faces import encoded, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pairs in a .bin, and twenty with one truncated line in a list."""
    folder = tmp_path_factory.mktemp("sets")
    images = [encoded(image=picture(32, 32, n)) for n in range(40)]
    (folder / "toy.bin").write_bytes(pickle.dumps((images, [True, False] * 10)))
    for number, image in enumerate(images):
        (folder / f"{number}.jpg").write_bytes(image)
    lines = [f"{n % 2} {2 * n}.jpg {2 * n + 1}.jpg" for n in range(20)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    (folder / "junk.bin").write_bytes(b"junk")
    return folder


@pytest.mark.parametrize(
    ("text", "protocol", "folds"),
    [
        ("toy={}/toy.bin", "insightface", True),
        ("toy={}/toy.bin,protocol=paper", "paper", True),
        ("toy={0}/list.txt,root={0}", "kfold", False),
        ("toy={0}/list.txt,root={0},protocol=insightface", "insightface", False),
    ],
    ids=["bin", "bin, paper", "list", "list, insightface"],
)
def test_default_protocol_depends_on_the_kind_of_set(folder, text, protocol, folds):
    toy = sets.parse(text.format(folder))
    assert (toy.name, toy.protocol) == ("toy", protocol)
    assert (toy.folds is not None) == folds
    assert toy.pairs.shape == (20, 2)
    assert toy.images[:].shape == (40, 32, 32, 3)


def test_number_of_truncated_lines_is_printed(folder, tmp_path, capsys):
    lines = (folder / "list.txt").read_text().splitlines()
    lines = [line.replace(".jpg", ".png") for line in lines] + ["1 2.pn"]
    (tmp_path / "lag.txt").write_text("\n".join(lines) + "\n")
    for path in folder.glob("*.jpg"):
        image = encoded(".png", picture(32, 32, int(path.stem)))
        (tmp_path / f"{path.stem}.png").write_bytes(image)
    lag = sets.parse(f"lag={tmp_path}/lag.txt,root={tmp_path}")
    assert len(lag.same) == 20
    assert capsys.readouterr().err == "lag: skipped 1 truncated lines\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lfw.bin", r"--set lfw.bin: expected NAME=PATH\[,root=...\]\[,protocol=...\]"),
        ("=lfw.bin", "expected NAME=PATH"),
        ("lfw=", "expected NAME=PATH"),
        ("lfw=nowhere.bin", "no such file"),
        ("lfw=nowhere.txt", "no such verification set"),
        ("lfw=x.bin,protocl=paper", "did you mean 'protocol'"),
        ("lfw=x.bin,protocol=kfolds", "did you mean 'kfold'"),
        ("lfw={}/junk.bin", "junk.bin: byte"),
        ("lfw={}/list.txt", "give their folder"),
        ("lfw={}/list.txt,root={}/..", "40 of 40 images are not below"),
    ],
)
def test_invalid_set_raises_a_one_line_error(folder, text, match):
    with pytest.raises((UserError, DataError), match=match) as caught:
        sets.parse(text.replace("{}", str(folder)))
    assert len(str(caught.value).splitlines()) == 1
