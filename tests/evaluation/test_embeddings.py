"""Files of embeddings: written by `fr-jax embed`, read, and refused when damaged."""

import io

import numpy as np
import pytest

from fr_jax.cli.embed import _write_parquet
from fr_jax.errors import UserError
from fr_jax.evaluation import embeddings


def arrays(**changes):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return {
        "names": np.array(["a/1.png", "a/2.jpg", "b/1.jpg", "b/1.png"]),
        "identities": np.array(["a", "a", "b", ""]),
        "embeddings": rows.astype(np.float32),
        "norms": np.array([1, 2, 3, 4], np.float32),
        "about": np.array('{"flip": true, "provenance": {"steps": 5}}'),
    } | changes


def write(path, **changes):
    contents = {name: x for name, x in arrays(**changes).items() if x is not None}
    np.savez(path, allow_pickle=True, **contents)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_is_read_as_it_was_written(tmp_path, suffix):
    path = tmp_path / f"faces{suffix}"
    if suffix == ".npz":
        write(path)
    else:
        pytest.importorskip("pyarrow")
        contents = arrays()
        with path.open("wb") as file:
            _write_parquet(file, contents, str(contents.pop("about")))
    stored = embeddings.load(path)
    for name in ("names", "identities", "embeddings", "norms"):
        np.testing.assert_array_equal(getattr(stored.columns, name), arrays()[name])
    assert stored.flip is True
    assert stored.provenance == {"steps": 5}
    assert stored.describe() == {"provenance": {"steps": 5}}


def test_names_find_rows_with_any_suffix(tmp_path):
    stored = embeddings.load(write(tmp_path / "faces.npz"))
    names = ["a/2.png", "a/1.png", "b/1.png", "b/1.bmp", "c/1.png"]
    assert stored.find(names).tolist() == [1, 0, 3, -1, -1]  # b/1.bmp could be either
    with pytest.raises(UserError, match=r"1 of 2 images .* such as 'c/1.png'; names"):
        stored.select(["a/1.png", "c/1.png"])
    chosen = stored.select(["b/1.jpg", "a/2.jpg", "a/1.png"])
    raw = stored.embed_raw(chosen[1:], flip=True)
    expected = arrays()["embeddings"][[1, 0]] * [[2], [1]]
    np.testing.assert_allclose(raw["embedding"], expected, rtol=1e-6)
    assert list(raw) == ["embedding"]
    with pytest.raises(UserError, match="was made with --flip, the protocol takes no"):
        stored.embed_raw(chosen)
    with pytest.raises(UserError, match="this set has images without names"):
        stored.embed_raw(np.zeros((1, 112, 112, 3), np.uint8), flip=True)
    unknown = embeddings.load(write(tmp_path / "other.npz", about=None))
    assert unknown.flip is None
    assert unknown.embed_raw(chosen)["embedding"].shape == (3, 3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"norms": None}, "no array 'norms'; it has names, identities"),
        ({"norms": np.ones(3, np.float32)}, "4 embeddings, 3 norms; all must be equal"),
        ({"norms": np.zeros(4, np.float32)}, "4 of 4 norms are no lengths, such as a/"),
        ({"norms": np.ones(4, int)}, "norms are int64, not floating-point"),
        ({"names": np.arange(4)}, r"names are int64 \(4,\), not text"),
        ({"names": np.array([{}] * 4, object)}, "damaged file of embeddings"),
        (
            {"embeddings": np.ones((4, 3), np.float32)},
            "4 of 4 embeddings are not of un",
        ),
        ({"embeddings": np.full((4, 3), np.nan, np.float32)}, "4 of 4 embeddings are"),
        ({"embeddings": np.ones(4, np.float32)}, r"have the shapes \(4,\)"),
        ({"about": np.array("[1]")}, "'about' is no JSON object"),
        ({"about": np.array("{")}, "'about' is no JSON object"),
    ],
)
def test_a_file_that_is_not_as_written_is_refused(tmp_path, changes, match):
    path = write(tmp_path / "faces.npz", **changes)
    with pytest.raises(UserError, match=match) as caught:
        embeddings.load(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("length", [0, 10, 300, 900])
def test_a_truncated_file_is_refused(tmp_path, length):
    buffer = io.BytesIO()
    write(buffer)
    (tmp_path / "faces.npz").write_bytes(buffer.getvalue()[:length])
    with pytest.raises(UserError, match="damaged file of embeddings"):
        embeddings.load(tmp_path / "faces.npz")


def test_other_files_are_refused(tmp_path):
    for name, match in (("a.csv", "must end in .npz or"), ("a.npz", "no such file")):
        with pytest.raises(UserError, match=match):
            embeddings.load(tmp_path / name)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 junk")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="damaged file of embeddings"):
        embeddings.load(tmp_path / "a.parquet")
